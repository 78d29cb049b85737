"""Rules that turn what was observed of a stream of activations into the range of a uniform quantizer.

``watch = Percentile(0.9999).start()``, ``watch.add(x)`` for every batch, ``watch.range(bits=8)``. Most rules read the
same :class:`Histogram`, so that one stream serves several: ``Percentile(0.999).range(histogram, bits=8)``. Rules that
weigh clipping against rounding are in ``least_squares.py``, ``entropy.py`` and ``analytical.py``.

A *symmetric* range is ``−a .. a``, for levels ``−(2ᵇ⁻¹ − 1) .. 2ᵇ⁻¹ − 1`` (``±1`` with one bit). Any other range is for
``2ᵇ`` levels and a zero point; it starts, or ends, at zero where no activation has the other sign.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import frexp
from typing import Generic, TypeVar

from torch import Tensor

from featherweight.activations.observers import BINS, SMALLEST, Extremes, Histogram, MovingExtremes, Range, Statistics
from featherweight.core.errors import SchemeError

S = TypeVar("S", bound=Statistics)


def levels(bits: int, symmetric: bool) -> int:
    """How many numbers a quantizer of ``bits`` has. Raises ``SchemeError`` outside 1..16 bits."""
    if not 1 <= bits <= 16:
        raise SchemeError(f"{bits} bits are not in 1..16; leave activations of more bits as floats")
    return (1 << bits) - (symmetric and bits > 1)


class Observer(ABC, Generic[S]):
    """Settings of a rule."""

    @abstractmethod
    def statistics(self) -> S:
        """An empty accumulator of what the rule needs to know."""

    @abstractmethod
    def _fit(self, seen: S, bits: int, symmetric: bool) -> Range:
        """The range, from statistics that are not empty."""

    def range(self, seen: S, bits: int, symmetric: bool = False) -> Range:
        """The range for a quantizer of ``bits``.

        Raises ``DataError`` where nothing was observed, ``SchemeError`` where the bits are out of range.
        """
        levels(bits, symmetric)
        seen.check()
        return self._fit(seen, bits, symmetric)

    def start(self) -> "Watch[S]":
        """An empty watch over one site."""
        return Watch(self, self.statistics())


@dataclass(frozen=True)
class Watch(Generic[S]):
    """A rule and what it has seen of one site's activations."""

    observer: Observer[S]
    statistics: S

    def add(self, x: Tensor) -> None:
        self.statistics.add(x)

    def range(self, bits: int, symmetric: bool = False) -> Range:
        return self.observer.range(self.statistics, bits, symmetric)


@dataclass(frozen=True)
class MinMax(Observer[Extremes]):
    """From the least to the largest activation. The bits do not matter."""

    def statistics(self) -> Extremes:
        return Extremes()

    def _fit(self, seen: Extremes, bits: int, symmetric: bool) -> Range:
        return Range.holding(seen.low, seen.high, symmetric)


@dataclass(frozen=True)
class MovingAverage(Observer[MovingExtremes]):
    """From the exponentially averaged minimum to the averaged maximum of the batches.

    Jacob et al. 2017, arXiv 1712.05877, section 3.1, ask for a ``decay`` close to 1. The order of batches matters.
    """

    decay: float = 0.99

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise SchemeError(f"a decay of {self.decay} is not in [0, 1); 0.99 forgets over about a hundred batches")

    def statistics(self) -> MovingExtremes:
        return MovingExtremes(self.decay)

    def _fit(self, seen: MovingExtremes, bits: int, symmetric: bool) -> Range:
        return Range.holding(seen.low, seen.high, symmetric)


@dataclass(frozen=True)
class Percentile(Observer[Histogram]):
    """The smallest range, to the width of a bin, that holds at least ``share`` of the activations.

    Symmetric, or where all have one sign, it is ``min a: share of |x| ≤ a``. Else each tail may lose half of what is
    left: ``(1 − share) / 2``. The bits do not matter. ``share = 1`` is :class:`MinMax`.
    """

    share: float = 0.9999
    bins: int = BINS

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SchemeError(f"a share of {self.share} is not in (0, 1]; 0.9999 holds all but one in ten thousand")

    def statistics(self) -> Histogram:
        return Histogram(self.bins)

    def _fit(self, seen: Histogram, bits: int, symmetric: bool) -> Range:
        dropped = seen.count * (1 - self.share)
        if symmetric or seen.low >= 0 or seen.high <= 0:
            end = _end(seen, seen.counts.sum(0), dropped)
            return clipped(seen, -end, end, symmetric)
        high, low = (_end(seen, side, dropped / 2) for side in seen.counts)
        return clipped(seen, -low, high, symmetric)


@dataclass(frozen=True)
class PowerOfTwo(Observer[Extremes]):
    """``−2ᵇ⁻¹ s .. (2ᵇ⁻¹ − 1) s`` with the least power of two ``s`` at which the range holds all activations.

    Dynamic fixed point: a sign, and a fractional length ``−log₂ s`` a site (Gysel, Motamedi and Ghiasi 2016, arXiv
    1604.03168). There is a sign even where no activation has one, and ``symmetric`` changes nothing.
    """

    def statistics(self) -> Extremes:
        return Extremes()

    def _fit(self, seen: Extremes, bits: int, symmetric: bool) -> Range:
        half = 2 ** (bits - 1)
        most = max(seen.high / max(half - 1, 1), -seen.low / half, SMALLEST)
        mantissa, exponent = frexp(most)
        step = 2.0 ** (exponent - (mantissa == 0.5))
        return Range(-half * step, (half - 1) * step)


def _end(seen: Histogram, counts: Tensor, dropped: float) -> float:
    """The least edge of a bin that at most ``dropped`` of the activations lie beyond."""
    beyond = counts.flip(0).cumsum(0).flip(0)
    return int((beyond > dropped).sum()) * seen.width


def clipped(seen: Extremes, low: float, high: float, symmetric: bool) -> Range:
    """The part of ``low .. high`` where activations were seen, with zero."""
    if symmetric:
        return Range.holding(max(low, -seen.largest), min(high, seen.largest), symmetric)
    return Range.holding(max(low, seen.low), min(high, seen.high))
