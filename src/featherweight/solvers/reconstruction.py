"""Block reconstruction: the rounding of all layers of a block, learned together to the block's own output."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.activations.dropping import QuantizationDrop
from featherweight.core.code import Code
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError, naming
from featherweight.core.hooks import Seen
from featherweight.core.scheme import Scheme
from featherweight.core.site import block_of
from featherweight.core.stage import BlockProjector
from featherweight.core.tap import TapSite
from featherweight.core.task import Batch, Data, Task, call, evaluating, moved, order_for, tensors_of
from featherweight.metrics.hessian import probe
from featherweight.metrics.responses import batch_size
from featherweight.solvers.rounding import Annealing, Rounding
from featherweight.training.loop import seeded
from featherweight.training.mixing import Mixed


@dataclass(frozen=True)
class BlockReconstruction(BlockProjector):
    """``min_V E[Σ_i f_i (z_i − ẑ_i(V))²] / u + λ Σ 1 − |2h(V) − 1|^β`` over the roundings of all layers of a block.

    Li, Gong, Tan, Yang, Hu, Zhang, Yu, Wang and Gu (2021, arXiv 2102.05426, sections 3.2 to 3.4). ``z`` is what the
    block gives in the original model, ``ẑ`` what it gives with :class:`featherweight.solvers.rounding.Rounding` of its
    weights, for the inputs that it has behind the blocks that are coded already. ``f`` is, with ``fisher``, 1 plus the
    squared gradient of the loss in ``z_i`` over its mean, else 1: gradients are of ``log p(label)`` for labels that are
    drawn from the original's predictions, or of a random projection of its outputs, where the task counts no right
    answers. ``u`` is the mean of ``f z²`` over the channels' number, by which λ means the same in every block. Scales
    are the scheme's own, which must be uniform: else ``SchemeError``.

    With ``drop`` above 0, activations of the block are left as they are with that probability, entry by entry, and so
    is what quantization did to the block's inputs before (Wei, Gong, Li, Liu and Yu 2022, arXiv 2203.05740, section
    4.2): the stage must quantize activations, else ``SchemeError``.

    Blocks are those of :func:`block_of`; layers of one that runs more or less than once a batch raise ``SchemeError``.
    Adam takes ``steps`` of ``batch`` of the first ``samples`` samples, in whole calibration batches, at rate ``lr``.
    Where the block is then farther from ``z`` on all of them than with every weight rounded to nearest, that is
    returned.
    """

    blocks: tuple[str, ...] = ()
    steps: int = 800
    lr: float = 0.02
    annealing: Annealing = Annealing()
    fisher: bool = True
    drop: float = 0.0
    batch: int = 32
    samples: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lr <= 0 or self.batch < 1 or self.samples < 1 or not 0 <= self.drop <= 1:
            raise SchemeError(f"{self}: give one step and sample or more, a rate above 0 and a probability of 0 to 1")

    def groups(self, student: Compressed, names: Sequence[str]) -> list[list[str]]:
        together: dict[str, list[str]] = {}
        for name in names:
            together.setdefault(block_of(student.base, name, self.blocks), []).append(name)
        return list(together.values())

    def project(
        self, student: Compressed, original: Compressed, schemes: Mapping[str, Scheme], task: Task
    ) -> dict[str, Code]:
        path = block_of(student.base, next(iter(schemes)), self.blocks)
        weights = {name: student.source(name) for name in schemes}
        roundings: dict[str, Rounding] = {}
        for name, scheme in schemes.items():
            with naming(name):
                roundings[name] = Rounding(scheme.project(weights[name]), weights[name])
        block = _Block(student, path)
        if self.drop and not student.sites:
            raise SchemeError("no activation is quantized, so that nothing can be dropped; give the stage a tap rule")
        with seeded(self.seed, 0), evaluating(student), evaluating(original):
            samples = self._samples(student, original, path, task)
            nearest = {name: rounding.start for name, rounding in roundings.items()}
            before = block.error(nearest, samples)
            if before > 0:
                self._learn(block, roundings, samples)
            learned: dict[str, Code] = {name: rounding.hard() for name, rounding in roundings.items()}
            return learned if block.error(learned, samples) <= before else dict(nearest)

    def _learn(self, block: "_Block", roundings: Mapping[str, Rounding], samples: Sequence["Sample"]) -> None:
        optimizer = torch.optim.Adam([rounding.variables for rounding in roundings.values()], self.lr)
        unit = _unit(samples)
        mixed = _endless(Mixed(samples, self.batch))
        with block.dropping(self.drop), torch.enable_grad():
            for step in range(self.steps):
                sample = next(mixed)
                inputs = _mixed_inputs(sample, self.drop)
                soft = {name: rounding.soft() for name, rounding in roundings.items()}
                total = _error(block(soft, inputs), sample) / unit
                beta = self.annealing.beta(step / self.steps)
                if beta is not None:
                    penalties = [rounding.penalty(beta) for rounding in roundings.values()]
                    total = total + self.annealing.weight * torch.stack(penalties).sum()
                optimizer.zero_grad(set_to_none=True)
                total.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

    def _samples(self, student: Compressed, original: Compressed, path: str, task: Task) -> list["Sample"]:
        """What the block takes in in either model, what it should give, and how much each number of it counts."""
        samples: list[Sample] = []
        order = order_for(task, student.base, original.base)
        for batch in _few(task.calibration_data(), self.samples):
            there = order(moved(batch, student.device))
            ours = _inputs(student, path, there)
            theirs = _inputs(original, path, there) if self.drop else ours
            wanted, weights = _outputs(original, path, there, task if self.fisher else None)
            if not all(bool(torch.isfinite(x).all()) for x in (*wanted, *weights, *tensors_of(ours))):
                raise TaskError(f"what {path} takes in or gives is not finite; look for NaN in the calibration data")
            samples.append((ours, theirs, wanted, weights))
        if not samples:
            raise TaskError(f"task {task.name!r} has no calibration batch, so that no block can be reconstructed")
        return samples


def _few(data: Data, samples: int) -> Iterator[Batch]:
    """Batches until there are so many samples."""
    seen = 0
    for batch in data:
        yield batch
        seen += batch_size(batch)
        if seen >= samples:
            return


Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a block."""

