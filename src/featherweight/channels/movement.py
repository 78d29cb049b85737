"""Scores of channels by how their weights move while they learn."""

from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor

from featherweight.channels.norms import Carried
from featherweight.channels.scores import Groups, LabelScore
from featherweight.channels.slices import summed
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.task import Task, calibration_batches, call, evaluating
from featherweight.graph.labels import Labels


@dataclass(frozen=True)
class Movement(LabelScore):
    """``−Σ_t w_t · ∂L/∂w_t`` over all entries of the slices: what moves away from zero stays.

    Over ``steps`` of plain gradient descent at ``lr`` on ``batches`` of the calibration data, of a copy that is thrown
    away (Sanh, Wolf and Rush 2020, arXiv 2005.07683, section 3, for entries; sums of them for structures, as Lagunas et
    al. 2021, arXiv 2109.04838). Norms keep their statistics.
    """

    steps: int = 20
    lr: float = 0.01
    batches: int = 4
    carried: Carried = Carried.MADE

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.lr > 0:
            raise SchemeError(f"{self.steps} steps at a rate of {self.lr}: give 1 step or more, and a rate above 0")

    def scores(self, student: Compressed, labels: Labels, groups: Groups, task: Task) -> list[Tensor | None]:
        moved = self.moved(student, task)
        parts = [self.carried.of(student, labels, group) for group in groups]
        return [
            self._offset(summed(each, moved, len(group))) if each else None
            for each, group in zip(parts, groups, strict=True)
        ]

    def _offset(self, scores: Tensor) -> Tensor:
        """From the least of the group on: scores are not of a loss, and those below 0 must not count alike."""
        return scores - scores.min()

    def moved(self, student: Compressed, task: Task) -> dict[str, Tensor]:
        """The score of every entry of every parameter."""
        if task.loss is None:
            raise TaskError(f"movement needs a loss, and task {task.name!r} has none; take a score of norms")
        leaves = {name: student.weight(name).detach().clone().requires_grad_() for name in student.names}
        total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        kept = list(calibration_batches(student, task, self.batches))
        with evaluating(student), torch.enable_grad():
            for batch in islice(cycle(kept), self.steps):
                outputs = call(lambda *a, **k: torch.func.functional_call(student.base, leaves, a, k), batch)
                loss = task.loss(outputs, batch)
                found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
                with torch.no_grad():
                    for (name, leaf), gradient in zip(leaves.items(), found, strict=True):
                        if gradient is not None:
                            total[name] -= leaf * gradient
                            leaf.sub_(self.lr * gradient)
        return total
