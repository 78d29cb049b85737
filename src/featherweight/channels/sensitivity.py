"""How much the outputs mind that groups of channels are narrowed, measured: one group alone, or all together."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.task import Task, calibration_batches, call, tensors_of
from featherweight.graph.cut import masked, tensors
from featherweight.graph.fold import own_norm
from featherweight.graph.labels import Labels
from featherweight.metrics.hessian import InputMoment
from featherweight.search.channels import (
    ChannelScore,
    Curve,
    Move,
    Narrow,
    Narrowing,
    Surgeon,
    Tradeoff,
    reading,
    refilled,
    whole,
)

LOST = 1e300
"""The error of outputs that are no numbers: finite, so that errors can be compared and lie on a line."""


class Masking:
    """``‖g(x) − f(x)‖² / ‖f(x)‖²`` of outputs, where ``g`` is the model ``f`` with labels masked.

    Weights that read a narrowed group get the least-squares values of what stays, by the moment of their inputs in
    ``f``, and batch norms normalise each batch by itself, as if they were set anew. ``count`` calibration batches.
    """

    def __init__(self, student: Compressed, labels: Labels, curves: Sequence[Curve], task: Task, count: int) -> None:
        self.student, self.labels, self.curves = student, labels, curves
        self.data = list(calibration_batches(student, task, count))
        readers = [reading(labels, curve.labels, student) for curve in curves]
        names = list(dict.fromkeys(name for each in readers for name in each))
        rule = InputMoment(batches=count, required=False, transposed=True).begun(student, names, task)
        found = rule.measure(student, names, task)
        self.moments = {name: metric.hessian for name, metric in whole(found).items()}
        self.readers = [{name: at for name, at in each.items() if name in self.moments} for each in readers]
        # Searches change few groups at a time, back and forth: a weight's last values are kept.
        self.refilled = lru_cache(maxsize=4 * len(names))(self._refilled)
        self.wanted = self._outputs(copy.deepcopy(student.base))
        self.size = sum(float(r.square().sum()) for r in self.wanted)

    @torch.no_grad()
    def error(self, gone: Sequence[int]) -> float:
        """With the first ``gone[k]`` labels of curve ``k`` masked, for every curve; ``LOST`` at most."""
        model = copy.deepcopy(self.student.base)
        state = tensors(model)
        for at, (number, curve) in enumerate(zip(gone, self.curves, strict=True)):
            for name in self.readers[at] if 0 < number < len(curve.labels) else ():
                state[name].copy_(self.refilled(at, name, number))
            masked(self.labels, curve.labels[:number], model)
        pairs = zip(self._outputs(model), self.wanted, strict=True)
        error = sum(float((y - r).square().sum()) for y, r in pairs) / max(self.size, 1e-300)
        return error if error < LOST else LOST

    def _refilled(self, at: int, name: str, gone: int) -> Tensor:
        kept = self.readers[at][name][gone:].flatten().sort().values
        return refilled(self.student, name, self.moments[name], kept)

    @torch.no_grad()
    def _outputs(self, model: nn.Module) -> list[Tensor]:
        """Of a copy, whose norms are changed."""
        model.eval()
        for module in model.modules():
            norm = own_norm(module)
            if norm is not None:
                norm.train()
        return [each.double() for batch in self.data for each in tensors_of(call(model, batch))]


@dataclass(frozen=True)
class GroupSensitivity(ChannelScore):
    """The error of :class:`Masking` with the first labels of one group masked, and no others.

    The sensitivity of layers to pruning each of them alone (Li et al. 2017, arXiv 1608.08710, section 3.2), of whole
    groups. Labels go in the order of ``score``'s curves. Measured on ``batches`` calibration batches wherever a
    multiple of ``step`` labels stays; between these the curve is straight, and it never falls.
    """

    score: ChannelScore = Surgeon()
    step: int = 1
    batches: int = 4

    def __post_init__(self) -> None:
        if self.step < 1 or self.batches < 1:
            raise SchemeError(f"{self}: give a step and a number of batches from 1 on")

    def curves(self, student: Compressed, labels: Labels, task: Task) -> list[Curve]:
        curves = self.score.curves(student, labels, task)
        masking = Masking(student, labels, curves, task, self.batches)
        return [self._measured(masking, number) for number in range(len(curves))]

    def _measured(self, masking: Masking, number: int) -> Curve:
        labels = masking.curves[number].labels
        count = len(labels)
        known = [gone for gone in range(1, count) if (count - gone) % self.step == 0] + [count]
        errors = [masking.error([gone * (k == number) for k in range(len(masking.curves))]) for gone in known]
        between = np.interp(range(count + 1), [0, *known], np.maximum.accumulate([0.0, *errors]))
        return Curve(labels, tuple(between.tolist()))


@dataclass(frozen=True)
class NetAdapt(Narrow):
    """Narrow one group after another, each time the one whose narrowing is seen to harm the outputs least.

    In every round each group proposes the fewest channels that save ``progress`` of the original cost, and the proposal
    with the least rise of the error for what it saves is taken (Yang et al. 2018, arXiv 1804.03230, algorithm 1). The
    error is that of :class:`Masking` with everything masked that went before, where the paper learns for a while and
    takes the accuracy. Within a group channels go in the order of ``score``.
    """

    progress: float = 0.04
    batches: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.progress < 1 or self.batches < 1:
            raise SchemeError(f"{self}: give a progress between 0 and 1, and a number of batches from 1 on")

    def allocation(self, student: Compressed, given: Tradeoff, task: Task) -> Callable[[float], list[int]]:
        masking = Masking(student, given.labels, given.curves, task, self.batches)
        state = Narrowing(given)
        whole, error = state.cost, 0.0
        passed = [(whole, list(state.gone))]  # searches ask for one share after another: the way down is one

        def allocated(share: float) -> list[int]:
            nonlocal error
            while state.cost > share * whole:
                harms = [(masking.error(gone), move) for gone, move in self._proposals(state, share * whole, whole)]
                error, move = min(harms, key=lambda each: (each[0] - error) / each[1].saved)
                state.make(move)
                passed.append((state.cost, list(state.gone)))
            return next(gone for cost, gone in passed if cost <= share * whole)

        return allocated

    def _proposals(self, state: Narrowing, limit: float, whole: float) -> Iterator[tuple[list[int], Move]]:
        """Of every group the fewest channels that save enough, and how many of each group have gone with them."""
        moves = state.all_moves(limit, self.step, self.least)
        enough = [move for move in moves if move.saved >= self.progress * whole]
        proposals: dict[int, Move] = {}
        for move in enough or moves:
            proposals.setdefault(move.curve, move)
        for move in proposals.values():
            yield [move.gone if k == move.curve else each for k, each in enumerate(state.gone)], move