Sample = tuple[Inputs, Inputs, list[Tensor], list[Tensor]]
"""The student's and the original's inputs of a block; the outputs that are wanted, and their weights."""


class _Block:
    """One module of a student, run by itself with given weights and with the student's activations quantized."""

    def __init__(self, student: Compressed, path: str) -> None:
        self.student, self.path = student, path
        self.module = student.base.get_submodule(path)
        self.taps = {
            place: function
            for place, function in student.sites.items()
            if place.call.module == path or place.call.module.startswith(path + ".")
        }

    def __call__(self, weights: Mapping[str, Tensor], inputs: Inputs) -> list[Tensor]:
        base = self.student.base
        args, kwargs = inputs
        if self.module is base:
            return tensors_of(torch.func.functional_call(base, dict(weights), args, kwargs))
        # Places of activations are counted from the root, so that the block must be run from there.
        vars(base)["forward"] = self.module
        try:
            return tensors_of(torch.func.functional_call(base, dict(weights), args, kwargs))
        finally:
            del vars(base)["forward"]

    @torch.no_grad()
    def error(self, codes: Mapping[str, Code], samples: Sequence[Sample]) -> float:
        """The weighed squared error over all samples, with nothing dropped."""
        weights = {name: code.decode() for name, code in codes.items()}
        return sum(float(_error(self(weights, sample[0]), sample)) for sample in samples)

    @contextmanager
    def dropping(self, share: float) -> Iterator[None]:
        """The block's activations are left unquantized at random within."""
        if not share:
            yield
            return
        random = {function: QuantizationDrop(function, share) for function in dict.fromkeys(self.taps.values())}
        self.student.tap([TapSite(place, random[function]) for place, function in self.taps.items()])
        try:
            yield
        finally:
            self.student.tap([TapSite(place, function) for place, function in self.taps.items()])


