"""MorphNet's expansion, in the form of a cut: as wide as a uniform multiplier of what lives makes every group."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from featherweight.channels.norms import LargestScale
from featherweight.core.compressed import Compressed
from featherweight.core.errors import BudgetError
from featherweight.core.task import Task
from featherweight.search.channels import ChannelScore, Narrow, Tradeoff, cost_without

STEPS = 50
"""Halvings of the interval in which the multiplier lies."""


@dataclass(frozen=True)
class Morph(Narrow):
    """Group ``l`` keeps ``min(n_l, ω a_l)`` of its ``n_l`` channels, the strongest; ``a_l`` are those above ``alive``.

    ``ω`` is the largest for which the cost is at most ``share`` of what it is: the width multiplier of Gordon et al.
    2018 (arXiv 1711.06798, algorithm 1), above 1 where what lives costs less than that. Numbers are rounded to
    multiples of ``step``, and at least ``least`` stay. Where the paper widens a layer beyond what it was, this does
    not: start from a wider network. By default strengths are the largest ``|γ|`` of each channel.
    """

    score: ChannelScore = LargestScale()
    make_up: bool = False
    alive: float = 1e-2

    def allocation(self, student: Compressed, given: Tradeoff, task: Task) -> Callable[[float], list[int]]:
        curves, costs = given.curves, given.costs
        living = [sum(after - before > self.alive for before, after in pairwise(curve.errors)) for curve in curves]

        def gone(multiplier: float) -> list[int]:
            return [self._gone(len(c.labels), multiplier * a) for c, a in zip(curves, living, strict=True)]

        def cost(multiplier: float) -> float:
            return cost_without(given, gone(multiplier))

        def allocated(share: float) -> list[int]:
            limit = share * costs.total(given.shapes)
            low, high = 0.0, float(max(len(curve.labels) for curve in curves) + self.step)
            if cost(low) > limit:
                raise BudgetError(
                    f"{limit:,.0f} {costs.unit} cannot be reached: with {self.least} channels of every group there are "
                    f"{cost(low):,.0f}. Allow a larger share"
                )
            for _ in range(STEPS):
                middle = (low + high) / 2
                low, high = (middle, high) if cost(middle) <= limit else (low, middle)
            return gone(low)

        return allocated

    def _gone(self, whole: int, wanted: float) -> int:
        kept = max(self.step * round(wanted / self.step), self.least)
        return whole - min(whole, kept)
