"""Fewer feature maps that keep distances: maps are mixed by a circulant matrix, and those without energy go."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.channels.gates import channels_behind
from featherweight.channels.slices import Slices, makes, owner, reads, single, slices
from featherweight.core.compressed import Compressed
from featherweight.core.edit import Edit
from featherweight.core.errors import SchemeError, SelectionError, TaskError
from featherweight.core.stage import EditRule
from featherweight.core.task import Task, calibration_batches, call, evaluating
from featherweight.graph.cut import Cut
from featherweight.graph.edits import kept_by, removal, walk
from featherweight.graph.labels import Labels
from featherweight.metrics.hessian import known
from featherweight.metrics.responses import input_rows
from featherweight.search.channels import columns_of
from featherweight.solvers.channels import damped

RIDGE = 1e-4
"""The share of its mean that is added to the diagonal of the moment that readers are fitted with."""


@dataclass(frozen=True)
class CompactMaps(EditRule):
    """Mix the maps ``y`` that a layer makes to ``z = P y``, and cut the ``share`` of them with the least energy.

    ``P`` is circulant and orthogonal, so that all distances ``‖y_a − y_b‖`` stay; those of the maps that are left fall
    short by twice the variance of those that go, on average over pairs. ``P`` maximises what is left: see
    :func:`concentrated`. The filters that give ``z`` directly are ``P W``, with the bias ``P b``, so that the network
    only becomes smaller. What reads the maps gets the least-squares values ``argmin_V E ‖(w x − V x')‖²``, of what it
    was given before, ``x``, and of what is left of it now, ``x'``: both behind whatever non-linearity there is.

    After Wang, Xu, Xu and Tao 2017 (PMLR 70, pages 3703 to 3711). Layers go front to back, each as those before have
    left it; of those that a pattern matches, these are left out whose maps pass a norm or a depthwise convolution, are
    made by several layers, or are read by others than linear layers and convolutions of one group. Without
    ``circulant`` ``P`` is the identity: the same with selection alone.
    """

    share: float
    patterns: tuple[str, ...] = ("*",)
    circulant: bool = True
    batches: int = 4
    steps: int = 150
    starts: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.batches < 1 or self.starts < 1 or self.steps < 0:
            raise SchemeError(f"{self}: give a share between 0 and 1, and 1 batch and 1 start or more")

    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        walked = walk(student.base, task.example())
        _, dead = self._compacted(student, walked.labels, task)
        if not dead:
            raise SelectionError(
                f"no layer of {', '.join(self.patterns)} makes maps that can be mixed: they pass norms, are made by "
                "several layers, or are read in groups; name others"
            )
        return removal(walked, dead, student.base, task.example())

    def values(self, student: Compressed, edits: Sequence[Edit], task: Task) -> Mapping[str, Tensor]:
        cut = Cut(kept_by(edits))
        whole, _ = self._compacted(student, walk(student.base, task.example()).labels, task)
        changed = [name for name in student.names if not torch.equal(whole.weight(name), student.weight(name))]
        return {name: cut.slice(name, whole.weight(name).detach()) for name in changed}

    @torch.no_grad()
    def _compacted(self, student: Compressed, labels: Labels, task: Task) -> tuple[Compressed, list[int]]:
        """The student with mixed filters and fitted readers, in the shapes that it has, and the labels that go."""
        whole, dead = Compressed(student.base).eval(), list[int]()
        for group, maker, readers in _mixable(student, labels, self.patterns):
            count = round(self.share * len(group))
            if count in (0, len(group)):
                continue
            spread = covariance(whole, maker, task, self.batches)
            mixing = (
                concentrated(spread, len(group) - count, self) if self.circulant else torch.eye(len(group)).double()
            )
            gone = (mixing @ spread @ mixing.T).diagonal().argsort()[:count]
            before = Compressed(whole.base).eval()
            _mix(whole, maker, mixing)
            for part in readers:
                at = part.square(len(group))
                assert at is not None
                fit_reader(whole, before, part.name, at[gone].flatten().tolist(), task, self.batches)
            dead += [group[at] for at in gone.tolist()]
        return whole, dead


def _mixable(
    student: Compressed, labels: Labels, patterns: Sequence[str]
) -> Iterator[tuple[list[int], str, list[Slices]]]:
    """Groups of labels, each with the weight that makes them in their order and those that read them."""
    for group in labels.groups():
        parts = slices(labels, group)
        makers = [each for each in parts if makes(student, each)]
        readers = [each for each in parts if reads(student, each)]
        biases = [each for each in parts if makers and each.name == f"{makers[0].name.rpartition('.')[0]}.bias"]
        if len(makers) != 1 or not readers or len(parts) != 1 + len(readers) + len(biases):
            continue
        maker = makers[0]
        all_known = all(single(student, e.name) and known(owner(student, e.name), e.name) for e in (maker, *readers))
        whole = torch.equal(maker.indices[maker.numbers.argsort()], torch.arange(len(group)))
        if (
            all_known
            and whole
            and len(student.parameter(maker.name)) == len(group)
            and all(each.square(len(group)) is not None for each in readers)
            and any(fnmatchcase(maker.name, pattern) for pattern in patterns)
        ):
            yield group, maker.name, readers


def covariance(student: Compressed, name: str, task: Task, count: int) -> Tensor:
    """Of what the layer of this weight gives out, over samples and positions: [maps, maps], in float64."""
    rows = [torch.zeros(0, len(student.parameter(name)), dtype=torch.float64)]

    def note(module: nn.Module, args: tuple[Any, ...], y: Tensor) -> None:
        rows.append(channels_behind(module, y).flatten(0, -2).double().cpu())

    with owner(student, name).register_forward_hook(note), evaluating(student):
        for batch in calibration_batches(student, task, count):
            call(student, batch)
    seen = torch.cat(rows)
    if len(seen) < 2:
        raise TaskError(f"no calibration input reached the layer of {name}; give data that uses it")
    return torch.cov(seen.T).reshape(seen.shape[1], -1)


@torch.enable_grad()
def concentrated(spread: Tensor, kept: int, rule: CompactMaps) -> Tensor:
    """``argmax_P Σ of the kept largest of diag(P C Pᵀ)`` over circulant orthogonal ``P`` [d, d].

    ``P y`` is the circular convolution of ``y`` with ``c``, orthogonal where the transform of ``c`` has the magnitude 1
    everywhere: what is free are its phases, half as many as there are maps, and ``P C Pᵀ`` is one transform in two
    dimensions. Local ascents (Adam) from the identity and from drawn phases; the best is taken, which is never behind
    the identity.
    """
    size = len(spread)
    generator = torch.Generator(device="cpu").manual_seed(rule.seed)
    free = torch.ones(size // 2 + 1, dtype=torch.float64)
    free[0] = 0
    if size % 2 == 0:
        free[-1] = 0  # both are real
    transformed = torch.fft.fft2(spread)

    def gained(phases: Tensor) -> Tensor:
        spectrum = torch.fft.fft(_kernel(phases * free, size))
        mixed: Tensor = torch.fft.ifft2(spectrum[:, None] * spectrum * transformed).real
        return mixed.diagonal().topk(kept).values.sum()

    best = torch.zeros_like(free)
    for start in range(rule.starts):
        drawn = torch.randn(len(free), generator=generator, dtype=torch.float64)
        phases = (drawn * (torch.pi if start else 0.1)).requires_grad_()
        optimizer = torch.optim.Adam([phases], lr=0.05)
        for _ in range(rule.steps):
            optimizer.zero_grad()
            (-gained(phases) / spread.trace()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        best = max(best, phases.detach(), key=lambda each: float(gained(each)))
    return circulant(_kernel(best * free, size))


def _kernel(phases: Tensor, size: int) -> Tensor:
    """``c`` [size], whose transform has magnitude 1 and these phases."""
    found: Tensor = torch.fft.irfft(torch.polar(torch.ones_like(phases), phases), n=size)
    return found


def circulant(kernel: Tensor) -> Tensor:
    """``P_ik = c_(i − k mod d)``."""
    at = torch.arange(len(kernel))
    return kernel[(at[:, None] - at) % len(kernel)]


def _mix(student: Compressed, name: str, mixing: Tensor) -> None:
    """Filters, and their biases, that give out the mixed maps."""
    path = name.rpartition(".")[0]
    for each in (name, f"{path}.bias" if path else "bias"):
        if each in student.names:
            w = student.weight(each).detach().double()
            student.renew(each, (mixing.to(w.device) @ w.reshape(len(w), -1)).reshape(w.shape))


def fit_reader(student: Compressed, before: Compressed, name: str, gone: Sequence[int], task: Task, count: int) -> None:
    """Give the weight zeros in the columns ``gone``, and in the others ``argmin_V E ‖w x − V x'‖²``.

    ``x`` is what it is multiplied with in ``before``, ``x'`` in ``student``.
    """
    w = student.weight(name).detach()
    kept = columns_of(w, [at for at in range(w.shape[1]) if at not in set(gone)]).to(w.device)
    size = w[0].numel()
    gram, cross = (torch.zeros(size, size, dtype=torch.float64, device=w.device) for _ in range(2))
    rows = 0
    for batch in calibration_batches(student, task, count):
        x, y = (input_rows(each, owner(each, name), batch).double() for each in (before, student))
        gram += y.T @ y
        cross += x.T @ y
        rows += len(x)
    h = damped(gram / max(rows, 1), RIDGE)
    target = w.double().flatten(1) @ cross[:, kept] / max(rows, 1)
    solved = torch.linalg.solve(h[kept[:, None], kept], target.T).T
    after = torch.zeros_like(w).flatten(1)
    after[:, kept] = solved.to(w.dtype)
    student.renew(name, after.reshape(w.shape))
