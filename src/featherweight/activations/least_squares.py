"""The range of the least squared error of quantization."""

from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.activations.observers import BINS, Histogram, Range
from featherweight.activations.ranges import Observer, levels

COARSE = 4
"""Shares tried at first for every halving of the range."""

FINE = 33
"""Shares tried around the best of these, evenly spaced."""

GAIN = 1e-4
"""The share of the error by which both ends in turns must lower it to be tried again."""

Ends = tuple[float, float]


@dataclass(frozen=True)
class LeastSquares(Observer[Histogram]):
    """``min E[(x − q(x))²]`` over ranges, where ``q`` rounds to the nearest of the levels and so clips.

    The expectation is that of the histogram, with activations spread evenly within a bin and exact zeros apart; it is
    integrated in closed form, so that steps narrower than a bin do no harm. Tried are shares of the observed range,
    each ``2^¼`` less than the last, down to a bin, and then 33 around the best. Where both ends are free they shrink
    together first, or each by any of eleven powers of ``2^½``, and then in turns while that helps: a local minimum.

    Zero is a level (Jacob et al. 2017, arXiv 1712.05877, equation 1): where there is a zero point it is rounded, here
    and in what is returned, so that ``−low / step`` is an integer.
    """

    bins: int = BINS

    def statistics(self) -> Histogram:
        return Histogram(self.bins)

    def _fit(self, seen: Histogram, bits: int, symmetric: bool) -> Range:
        whole = Range.holding(seen.low, seen.high, symmetric)
        if seen.vanishing:
            return whole
        error = SquaredError(seen, levels(bits, symmetric))
        low, high = whole.low / seen.width, whole.high / seen.width
        best, ends = error.least((0, 0), (low, high))
        improved = not symmetric and low < 0 < high
        if improved:
            best, ends = min((best, ends), error.least_of_pairs(low, high))
        while improved:
            lower = error.least((0, ends[1]), (low, 0))
            upper = error.least((lower[1][0], 0), (0, high))
            improved = min(lower[0], upper[0]) < best * (1 - GAIN)
            best, ends = min((best, ends), lower, upper)
        start, step = (float(each) * seen.width for each in error.grid(*_columns(ends)))
        return Range.holding(start, start + step * (error.levels - 1), symmetric)


class SquaredError:
    """``E[(x − q(x))²]`` of a histogram as a function of the range, in units of the width of a bin."""

    def __init__(self, seen: Histogram, levels: int) -> None:
        self.left, counts = seen.occupied()
        self.mass = counts / seen.count
        self.zeros = seen.zeros / seen.count
        self.levels = levels
        halvings = seen.bins.bit_length() - 1
        self.shares = 2 ** -(torch.arange(COARSE * halvings + 1, dtype=torch.float64) / COARSE)

    def grid(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The least level and the step, after the zero point has been rounded; symmetric ranges stay as they are."""
        step = (high - low) / (self.levels - 1)
        symmetric = low == -high
        zero = torch.where(symmetric, -low / step, (-low / step + 0.5).floor())
        return -zero * step, step

    def __call__(self, low: Tensor, high: Tensor) -> Tensor:
        """The errors of ranges, given as columns [ranges, 1]: of shape [ranges]."""
        start, step = self.grid(low, high)
        at_left, at_right, at_zero = ((x - start) / step for x in (self.left, self.left + 1, torch.zeros(1)))
        inside = (self._integral(at_right) - self._integral(at_left)) @ self.mass
        zero = (at_zero - self._nearest(at_zero)).square() * self.zeros
        return inside * step[:, 0] ** 3 + zero[:, 0] * step[:, 0] ** 2

    def _nearest(self, u: Tensor) -> Tensor:
        return u.round().clamp(0, self.levels - 1)

    def _integral(self, u: Tensor) -> Tensor:
        """``∫₀ᵘ (t − nearest(t))² dt``: a twelfth for every level passed, and a cubic from the nearest."""
        nearest = self._nearest(u)
        return nearest / 12 + (u - nearest) ** 3 / 3

    def least(self, base: Ends, part: Ends) -> tuple[float, Ends]:
        """The least error among ranges ``base + share · part``, and its range."""
        errors = self._along(base, part, self.shares)
        at = int(errors.argmin())
        largest, smallest = float(self.shares[max(at - 1, 0)]), float(self.shares[at : at + 2][-1])
        around = torch.linspace(smallest, largest, FINE, dtype=torch.float64)
        shares = torch.cat([self.shares, around])
        errors = torch.cat([errors, self._along(base, part, around)])
        share = float(shares[errors.argmin()])
        return float(errors.min()), (base[0] + share * part[0], base[1] + share * part[1])

    def least_of_pairs(self, low: float, high: float) -> tuple[float, Ends]:
        """The least error where both ends are powers of ``2^-½`` of these, down to a 32nd, and its range."""
        pairs = torch.cartesian_prod(*[self.shares[: 5 * COARSE + 1 : COARSE // 2]] * 2)
        errors = self(low * pairs[:, :1], high * pairs[:, 1:])
        lower, upper = pairs[errors.argmin()].tolist()
        return float(errors.min()), (low * lower, high * upper)

    def _along(self, base: Ends, part: Ends, shares: Tensor) -> Tensor:
        return self(*(start + shares[:, None] * slope for start, slope in zip(base, part, strict=True)))


def _columns(ends: Ends) -> tuple[Tensor, Tensor]:
    low, high = torch.tensor(ends, dtype=torch.float64)
    return low.reshape(1, 1), high.reshape(1, 1)
