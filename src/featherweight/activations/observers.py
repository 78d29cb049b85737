"""What is kept of a stream of activations: extremes, averaged extremes, a histogram. None keeps the activations.

The rules that turn it into the range of a quantizer are in ``ranges.py``.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import frexp, isfinite

import torch
from torch import Tensor

from featherweight.core.code import number_type
from featherweight.core.errors import DataError, SchemeError

BINS = 8192
"""Bins of a histogram for each sign. At least half of one sign's are in use, whatever the activations' scale."""

SMALLEST = 2.0**-100
"""Activations none of which is larger count as zero: the step of a quantizer of theirs would vanish in float32."""

CHUNK = 1 << 18
"""Entries binned at a time: the temporary tensors stay in the cache, and memory does not grow with the batch."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Range:
    """Ends of a uniform quantizer, ``low ≤ 0 ≤ high`` and ``low < high``, in the units of the activations.

    Zero is always inside, so that padding, and what a ReLU cut off, can be represented exactly (Jacob et al. 2017,
    arXiv 1712.05877, section 2.1). Raises ``SchemeError`` otherwise.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not isfinite(self.high - self.low):
            raise SchemeError(
                f"the range {self.low} .. {self.high} is not finite; look for overflow in the layer before"
            )
        if not (self.low <= 0 <= self.high and self.low < self.high):
            raise SchemeError(f"{self.low} .. {self.high} is no range of a quantizer: low ≤ 0 ≤ high, and low < high")

    @classmethod
    def holding(cls, low: float, high: float, symmetric: bool = False) -> "Range":
        """The smallest range that holds ``low``, ``high`` and zero; with ``symmetric`` one with ``low = −high``.

        Where both are zero, or so small that they count as zero, it is ``0 .. 1``, or ``−1 .. 1``: every such
        activation then becomes the level zero.
        """
        if not (isfinite(low) and isfinite(high)):
            raise SchemeError(f"no finite range holds {low} and {high}; look for overflow in the layer before")
        low, high = min(low, 0.0) + 0.0, max(high, 0.0)  # no negative zero
        largest = max(-low, high)
        if largest < SMALLEST:
            low, high, largest = 0.0, 1.0, 1.0
        return cls(-largest, largest) if symmetric else cls(low, high)


class Statistics(ABC):
    """An accumulator: give it every batch of one site's activations, of any shape.

    ``count`` is how many entries it was given. Empty tensors add nothing.
    """

    count: int = 0

    def add(self, x: Tensor) -> None:
        """Take a batch in. Raises ``SchemeError`` where an entry is not finite, or the entries are no real numbers."""
        if x.dtype not in DTYPES:
            raise SchemeError(
                f"activations of type {x.dtype} have no range to learn; observe floating-point activations"
            )
        if x.numel() == 0:
            return
        x = x.detach()
        low, high = (float(end) for end in x.aminmax())
        if not (isfinite(low) and isfinite(high)):
            bad = x.numel() - int(x.isfinite().sum())
            raise SchemeError(
                f"{bad} of {x.numel()} activations are NaN or infinite; find the layer that makes them, or leave the "
                "batch out of the calibration data"
            )
        self.count += x.numel()
        self._add(x, low, high)

    @abstractmethod
    def _add(self, x: Tensor, low: float, high: float) -> None:
        """Take in a batch that is finite and not empty, whose extremes are known."""

    def check(self) -> None:
        """Raise ``DataError`` where nothing has been added."""
        if self.count == 0:
            raise DataError("no activation was observed; add at least one calibration batch before asking for a range")


class Extremes(Statistics):
    """``low`` and ``high``: the least and the largest activation. The order of the batches does not matter."""

    def __init__(self) -> None:
        self.low = float("inf")
        self.high = float("-inf")

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(-self.low, self.high)

    @property
    def vanishing(self) -> bool:
        """Whether all activations count as zero."""
        return self.largest < SMALLEST

    def _add(self, x: Tensor, low: float, high: float) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)


class MovingExtremes(Extremes):
    """``low ← decay · low + (1 − decay) · min(batch)``, ``high`` likewise; the first batch starts them.

    Jacob et al. 2017, arXiv 1712.05877, section 3.1. Later batches weigh more.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._started = False

    def _add(self, x: Tensor, low: float, high: float) -> None:
        if self._started:
            low = self.decay * self.low + (1 - self.decay) * low
            high = self.decay * self.high + (1 - self.decay) * high
        self.low, self.high, self._started = low, high, True


