"""Scores of channels from weights alone, or from weights and a metric on them."""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from featherweight.channels.scores import Groups, LabelScore
from featherweight.channels.slices import Slices, is_weight, made_by, makes, owner, slices, summed, vectors
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.stage import MagnitudeRule, MetricRule
from featherweight.core.task import Task
from featherweight.graph.labels import Labels


class Carried(Enum):
    """Which slices of a label count."""

    MADE = "made"  # those that compute the channel: the filters
    ALL = "all"  # those that read it too

    def of(self, student: Compressed, labels: Labels, group: list[int]) -> list[Slices]:
        weights = [each for each in slices(labels, group) if is_weight(student, each.name)]
        return weights if self is Carried.ALL else [each for each in weights if makes(student, each)]


def weights(student: Compressed, parts: list[Slices]) -> dict[str, Tensor]:
    return {each.name: student.weight(each.name).detach() for each in parts}


@dataclass(frozen=True)
class Norm(LabelScore):
    """``(Σ |w|^p)^(1/p)`` over all entries of the slices that carry the label.

    ``p = 1`` over the filters is that of Li et al. (2017, arXiv 1608.08710, section 3.1), summed over all layers that a
    residual addition couples; over all slices, ``p = 2``, the group norm of Fang et al. (2023, arXiv 2301.12900).
    """

    p: float = 1.0
    carried: Carried = Carried.MADE

    def __post_init__(self) -> None:
        if not self.p > 0:
            raise SchemeError(f"a norm of order {self.p}; give one above 0")

    def scores(self, student: Compressed, labels: Labels, groups: Groups, task: Task) -> list[Tensor | None]:
        return [self._one(student, labels, group) for group in groups]

    def _one(self, student: Compressed, labels: Labels, group: list[int]) -> Tensor | None:
        parts = self.carried.of(student, labels, group)
        powers = {name: w.abs().double().pow(self.p) for name, w in weights(student, parts).items()}
        return summed(parts, powers, len(group)).pow(1 / self.p) if parts else None


@dataclass(frozen=True)
class GeometricMedian(LabelScore):
    """``Σ_k ‖w_j − w_k‖₂`` over the group's filters: least for the one nearest to their geometric median.

    A filter there can be had from the others (He et al. 2019, arXiv 1811.00250, equation 6).
    """

    def scores(self, student: Compressed, labels: Labels, groups: Groups, task: Task) -> list[Tensor | None]:
        return [self._one(student, labels, group) for group in groups]

    def _one(self, student: Compressed, labels: Labels, group: list[int]) -> Tensor | None:
        parts = made_by(student, labels, group)
        if not parts:
            return None
        rows = vectors(student, parts, len(group))
        return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


@dataclass(frozen=True)
class Random(LabelScore):
    """Numbers drawn evenly from 0 to 1: what any score has to beat."""

    seed: int = 0

    def scores(self, student: Compressed, labels: Labels, groups: Groups, task: Task) -> list[Tensor | None]:
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        return [torch.rand(len(group), generator=generator, dtype=torch.float64, device="cpu") for group in groups]


@dataclass(frozen=True)
class NormScale(LabelScore):
    """``Σ |γ|`` over the batch norms that the channel passes (Liu et al. 2017, arXiv 1708.06519, section 3).

    Groups that pass none have no curve.
    """

    def scores(self, student: Compressed, labels: Labels, groups: Groups, task: Task) -> list[Tensor | None]:
        return [self._one(student, labels, group) for group in groups]

    def _one(self, student: Compressed, labels: Labels, group: list[int]) -> Tensor | None:
        parts = [each for each in slices(labels, group) if _is_scale(student, each)]
        scales = {name: gamma.abs() for name, gamma in weights(student, parts).items()}
        return summed(parts, scales, len(group)) if parts else None


@dataclass(frozen=True)
class LargestScale(NormScale):
    """The largest ``|γ|`` of the batch norms that the channel passes.

    Channels that a residual addition couples live as long as one of them does (Gordon et al. 2018, arXiv 1711.06798,
    section 3.3 (memory)).
    """

    def _one(self, student: Compressed, labels: Labels, group: list[int]) -> Tensor | None:
        found: Tensor | None = None
        for each in (each for each in slices(labels, group) if _is_scale(student, each)):
            if found is None:
                found = torch.zeros(len(group), dtype=torch.float64)
            gamma = student.weight(each.name).detach().double().abs().cpu()
            found = found.scatter_reduce(0, each.numbers, gamma[each.indices], "amax")
        return found


def _is_scale(student: Compressed, each: Slices) -> bool:
    norm = isinstance(owner(student, each.name), nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    return norm and each.name.endswith("weight") and each.name in student.names


@dataclass(frozen=True)
class Saliency(LabelScore):
    """``½ Σ d w²`` over the slices, with ``d`` the diagonal of ``metric``: what zeroing them costs, entry by entry.

    With ``Curvature`` or ``BackpropagatedCurvature`` the diagonal of the Hessian, optimal brain damage for channels
    (LeCun, Denker and Solla 1990); with ``Fisher`` the form in parameters of Theis et al. (2018, arXiv 1801.05787);
    with the Euclidean metric half the squared L2 norm. Cross terms between the entries of a slice are dropped, which is
    not so in :class:`featherweight.channels.gates.GateFisher`.
    """

    metric: MetricRule = MagnitudeRule()
    carried: Carried = Carried.MADE

    def scores(self, student: Compressed, labels: Labels, groups: Groups, task: Task) -> list[Tensor | None]:
        parts = [self.carried.of(student, labels, group) for group in groups]
        names = list(dict.fromkeys(each.name for group in parts for each in group))
        rule = self.metric.begun(student, names, task)
        costs = {}
        for name, metric in rule.measure(student, names, task).items():
            w = student.weight(name).detach()
            diagonal = metric.weights(w)
            squares = w.double().square() / 2
            costs[name] = squares if diagonal is None else squares * diagonal.double()
        return [summed(each, costs, len(group)) if each else None for each, group in zip(parts, groups, strict=True)]
