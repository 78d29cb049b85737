"""Two-sided geometric weights around a centre: the discrete Laplacian, in integers.

The ratio of neighbouring weights is ``1 - (8 - m) / 8 * 2**-e`` with ``m`` in 0..7 and ``e`` in 0..15, written as the
index ``8 * e + m``. Weights follow by ``w[0] = 2**40, w[d + 1] = floor(w[d] * ratio)`` with the ratio in units of
``2**-18``, so they need no power, no exponential, and no rounding mode.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from featherweight.coding.rangecoder import Weights, bits

RATIOS = 128
_MANTISSA = 8
_UNIT_BITS = 18
_FIRST = 1 << 40


@lru_cache(maxsize=1024)
def _decay(length: int, ratio: int) -> Weights:
    """Weights at distances 0 .. length - 1."""
    exponent, mantissa = divmod(ratio, _MANTISSA)
    factor = (1 << _UNIT_BITS) - ((_MANTISSA - mantissa) << (_UNIT_BITS - 3 - exponent))
    weight, weights = _FIRST, []
    for _ in range(length):
        weights.append(weight)
        weight = weight * factor >> _UNIT_BITS
    return np.array(weights, dtype=np.float64)


def geometric(alphabet: int, centre: int, ratio: int) -> Weights:
    """The weights of all symbols, each at least 1; integers below 2**41."""
    decay = _decay(alphabet, ratio)
    return np.concatenate([decay[centre:0:-1], decay[: alphabet - centre]]) + 1


def fit(counts: NDArray[np.int64]) -> tuple[int, int]:
    """Centre and ratio index with (locally) the fewest bits: the mode or the median, the ratio by ternary descent."""
    alphabet = counts.size
    cumulative = np.cumsum(counts)
    median = int(np.searchsorted(cumulative, (cumulative[-1] + 1) // 2))
    centres = dict.fromkeys([median, int(np.argmax(counts))])
    best = min((*_fit_ratio(counts, alphabet, centre), centre) for centre in centres)
    return best[2], best[1]


def _fit_ratio(counts: NDArray[np.int64], alphabet: int, centre: int) -> tuple[float, int]:
    """The ratio around a given centre: start where the mean distance is right, then walk downhill."""
    distance = float((counts * np.abs(np.arange(alphabet) - centre)).sum()) / max(1, int(counts.sum()))
    # The mean distance of a two-sided geometric is 2r / (1 - r*r), so 1 - r is about 1 / (distance + 1/2).
    closeness = 1 / (distance + 0.5) if distance > 0.5 else 1.0
    exponent = min(15, max(0, int(np.floor(-np.log2(closeness)))))
    ratio = min(RATIOS - 1, max(0, _MANTISSA * exponent + 8 - int(round(closeness * 2**exponent * _MANTISSA))))
    cost = float(bits(counts, geometric(alphabet, centre, ratio)))
    for step in (-1, 1):
        while 0 <= ratio + step < RATIOS:
            next_cost = float(bits(counts, geometric(alphabet, centre, ratio + step)))
            if next_cost >= cost:
                break
            ratio, cost = ratio + step, next_cost
    return cost, ratio
