"""Cutting filters by the size of their weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from featherweight.core.compressed import Compressed
from featherweight.core.edit import Edit
from featherweight.core.errors import SelectionError
from featherweight.core.stage import EditRule
from featherweight.core.task import Task
from featherweight.graph.edits import removal, walk
from featherweight.graph.labels import Labels


@dataclass(frozen=True)
class CutFilters(EditRule):
    """Cut a ``share`` of each group of labels, those with the least sum of ``|w|`` over their output slices.

    Li et al. 2017, arXiv 1608.08710, section 3.1, with the sum over all layers that a label couples. At least
    ``least`` labels stay in a group.
    """

    share: float
    least: int = 1

    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        walked = walk(student.base, task.example())
        labels = walked.labels
        dead: list[int] = []
        for group in labels.groups():
            scores = torch.tensor([self._score(student, labels, label) for label in group])
            count = min(round(self.share * len(group)), len(group) - self.least)
            dead += [group[i] for i in scores.argsort(stable=True)[: max(count, 0)].tolist()]
        if not dead:
            barriers = "; ".join(labels.barriers) or "none"
            raise SelectionError(f"no channel can be cut at a share of {self.share} (operators in the way: {barriers})")
        return removal(walked, dead, student.base, task.example())

    def _score(self, student: Compressed, labels: Labels, label: int) -> float:
        total = 0.0
        for name, dim, index in labels.free[label]:
            if dim == 0 and name in student.names and student.parameter(name).ndim > 1:
                total += float(student.weight(name).detach().select(0, index).abs().sum())
        return total