def _error(outputs: Sequence[Tensor], sample: Sample) -> Tensor:
    """``Σ f (z − ẑ)²``, summed over channels and averaged over all other dimensions."""
    _, _, wanted, weights = sample
    terms = [
        (f * (z - found).square()).mean() * _channels(z) for found, z, f in zip(outputs, wanted, weights, strict=True)
    ]
    return torch.stack(terms).sum()


def _unit(samples: Sequence[Sample]) -> float:
    """The mean of ``f z²`` of one number of the output."""
    pairs = [(z, f) for _, _, wanted, weights in samples for z, f in zip(wanted, weights, strict=True)]
    total = sum(float((f * z.square()).double().sum()) for z, f in pairs)
    return max(total / sum(z.numel() for z, _ in pairs), torch.finfo(torch.float32).tiny)


def _channels(z: Tensor) -> int:
    """The size of the dimension of channels: the second of images, else the last."""
    return z.shape[1] if z.ndim in (4, 5) else z.shape[-1]


def _mixed_inputs(sample: Sample, drop: float) -> Inputs:
    """The student's inputs, each number with probability ``drop`` the original's."""
    (ours, named), (theirs, _), _, _ = sample
    if not drop:
        return ours, named

    def one(x: Any, y: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        return torch.where(torch.rand_like(x) < drop, y, x)

    return tuple(one(x, y) for x, y in zip(ours, theirs, strict=True)), named


def _endless(mixed: Mixed) -> Iterator[Any]:
    while True:
        yield from mixed


@torch.no_grad()
def _inputs(model: Compressed, path: str, batch: Batch) -> Inputs:
    """What the block takes in; the model runs no further."""
    found: list[Inputs] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append((args, kwargs))
        raise Seen

    with model.base.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True), suppress(Seen):
        call(model, batch)
    if not found:
        raise SchemeError(f"no calibration input reaches {path}; leave it out, or give data that uses it")
    return found[0]


def _outputs(model: Compressed, path: str, batch: Batch, task: Task | None) -> tuple[list[Tensor], list[Tensor]]:
    """What the block gives, and what its numbers count: with ``task`` by squared gradients, else all the same."""
    found: list[list[Tensor]] = []

    def leaves(module: nn.Module, args: Any, outputs: Any) -> Any:
        fresh = _freed(outputs)
        found.append(tensors_of(fresh))
        return fresh

    hook = model.base.get_submodule(path).register_forward_hook(leaves)
    with hook, torch.set_grad_enabled(task is not None):
        outputs = call(model, batch)
        if len(found) != 1 or not found[0]:
            raise SchemeError(f"{path} runs {len(found)} times a batch and gives {sum(map(len, found))} tensors")
        gradients = None if task is None else _gradients(outputs, found[0], task)
    wanted = [z.detach() for z in found[0]]
    if gradients is None:
        return wanted, [torch.ones_like(z) for z in wanted]
    squares = [torch.zeros_like(z) if g is None else g.square() for z, g in zip(wanted, gradients, strict=True)]
    mean = sum(float(each.sum()) for each in squares) / sum(each.numel() for each in squares)
    return wanted, [1 + each / max(mean, torch.finfo(torch.float32).tiny) for each in squares]


def _gradients(outputs: Any, leaves: list[Tensor], task: Task) -> Sequence[Tensor | None]:
    scalar, _ = probe(outputs, task, task.quality.counts)
    return torch.autograd.grad(scalar, leaves, allow_unused=True)


def _freed(outputs: Any) -> Any:
    """The same outputs as leaves of a new graph."""
    match outputs:
        case Tensor() if outputs.is_floating_point():
            return outputs.detach().clone().requires_grad_(torch.is_grad_enabled())
        case dict():
            return {key: _freed(value) for key, value in outputs.items()}
        case tuple() | list():
            return type(outputs)(_freed(value) for value in outputs)
        case _:
            return outputs
