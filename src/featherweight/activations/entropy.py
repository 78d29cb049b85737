"""The range whose quantized histogram tells the least information lost."""

from dataclasses import dataclass
from math import inf, log

import numpy as np
from numpy.typing import NDArray

from featherweight.activations.observers import Histogram, Range
from featherweight.activations.ranges import Observer, clipped, levels
from featherweight.core.errors import SchemeError

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Entropy(Observer[Histogram]):
    """``min KL(P ‖ Q)`` over thresholds at edges of bins, the calibration of TensorRT.

    For every threshold ``T`` of at least as many bins as there are levels: ``P`` is the histogram within, with what
    lies beyond added to the outermost bins; ``Q`` is the histogram within, its bins merged into the levels, and each
    level's count spread evenly over those of its bins where ``P`` is not zero. Where counts are zero both are smoothed
    by :data:`SMOOTHING`. The first of equal minima is taken. Where all activations have one sign, bins of ``0 .. T``
    are merged into the ``2ᵇ`` levels; else, or where the range is symmetric, bins of ``−T .. T`` into ``2ᵇ − 1``.

    Migacz, "8-bit inference with TensorRT", GTC 2017; smoothing and the signed variant are those of Apache MXNet's
    quantization example, with 8001 bins and 255 levels. Three deviations. The width of a bin is a power of two
    (:class:`Histogram`): 2049 to 4096 bins are in use on the longer side. Exact zeros are left out: they are a level of
    every range, and where a ReLU made half of the activations zero, spreading that count over its level's bins would
    outweigh every loss by clipping. And bins go to the level that their middle falls in, where MXNet gives every level
    ``⌊bins / levels⌋`` bins and the last one the rest, up to nearly as many as there are levels, which no uniform
    quantizer does.

    Both ends of a range that is not symmetric are cut to what was observed.
    """

    bins: int = 4096

    def statistics(self) -> Histogram:
        return Histogram(self.bins)

    def _fit(self, seen: Histogram, bits: int, symmetric: bool) -> Range:
        if seen.vanishing:
            return Range.holding(0, 0, symmetric)
        if seen.bins > self.bins:
            seen = seen.coarse(self.bins)
        one_sided = not symmetric and (seen.low >= 0 or seen.high <= 0)
        threshold = best_threshold(seen, levels(bits, symmetric=not one_sided), one_sided) * seen.width
        return clipped(seen, -threshold, threshold, symmetric)


SMOOTHING = 1e-4
"""What a bin of count zero is given; the bins that are not zero pay for it in equal parts."""


def best_threshold(seen: Histogram, levels: int, one_sided: bool) -> int:
    """The number of bins from zero up to the threshold of the least divergence."""
    right, left = seen.counts.numpy().astype(np.float64)
    right[0] -= seen.zeros
    used = int((left + right).nonzero()[0][-1]) + 1
    right, left = right[:used], left[:used]
    counts, sides = (left + right, 1) if one_sided else (np.concatenate([left[::-1], right]), 2)
    first = -(-levels // sides)
    if first > used:
        raise SchemeError(
            f"a histogram with {used} bins in use cannot be compared with {levels} levels; use fewer bits, "
            "Entropy(bins=...) with more bins, or LeastSquares"
        )
    thresholds = range(first, used + 1)
    starts = [0 if one_sided else used - each for each in thresholds]
    divergences = [
        divergence(counts, start, start + sides * each, levels) for start, each in zip(starts, thresholds, strict=True)
    ]
    if min(divergences) == inf:
        raise SchemeError(
            f"too few activations to tell one threshold from another in {used} bins; add calibration batches, use "
            "Entropy(bins=...) with fewer bins, or LeastSquares"
        )
    return thresholds[int(np.argmin(divergences))]


def divergence(counts: Counts, start: int, stop: int, levels: int) -> float:
    """``KL(P ‖ Q)`` of keeping the bins ``start .. stop − 1``; infinite where no count at all is kept."""
    inside = counts[start:stop]
    p = inside.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[stop:].sum()
    size = len(inside)
    # The bin k is in the level ⌊(k + ½) · levels / size⌋; these are the first bins of the levels.
    firsts = -((levels - 2 * size * np.arange(levels)) // (2 * levels))
    held = p > 0
    merged, among = (np.add.reduceat(each, firsts) for each in (inside, held.astype(np.float64)))
    q = np.repeat(merged / np.maximum(among, 1), np.diff(firsts, append=size)) * held
    smooth_p, smooth_q = smoothed(p), smoothed(q)
    if smooth_p is None or smooth_q is None:
        return inf
    share = smooth_p / smooth_p.sum()
    return float(share @ np.log(share / smooth_q)) + log(smooth_q.sum())


def smoothed(counts: Counts) -> Counts | None:
    """``counts`` with :data:`SMOOTHING` for every zero; ``None`` where that is more than the others have to give."""
    held = counts > 0
    number = int(held.sum())
    if number == 0:
        return None
    given = SMOOTHING * (len(counts) - number) / number
    spread = np.where(held, counts - given, SMOOTHING)
    return spread if spread.min() > 0 else None