class Histogram(Extremes):
    """Exact counts on a grid that grows by powers of two, so that no sample needs to be kept.

    ``counts[0, k]`` is how many activations lie in ``[k, k + 1) · width``, and ``counts[1, k]`` how many in
    ``−(k, k + 1] · width`` or, for ``k = 0``, below zero and above ``−width``. ``width`` is the least power of two for
    which the largest magnitude fits into ``bins``, a power of two too. A power of two scales floating-point numbers
    exactly, and two bins make exactly one bin of twice the width: the counts are the same in whatever order and
    batches the activations came, and those of ``2 x`` are those of ``x``. ``zeros`` of the activations are zero.
    """

    def __init__(self, bins: int = BINS) -> None:
        super().__init__()
        if bins < 2 or bins & (bins - 1):
            raise SchemeError(f"a histogram has a power of two of bins, at least 2, not {bins}; {BINS} is usual")
        self.bins = bins
        self.counts = torch.zeros(2, bins, dtype=torch.int64)
        self.zeros = 0
        self._exponent = self._exponent_for(SMALLEST)

    @property
    def width(self) -> float:
        return 2.0**self._exponent

    def _exponent_for(self, largest: float) -> int:
        """The least ``e`` with ``largest < bins · 2ᵉ``."""
        return frexp(largest)[1] - (self.bins.bit_length() - 1)

    def _add(self, x: Tensor, low: float, high: float) -> None:
        super()._add(x, low, high)
        exponent = self._exponent_for(max(-low, high, SMALLEST))
        if exponent > self._exponent:
            self.counts = _merged(self.counts, exponent - self._exponent)
            self._exponent = exponent
        flat = x.reshape(-1)
        exact = number_type(x.dtype)
        for start in range(0, x.numel(), CHUNK):
            part = flat[start : start + CHUNK].to(exact)
            at = (part.abs() * 2.0**-self._exponent).to(torch.int32)
            if low < 0:
                at += (part < 0).to(torch.int32) * self.bins
            self.counts += torch.bincount(at, minlength=2 * self.bins).reshape(2, self.bins).cpu()
            self.zeros += part.numel() - int(part.count_nonzero())

    def occupied(self) -> tuple[Tensor, Tensor]:
        """Left edges of the bins that hold more than exact zeros, in units of ``width``, and how many: float64."""
        counts = self.counts.double()
        counts[0, 0] -= self.zeros
        sign, at = counts.nonzero().unbind(1)
        return torch.where(sign == 0, at, -at - 1).double(), counts[sign, at]

    def coarse(self, bins: int) -> "Histogram":
        """The same activations in ``bins`` bins: fewer, each as wide as several of these. At most as many as here."""
        other = Histogram(bins)
        if bins > self.bins:
            raise SchemeError(f"a histogram of {self.bins} bins has no {bins}; start with more")
        other.low, other.high, other.count, other.zeros = self.low, self.high, self.count, self.zeros
        times = (self.bins // bins).bit_length() - 1
        other.counts = self.counts.reshape(2, bins, 1 << times).sum(2)
        other._exponent = self._exponent + times
        return other


def _merged(counts: Tensor, times: int) -> Tensor:
    """Counts in bins ``2ᵗ`` as wide, with empty bins above."""
    bins = counts.shape[1]
    size = 1 << min(times, bins.bit_length() - 1)
    merged = torch.zeros_like(counts)
    merged[:, : bins // size] = counts.reshape(2, bins // size, size).sum(2)
    return merged
