"""Ranges from an assumed density: clipping of a Gaussian or a Laplacian, and the statistics of a batch norm."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import erfc, exp, inf, pi, sqrt

import torch
from torch import Tensor

from featherweight.activations.observers import BINS, Histogram, Range
from featherweight.activations.ranges import Observer, clipped
from featherweight.core.errors import SchemeError


class Density(Enum):
    """What activations are taken to be distributed like, around their mean."""

    GAUSSIAN = "gaussian"  # of standard deviation σ = √E[(x − μ)²]
    LAPLACIAN = "laplacian"  # of scale b = E|x − μ|


def expected_error(alpha: float, bits: int, density: Density) -> float:
    """``E(α) = α² / (3 · 4ᵇ) + 2 ∫_α^∞ (x − α)² f(x) dx``, for ``f`` of scale one.

    The error of clipping to ``−α .. α`` and of rounding there to ``2ᵇ`` levels, as noise that is uniform over a step
    ``2α / 2ᵇ`` (Banner et al. 2018, arXiv 1810.05723, section 3).
    """
    rounding = alpha**2 / (3 * 4.0**bits)
    if density is Density.LAPLACIAN:
        return rounding + 2 * exp(-alpha)
    return rounding + 2 * ((1 + alpha**2) * _above(alpha) - alpha * _bell(alpha))


def optimal_clipping(bits: int, density: Density) -> float:
    """The ``α`` that minimises :func:`expected_error`, in units of σ or b.

    It solves ``α / (3 · 4ᵇ) = e^−α``, or ``α / (3 · 4ᵇ) = 2 (φ(α) − α (1 − Φ(α)))``. The left side less the right rises
    and is concave, so Newton's iteration from zero rises to the root.
    """
    slope = 1 / (3 * 4.0**bits)
    if density is Density.LAPLACIAN:
        return _root(lambda a: (a * slope - exp(-a), slope + exp(-a)))
    return _root(lambda a: (a * slope - 2 * (_bell(a) - a * _above(a)), slope + 2 * _above(a)))


def _root(function: Callable[[float], tuple[float, float]]) -> float:
    """Newton's iteration from zero with (value, derivative), until it does not rise."""
    x, before = 0.0, -1.0
    while x > before:
        value, derivative = function(x)
        x, before = x - value / derivative, x
    return x


def _bell(x: float) -> float:
    """φ, the density of the standard normal distribution."""
    return exp(-(x**2) / 2) / sqrt(2 * pi)


def _above(x: float) -> float:
    """1 − Φ, what lies above ``x``."""
    return erfc(x / sqrt(2)) / 2


@dataclass(frozen=True)
class Analytical(Observer[Histogram]):
    """``μ ± α``, with the ``α`` of the least expected error under a density whose mean and scale are observed.

    Banner et al. 2018, arXiv 1810.05723 (ACIQ), section 3; solved numerically instead of read from a table. A
    symmetric range is ``±(|μ| + α)``. No range goes beyond what was observed, and each is extended to zero.

    Where all activations have one sign they are taken for what a ReLU left of a density centred at zero: the scale is
    that of the entries other than zero (``σ² = E[x² | x ≠ 0]``, ``b = E[|x| | x ≠ 0]``), and as the levels cover
    half the width, ``α`` is the one of a bit more, in ``0 .. α``. Dead entries do not move it.
    """

    density: Density = Density.LAPLACIAN
    bins: int = BINS

    def statistics(self) -> Histogram:
        return Histogram(self.bins)

    def _fit(self, seen: Histogram, bits: int, symmetric: bool) -> Range:
        if seen.vanishing:
            return Range.holding(0, 0, symmetric)
        if seen.low >= 0 or seen.high <= 0:
            alpha = optimal_clipping(bits if symmetric else bits + 1, self.density) * self._rectified_scale(seen)
            return clipped(seen, -alpha, alpha, symmetric)
        mean, scale = self._mean_and_scale(seen)
        alpha = optimal_clipping(bits, self.density) * scale
        if symmetric:
            return clipped(seen, -abs(mean) - alpha, abs(mean) + alpha, symmetric)
        return clipped(seen, mean - alpha, mean + alpha, symmetric)

    def _rectified_scale(self, seen: Histogram) -> float:
        left, counts = seen.occupied()
        distances = self._distances(left, 0.0)
        return self._root_of(float(counts @ distances / counts.sum())) * seen.width

    def _mean_and_scale(self, seen: Histogram) -> tuple[float, float]:
        left, counts = seen.occupied()
        mean = float(counts @ (left + 0.5)) / seen.count
        of_zeros = seen.zeros * (mean**2 if self.density is Density.GAUSSIAN else abs(mean))
        total = float(counts @ self._distances(left, mean)) + of_zeros
        return mean * seen.width, self._root_of(total / seen.count) * seen.width

    def _distances(self, left: Tensor, mean: float) -> Tensor:
        """The mean of ``(x − μ)²``, or of ``|x − μ|``, over each bin, with ``x`` spread evenly within it."""
        before, after = left - mean, left + 1 - mean
        if self.density is Density.GAUSSIAN:
            return (after**3 - before**3) / 3
        return (after * after.abs() - before * before.abs()) / 2

    def _root_of(self, mean_distance: float) -> float:
        return sqrt(mean_distance) if self.density is Density.GAUSSIAN else mean_distance


def norm_range(
    weight: Tensor,
    bias: Tensor,
    *,
    deviations: float = 6.0,
    low: float = -inf,
    high: float = inf,
    symmetric: bool = False,
) -> Range:
    """The range of a batch norm's outputs without any data: ``min (β − n |γ|) .. max (β + n |γ|)`` over channels.

    The batch norm's ``weight`` γ and ``bias`` β, [channels], say that a channel is about N(β, γ²). ``low`` and ``high``
    are where the activation function clips: 0 and ∞ for ReLU, 0 and 6 for ReLU6. Nagel et al. 2019, arXiv 1906.04721,
    section 5, with ``n = 6``.
    """
    if weight.shape != bias.shape or weight.ndim != 1 or not len(weight):
        raise SchemeError(
            f"a batch norm has a weight and a bias for every channel, not shapes {tuple(weight.shape)} and "
            f"{tuple(bias.shape)}"
        )
    if not (deviations > 0 and low <= 0 <= high):
        raise SchemeError(f"{deviations} deviations, clipped to {low} .. {high}: use deviations > 0 and low ≤ 0 ≤ high")
    spread = deviations * weight.detach().double().abs()
    centre = bias.detach().double()
    if not bool(torch.isfinite(spread + centre.abs()).all()):
        raise SchemeError("the batch norm's weight or bias is not finite; find where training diverged")
    least, largest = float((centre - spread).min()), float((centre + spread).max())
    return Range.holding(min(max(least, low), high), min(max(largest, low), high), symmetric)
