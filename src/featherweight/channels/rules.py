"""Edit rules: a share of every group, and what stands in for what goes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from featherweight.channels.scores import signature
from featherweight.core.compressed import Compressed
from featherweight.core.edit import Edit
from featherweight.core.errors import SchemeError, SelectionError
from featherweight.core.stage import EditRule
from featherweight.core.task import Task
from featherweight.graph.cut import Cut
from featherweight.graph.edits import kept_by, removal, walk
from featherweight.graph.labels import Labels
from featherweight.search.channels import ChannelScore, Curve


class Pool(Enum):
    """Which channels a share is taken of."""

    GROUP = "group"  # each group's alone: the same share of every layer
    ISOMORPHIC = "isomorphic"  # those of all groups that are carried by the same kinds of slices
    ALL = "all"  # all channels of the model


@dataclass(frozen=True)
class CutShare(EditRule):
    """Cut a ``share`` of the channels of every pool, those whose loss raises the error least.

    Within a group they go in the order of the score's curve. At least ``least`` stay in a group.
    """

    share: float
    score: ChannelScore
    pool: Pool = Pool.GROUP
    least: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.least < 1:
            raise SchemeError(f"{self}: give a share between 0 and 1, and a least number from 1 on")

    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        walked = walk(student.base, task.example())
        curves = self.score.curves(student, walked.labels, task)
        dead = [
            label
            for pool in self._pools(student, walked.labels, curves)
            for label in first(pool, self.share, self.least)
        ]
        if not dead:
            barriers = "; ".join(walked.labels.barriers) or "none"
            raise SelectionError(f"no channel can be cut at a share of {self.share} (operators in the way: {barriers})")
        return removal(walked, dead, student.base, task.example())

    def _pools(self, student: Compressed, labels: Labels, curves: Sequence[Curve]) -> list[list[Curve]]:
        found: dict[object, list[Curve]] = {}
        for number, curve in enumerate(curves):
            match self.pool:
                case Pool.GROUP:
                    key: object = number
                case Pool.ISOMORPHIC:
                    key = signature(student, labels, curve.labels)
                case Pool.ALL:
                    key = None
            found.setdefault(key, []).append(curve)
        return list(found.values())


def first(curves: Sequence[Curve], share: float, least: int) -> list[int]:
    """The ``share`` of all labels of these curves that raises the errors least, each curve's from its beginning.

    A label that comes after one of a greater rise counts as that.
    """
    rises = []
    for number, curve in enumerate(curves):
        highest = 0.0
        for at in range(len(curve.labels) - least):
            highest = max(highest, curve.errors[at + 1] - curve.errors[at])
            rises.append((highest, number, at))
    count = round(share * sum(len(curve.labels) for curve in curves))
    return [curves[number].labels[at] for _, number, at in sorted(rises)[:count]]


class StandIn(ABC):
    """What makes up for channels that go."""

    @abstractmethod
    def values(self, student: Compressed, labels: Labels, cut: Cut, task: Task) -> Mapping[str, Tensor]:
        """New values of parameters, in the shapes that the cut leaves."""


@dataclass(frozen=True)
class MadeUp(EditRule):
    """The edits of ``rule``, after which ``by`` makes up for what has gone."""

    rule: EditRule
    by: StandIn

    @property
    def required(self) -> bool:
        return self.rule.required

    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        return self.rule.decide(student, task)

    @torch.no_grad()
    def values(self, student: Compressed, edits: Sequence[Edit], task: Task) -> Mapping[str, Tensor]:
        edit = Cut(kept_by(edits))
        if not edit.kept:
            return {}
        return self.by.values(student, walk(student.base, task.example()).labels, edit, task)


def gone(labels: Labels, group: Sequence[int], cut: Cut) -> Tensor:
    """[labels]: whether the cut takes each label of the group away."""

    def cut_off(label: int) -> bool:
        name, dim, index = labels.free[label][0]
        kept = cut.kept.get(name, {}).get(dim)
        return kept is not None and index not in kept

    return torch.tensor([cut_off(label) for label in group])
