"""What stands in for channels that go: constants, other channels, or the least squares of all that stay."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.channels.activations import Means, watch
from featherweight.channels.gates import Gates
from featherweight.channels.redundancy import DataFree, PairScore
from featherweight.channels.rules import StandIn, gone
from featherweight.channels.slices import Slices, owner, read_by, single
from featherweight.core.compressed import Compressed
from featherweight.core.hooks import hooked
from featherweight.core.metric import Full
from featherweight.core.task import Task, calibration_batches, call, evaluating
from featherweight.graph.cut import Cut
from featherweight.graph.labels import Labels
from featherweight.metrics.hessian import InputMoment, known
from featherweight.search.channels import columns_of
from featherweight.solvers.channels import damped, made_up


@dataclass(frozen=True, eq=False)
class Replacement:
    """``z_j ≈ Σ_i factors_ji z_i + constants_j`` of a group's channels: ``factors`` [labels, labels].

    Rows of channels that stay, and columns of those that go, mean nothing.
    """

    factors: Tensor
    constants: Tensor


@dataclass(frozen=True)
class Replacing(StandIn):
    """Every layer that reads a channel that goes gets its replacement instead, in its weight and as a constant.

    ``W_:i += Σ_j factors_ji W_:j`` over the channels ``j`` that go, and ``b += Σ_j constants_j Σ_k W_:jk`` over the
    entries ``k`` of a kernel: exact, but for constants at borders that a convolution pads with zeros. A layer without
    a bias puts the constant into the batch norm that follows it, as ``β += γ/σ · c``; without either it is lost.
    """

    @abstractmethod
    def replacements(
        self, student: Compressed, labels: Labels, groups: list[list[int]], dead: list[Tensor], task: Task
    ) -> list[Replacement | None]:
        """Of every group; ``dead`` [labels] says which of them go, at least one and never all."""

    def values(self, student: Compressed, labels: Labels, cut: Cut, task: Task) -> Mapping[str, Tensor]:
        groups = [group for group in labels.groups() if _some(gone(labels, group, cut))]
        dead = [gone(labels, group, cut) for group in groups]
        weights: dict[str, Tensor] = {}
        shifts: dict[str, Tensor] = {}
        found = self.replacements(student, labels, groups, dead, task)
        for group, off, each in zip(groups, dead, found, strict=True):
            for part in read_by(student, labels, group) if each is not None else ():
                assert each is not None
                before = student.weight(part.name).detach()
                after, shift = replaced(before, part, each, off)
                weights[part.name] = weights.get(part.name, before.double()) + (after - before.double())
                shifts[part.name] = shifts.get(part.name, torch.zeros_like(shift)) + shift
        biases = offsets(student, shifts, task) if any(bool((each != 0).any()) for each in shifts.values()) else {}
        return {
            name: cut.slice(name, value).to(student.parameter(name).dtype) for name, value in (weights | biases).items()
        }


def _some(off: Tensor) -> bool:
    return bool(off.any()) and not bool(off.all())


def replaced(w: Tensor, part: Slices, by: Replacement, dead: Tensor) -> tuple[Tensor, Tensor]:
    """The weight with its columns of channels that stay made up for, and the constant of each output, in float64."""
    after, kernels = w.double().clone(), w.double().flatten(2).sum(2) if w.ndim > 2 else w.double()
    constants = torch.zeros(w.shape[1], dtype=torch.float64)
    constants[part.indices] = (by.constants * dead)[part.numbers]
    at = part.square(len(dead))
    if at is not None:
        factors = (by.factors * dead[:, None])[:, ~dead].to(w.device)  # [labels, those that stay]
        columns = w.double()[:, at.to(w.device)]  # [rows, labels, k, ...]
        added = torch.einsum("rj...,ji->ri...", columns, factors)
        after[:, at[~dead].to(w.device)] += added
    return after, kernels @ constants.to(w.device)


@torch.no_grad()
def offsets(student: Compressed, shifts: Mapping[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Biases with which the layers of these weights give out that much more: their own, or those of norms behind."""
    found: dict[str, Tensor] = {}
    behind = norms_behind(student, list(shifts), task)
    for name, shift in shifts.items():
        layer, path = owner(student, name), name.rpartition(".")[0]
        if getattr(layer, "bias", None) is not None:
            bias, scale = f"{path}.bias" if path else "bias", torch.ones_like(shift)
        elif name in behind:
            bias, scale = behind[name]
        else:
            continue
        found[bias] = found.get(bias, student.parameter(bias).detach().double()) + scale * shift
    return found


