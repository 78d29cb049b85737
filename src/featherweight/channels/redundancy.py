"""Scores of channels by how well another one could stand in for them."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.channels.activations import moments
from featherweight.channels.slices import even, made_by, makes, read_by, slices, vectors
from featherweight.core.compressed import Compressed
from featherweight.core.task import Task
from featherweight.graph.labels import Labels
from featherweight.search.channels import ChannelScore, Curve


@dataclass(frozen=True, eq=False)
class Pairs:
    """What it costs to put channel ``i`` in place of channel ``j``, and what it takes, within a group.

    distance  [j, i], the cost for outgoing weights of size one; not negative
    factor    [j, i]: ``z_j ≈ factor · z_i + constant``
    constant  [j, i]
    """

    distance: Tensor
    factor: Tensor
    constant: Tensor


@dataclass(frozen=True)
class PairScore(ChannelScore):
    """Channels go one after another, each time the one that another of its group replaces at the least cost.

    The cost is the distance of the pair, times what the readers make of the channel where the score ``weighs`` that:
    the mean square of its outgoing weights, which grow with those that were added for channels that went before. The
    last channel of a group costs at least what any before it did. Groups that a layer other than a linear one or a
    convolution reads have no curve.
    """

    @property
    def weighs(self) -> bool:
        return False

    @abstractmethod
    def pairs(self, student: Compressed, labels: Labels, groups: list[list[int]], task: Task) -> list[Pairs | None]:
        """Of every group; ``None`` for one that the score does not know."""

    def curves(self, student: Compressed, labels: Labels, task: Task) -> list[Curve]:
        groups = labels.groups()
        found = []
        for group, pairs in zip(groups, self.pairs(student, labels, groups, task), strict=True):
            readers = read_by(student, labels, group)
            if pairs is not None and even(readers, len(group)):
                outgoing = vectors(student, readers, len(group))
                order, rises = replaced(pairs, outgoing, self.weighs)
                errors = torch.tensor([0.0, *rises], dtype=torch.float64).cumsum(0).tolist()
                found.append(Curve(tuple(group[at] for at in order), tuple(errors)))
        return found


def replaced(pairs: Pairs, outgoing: Tensor, weighs: bool) -> tuple[list[int], list[float]]:
    """The order in which channels are replaced, and the cost of each: ``outgoing`` is [labels, weights].

    Of a pair of equal costs the channel of the smaller outgoing weights goes.
    """
    out, alive = outgoing.clone(), torch.ones(len(outgoing), dtype=torch.bool)
    barred = torch.full_like(pairs.distance, 0.0).fill_diagonal_(torch.inf)
    order: list[int] = []
    rises: list[float] = []
    for _ in range(len(out) - 1):
        strength = out.square().mean(1)
        costs = (strength[:, None] * pairs.distance if weighs else pairs.distance) + barred
        least = costs.min(1).values
        nearest = float(least.min())
        j = int(strength.masked_fill(least > nearest, torch.inf).argmin())
        i = int(costs[j].argmin())
        order.append(j)
        rises.append(nearest)
        out[i] += pairs.factor[j, i] * out[j]
        alive[j] = False
        barred[j] = barred[:, j] = torch.inf
    return [*order, int(alive.nonzero()[0])], [*rises, max(rises, default=1.0)]


def incoming(student: Compressed, labels: Labels, group: Sequence[int]) -> Tensor | None:
    """[labels, entries]: all that makes the channels: filters, biases, and the numbers of norms behind them.

    ``None`` where that is not equally much for all of them.
    """
    state = [
        each
        for each in slices(labels, group)
        if makes(student, each) or (each.dim == 0 and (each.name not in student.names or _flat(student, each.name)))
    ]
    return vectors(student, state, len(group)) if even(state, len(group)) else None


def _flat(student: Compressed, name: str) -> bool:
    return student.parameter(name).ndim == 1


@dataclass(frozen=True)
class DataFree(PairScore):
    """``⟨a_j²⟩ ‖w_j − w_i‖²``, with ``a`` the outgoing weights: no data are needed.

    Srinivas and Babu 2015, arXiv 1507.06149, section 3. ``w`` is all that makes a channel, its bias included. With
    ``scaled`` channel ``i`` may be multiplied, ``z_j ≈ (‖w_j‖/‖w_i‖) z_i``, which rectifiers without norms let pass.
    """

    scaled: bool = False

    @property
    def weighs(self) -> bool:
        return True

    def pairs(self, student: Compressed, labels: Labels, groups: list[list[int]], task: Task) -> list[Pairs | None]:
        return [self._one(incoming(student, labels, group)) for group in groups]

    def _one(self, w: Tensor | None) -> Pairs | None:
        if w is None:
            return None
        size = w.norm(dim=1)
        factor = torch.ones(len(w), len(w), dtype=w.dtype)
        if self.scaled:
            factor = size[:, None] / size.clamp(min=1e-300)
            w = w / size.clamp(min=1e-300)[:, None]
        apart = torch.cdist(w, w, compute_mode="donot_use_mm_for_euclid_dist").square()
        distance = apart * size.square()[:, None] if self.scaled else apart
        return Pairs(distance, factor, torch.zeros_like(distance))


@dataclass(frozen=True)
class FilterCorrelation(PairScore):
    """``1 − |ρ|`` of the filters of a pair, as vectors: Pearson's correlation (Singh et al. 2020, arXiv 1811.10559).

    Channel ``i`` takes the place of ``j`` by the slope of the regression of filter ``j`` on ``i``.
    """

    def pairs(self, student: Compressed, labels: Labels, groups: list[list[int]], task: Task) -> list[Pairs | None]:
        found: list[Pairs | None] = []
        for group in groups:
            parts = made_by(student, labels, group)
            found.append(self._one(vectors(student, parts, len(group))) if even(parts, len(group)) else None)
        return found

    def _one(self, w: Tensor) -> Pairs:
        centred = w - w.mean(1, keepdim=True)
        products = centred @ centred.T
        square = products.diagonal().clamp(min=1e-300)
        rho = products / (square[:, None] * square).sqrt()
        return Pairs(1 - rho.abs().clamp(max=1), products / square, torch.zeros_like(rho))


@dataclass(frozen=True)
class ActivationCorrelation(PairScore):
    """``1 − ρ²`` of what is read of a pair: the share of a channel's variance that a line in the other leaves.

    ``z_j ≈ α z_i + β`` with the least-squares ``α = cov_ji / var_i`` and ``β = μ_j − α μ_i`` (Babaeizadeh, Smaragdis
    and Campbell 2016, arXiv 1611.06211, section 2). A channel that never changes is replaced by its mean, at no cost.
    """

    batches: int = 4

    def pairs(self, student: Compressed, labels: Labels, groups: list[list[int]], task: Task) -> list[Pairs | None]:
        found: list[Pairs | None] = []
        for seen in moments(student, labels, groups, task, self.batches):
            if seen is None:
                found.append(None)
                continue
            variance = seen.deviation.square()
            slope = torch.where(variance > 0, seen.covariance / variance.clamp(min=1e-300), 0.0)
            distance = torch.where(variance[:, None] > 0, 1 - seen.correlation.square(), 0.0)
            found.append(Pairs(distance, slope, seen.mean[:, None] - slope * seen.mean))
        return found
