"""Scores of channels that do not depend on which others go: curves of them, in units in which groups compare."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from featherweight.channels.slices import owner, slices
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, SelectionError
from featherweight.core.task import Task
from featherweight.graph.labels import Labels
from featherweight.search.channels import ChannelScore, Curve

Groups = list[list[int]]
"""Labels that are weighed against each other, group by group."""


class Normalisation(ABC):
    """How scores of different groups are made comparable."""

    def pools(self, student: Compressed, labels: Labels, groups: Groups) -> list[list[int]]:
        """Numbers of the groups that share one unit; each its own, unless a subclass says otherwise."""
        return [[number] for number in range(len(groups))]

    @abstractmethod
    def scale(self, scores: Tensor) -> Tensor:
        """The unit of a pool's scores, a scalar; they are divided by it."""

    def __call__(self, student: Compressed, labels: Labels, groups: Groups, scores: Sequence[Tensor]) -> list[Tensor]:
        found = list(scores)
        for pool in self.pools(student, labels, groups):
            unit = self.scale(torch.cat([scores[number] for number in pool]))
            for number in pool:
                found[number] = scores[number] / unit if bool(unit > 0) else scores[number]
        return found


@dataclass(frozen=True)
class AsTheyAre(Normalisation):
    """Scores in the units that they have."""

    def scale(self, scores: Tensor) -> Tensor:
        return scores.new_ones(())


@dataclass(frozen=True)
class ByMean(Normalisation):
    """``s / mean |s|`` of the group."""

    def scale(self, scores: Tensor) -> Tensor:
        return scores.abs().mean()


@dataclass(frozen=True)
class ByNorm(Normalisation):
    """``s / ‖s‖₂`` of the group (Molchanov et al. 2017, arXiv 1611.06440, section 2.2)."""

    def scale(self, scores: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(scores)
        return norm


@dataclass(frozen=True)
class Isomorphic(Normalisation):
    """Groups whose labels are carried by the same kinds of slices share a unit, that of ``within`` over all of them.

    Such groups compare as they are, others through their units (Fang et al. 2024, arXiv 2407.04616).
    """

    within: Normalisation = ByMean()

    def pools(self, student: Compressed, labels: Labels, groups: Groups) -> list[list[int]]:
        found: dict[object, list[int]] = {}
        for number, group in enumerate(groups):
            found.setdefault(signature(student, labels, group), []).append(number)
        return list(found.values())

    def scale(self, scores: Tensor) -> Tensor:
        return self.within.scale(scores)


def signature(student: Compressed, labels: Labels, group: Sequence[int]) -> tuple[tuple[str, str, int, int], ...]:
    """What carries a label of the group: kind of layer, tensor, dimension and number of slices, in sorted order."""
    found = []
    for each in slices(labels, group[:1]):
        kind = type(owner(student, each.name)).__name__
        found.append((kind, each.name.rpartition(".")[2], each.dim, len(each.indices)))
    return tuple(sorted(found))


@dataclass(frozen=True)
class LabelScore(ChannelScore):
    """A score for every label, whatever else goes: the error of removing several is the sum of theirs.

    Scores below 0, of channels whose loss would do good, count 0 once they are ordered.
    """

    normalisation: Normalisation = field(default=AsTheyAre(), kw_only=True)

    @abstractmethod
    def scores(self, student: Compressed, labels: Labels, groups: Groups, task: Task) -> list[Tensor | None]:
        """[labels] of every group; ``None`` for a group that the score does not know."""

    def curves(self, student: Compressed, labels: Labels, task: Task) -> list[Curve]:
        groups = labels.groups()
        found = list(zip(groups, self.scores(student, labels, groups, task), strict=True))
        known = [(group, scores.double().cpu()) for group, scores in found if scores is not None]
        weighed = self.normalisation(student, labels, [group for group, _ in known], [each for _, each in known])
        return [curve(group, scores) for (group, _), scores in zip(known, weighed, strict=True)]


def curve(group: Sequence[int], scores: Tensor) -> Curve:
    """The labels by rising score, and the running sum of what is above 0 of the scores."""
    if not bool(torch.isfinite(scores).all()):
        raise SchemeError("scores of channels are not finite: look for infinities and NaN in weights and data")
    order = scores.argsort(stable=True)
    errors = scores[order].clamp(min=0).cumsum(0).tolist()
    return Curve(tuple(group[at] for at in order.tolist()), (0.0, *errors))


@dataclass(frozen=True)
class Only(ChannelScore):
    """``score`` for the groups whose channels are first made by a tensor that a pattern matches; others have no curve.

    Papers that spare the shared channels of residual networks name the first convolutions of the blocks.
    """

    score: ChannelScore
    patterns: tuple[str, ...]

    def curves(self, student: Compressed, labels: Labels, task: Task) -> list[Curve]:
        chosen = {
            label: labels.free[label]
            for group in labels.groups()
            for label in group
            if any(fnmatchcase(labels.free[group[0]][0][0], pattern) for pattern in self.patterns)
        }
        if not chosen:
            known = ", ".join(labels.free[group[0]][0][0] for group in labels.groups()) or "none"
            raise SelectionError(f"no group of channels is made by {self.patterns}; they are made by {known}")
        return self.score.curves(student, Labels(chosen, labels.barriers), task)