def norms_behind(student: Compressed, names: Sequence[str], task: Task) -> dict[str, tuple[str, Tensor]]:
    """Weight -> the bias of the batch norm that takes in the very tensor that its layer gives, and ``γ/σ`` of it."""
    given: dict[int, tuple[str, Tensor]] = {}
    found: dict[str, tuple[str, Tensor]] = {}
    handles = []
    for name in names:

        def note(module: nn.Module, args: tuple[Any, ...], y: Tensor, name: str = name) -> None:
            given[id(y)] = (name, y)

        handles.append(owner(student, name).register_forward_hook(note))
    for path, module in student.base.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and module.bias is not None:

            def take(module: nn.Module, args: tuple[Any, ...], path: str = path) -> None:
                if id(args[0]) in given:
                    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
                    assert module.running_var is not None
                    scale = module.weight.detach().double() / (module.running_var.double() + module.eps).sqrt()
                    found[given[id(args[0])][0]] = (f"{path}.bias", scale)

            handles.append(module.register_forward_pre_hook(take))
    with hooked(handles), evaluating(student):
        for batch in calibration_batches(student, task, 1):
            call(student, batch)
    return found


@dataclass(frozen=True)
class Constants(Replacing):
    """Channels that go are replaced by the mean of what is read of them.

    For channels of a batch norm's scale 0, which always are ``f(β)``, that is exact: their constants move into the next
    biases (Ye et al. 2018, arXiv 1802.00124, section 4.3).
    """

    batches: int = 4

    def replacements(
        self, student: Compressed, labels: Labels, groups: list[list[int]], dead: list[Tensor], task: Task
    ) -> list[Replacement | None]:
        gates = Gates(student, labels, groups)
        if not gates.count:
            return [None for _ in groups]
        means = Means(gates, lambda x: x)
        watch(gates, task, self.batches, means.see)
        return [
            None if mean is None else Replacement(torch.zeros(len(mean), len(mean), dtype=torch.float64), mean)
            for mean in gates.split(means.means())
        ]


@dataclass(frozen=True)
class Nearest(Replacing):
    """Each channel that goes is replaced by the one that stays at the least distance of ``score``'s pairs."""

    score: PairScore = DataFree()

    def replacements(
        self, student: Compressed, labels: Labels, groups: list[list[int]], dead: list[Tensor], task: Task
    ) -> list[Replacement | None]:
        found: list[Replacement | None] = []
        for pairs, off in zip(self.score.pairs(student, labels, groups, task), dead, strict=True):
            if pairs is None:
                found.append(None)
                continue
            nearest = pairs.distance.masked_fill(off, torch.inf).argmin(1)
            rows = torch.arange(len(off))
            factors = torch.zeros_like(pairs.factor)
            factors[rows, nearest] = pairs.factor[rows, nearest]
            found.append(Replacement(factors, pairs.constant[rows, nearest]))
        return found


@dataclass(frozen=True)
class LeastSquares(StandIn):
    """Layers that read what goes get the least-squares values of what stays: ``argmin_v E ‖(w − v) x‖²``.

    On the inputs of the student as it was before the cut (He, Zhang and Sun 2017, arXiv 1707.06168, equation 5). Layers
    of several groups, and those whose inputs are not known, keep their values.
    """

    batches: int = 4

    def values(self, student: Compressed, labels: Labels, cut: Cut, task: Task) -> Mapping[str, Tensor]:
        found = {}
        for name in cut.kept:
            if _solvable(student, name, cut):
                w = student.weight(name).detach()
                kept = columns_of(w, cut.kept[name][1])
                whole = torch.zeros_like(w).flatten(1)
                whole[:, kept] = self.solved(w, moment(student, name, self.batches, task), kept)
                found[name] = cut.slice(name, whole.reshape(w.shape))
        return found

    def solved(self, w: Tensor, hessian: Tensor, kept: Tensor) -> Tensor:
        """The columns ``kept`` of the new weight, flattened to [rows, columns]."""
        return made_up(w, hessian, kept)


@dataclass(frozen=True)
class Rescaled(LeastSquares):
    """One factor for each input that stays, by least squares: ``argmin_β E ‖w x − Σ_i β_i w_:i x_i‖²``.

    Luo, Wu and Lin 2017, arXiv 1707.06342, section 3.2.3. The factors go into the weight.
    """

    def solved(self, w: Tensor, hessian: Tensor, kept: Tensor) -> Tensor:
        inner = w[0, 0].numel()
        matrix = w.double().flatten(1)
        entries = hessian.double() * (matrix.T @ matrix)
        channels = w.shape[1]
        gram = entries.reshape(channels, inner, channels, inner).sum((1, 3))
        at = kept.reshape(-1, inner)[:, 0] // inner
        solved: Tensor = torch.linalg.solve(damped(gram, 1e-6)[at][:, at], gram[at].sum(1))
        scaled: Tensor = (matrix[:, kept] * solved.repeat_interleave(inner)).to(w.dtype)
        return scaled


def _solvable(student: Compressed, name: str, cut: Cut) -> bool:
    if name not in student.names or 1 not in cut.kept[name] or student.parameter(name).ndim < 2:
        return False
    return single(student, name) and known(owner(student, name), name)


def moment(student: Compressed, name: str, count: int, task: Task) -> Tensor:
    """``E[x xᵀ]`` of a layer of one group."""
    metric = InputMoment(batches=count).measure(student, [name], task)[name]
    assert isinstance(metric, Full)
    return metric.hessian
