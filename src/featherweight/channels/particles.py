"""Sets of channels by an evolutionary particle filter."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.channels.gates import Gates
from featherweight.core.compressed import Compressed
from featherweight.core.edit import Edit
from featherweight.core.errors import SchemeError, SelectionError, TaskError
from featherweight.core.stage import EditRule
from featherweight.core.task import Task, calibration_batches, call, evaluating
from featherweight.graph.edits import removal, walk


@dataclass(frozen=True)
class ParticleCut(EditRule):
    """Cut a ``share`` of every group's channels: the set with which most calibration samples come out right.

    ``particles`` sets are drawn at random. In each of ``rounds`` they are drawn anew, each with a chance of the
    ``power`` of its share of right answers, and in each a share ``moved`` of the channels that go is exchanged for
    others; the best set that was seen is kept. No weights change. Anwar, Hwang and Sung 2017, arXiv 1512.08571,
    section 4.
    """

    share: float
    particles: int = 20
    rounds: int = 10
    moved: float = 0.1
    power: float = 8.0
    batches: int = 1
    least: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.particles < 2 or self.rounds < 0 or not 0 < self.moved <= 1:
            raise SchemeError(f"{self}: give shares between 0 and 1, 2 particles or more, and rounds")

    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        if not task.quality.counts:
            raise TaskError(f"particles are weighed by right answers, which task {task.name!r} does not count")
        walked = walk(student.base, task.example())
        groups = walked.labels.groups()
        gates = Gates(student, walked.labels, groups)
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        sizes = [
            0 if at is None else max(min(round(self.share * len(at)), len(at) - self.least), 0) for at in gates.numbers
        ]
        if not any(sizes):
            raise SelectionError(f"no channel can be cut at a share of {self.share}; ask for a larger one")
        closed = self._best(gates, sizes, task, generator)
        dead = [
            label
            for group, off in zip(groups, gates.split(closed), strict=True)
            for label, at in zip(group, [] if off is None else off.tolist(), strict=off is not None)
            if at
        ]
        return removal(walked, dead, student.base, task.example())

    def _best(self, gates: Gates, sizes: Sequence[int], task: Task, generator: torch.Generator) -> Tensor:
        """[gates]: whether each is closed."""
        particles = [self._drawn(gates, sizes, generator) for _ in range(self.particles)]
        best, highest = particles[0], -1.0
        for number in range(self.rounds + 1):
            right = torch.tensor([right_share(gates, task, ~each, self.batches) for each in particles])
            if float(right.max()) > highest:
                best, highest = particles[int(right.argmax())], float(right.max())
            if number < self.rounds:
                chances = right.pow(self.power) + 1e-12
                chosen = torch.multinomial(chances, self.particles, replacement=True, generator=generator).tolist()
                particles = [best, *(self._exchanged(gates, particles[at], generator) for at in chosen[1:])]
        return best

    def _drawn(self, gates: Gates, sizes: Sequence[int], generator: torch.Generator) -> Tensor:
        closed = torch.zeros(gates.count, dtype=torch.bool)
        for at, size in zip(gates.numbers, sizes, strict=True):
            if at is not None:
                closed[at[torch.randperm(len(at), generator=generator)[:size]]] = True
        return closed

    def _exchanged(self, gates: Gates, closed: Tensor, generator: torch.Generator) -> Tensor:
        after = closed.clone()
        for at in gates.numbers:
            if at is None or not bool(closed[at].any()):
                continue
            shut, open_ = at[closed[at]], at[~closed[at]]
            count = min(max(round(self.moved * len(shut)), 1), len(open_))
            after[shut[torch.randperm(len(shut), generator=generator)[:count]]] = False
            after[open_[torch.randperm(len(open_), generator=generator)[:count]]] = True
        return after


@torch.no_grad()
def right_share(gates: Gates, task: Task, open_: Tensor, count: int) -> float:
    """The share of calibration samples that come out right with these gates open, [gates]."""
    scores = []
    with evaluating(gates.student), gates.applied(open_.float()):
        for batch in calibration_batches(gates.student, task, count):
            scores.append(task.quality.score(call(gates.student, batch), batch))
    return float(torch.cat(scores).double().mean())
