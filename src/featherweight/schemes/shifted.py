"""Few levels whose step is a power of two that the size of a layer tells: WAGE's weights."""

from dataclasses import dataclass
from math import log2, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from featherweight.core.code import Code, number_type
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight
from featherweight.schemes.fixed_point import FixedPoint
from featherweight.schemes.floats import stored
from featherweight.schemes.uniform import Grid, PerTensor, UniformCode

REACH = 1.5
"""β: how many steps the first weights of a layer reach at least."""


@dataclass(frozen=True)
class Shifted(Scheme):
    """``ŵ = (σ/α) · clip(round(w α/σ), ±(2ᵏ⁻¹ − 1))`` with ``σ = 2^(1−k)`` and a power of two ``α`` of the layer.

    ``α = max(2^round(log₂(β σ/L)), 1)``, where ``L = √(3/n)`` is the limit of even weights that give ``n`` inputs the
    variance of one, and ``β = 1.5`` (Wu, Li, Chen and Shi 2018, arXiv 1802.04680, section 3.2; ``L`` as in their
    published code, https://github.com/boluoweifenda/WAGE, source/myInitializer.py). They divide a layer's sums by
    ``α``; here its weights are divided, which is the same, so that a tensor is what the layer multiplies with.

    Nothing is found in the tensor, so rounding to nearest is the minimum in every diagonal metric. Backward: straight
    through everywhere.
    """

    bits: int = 2
    promise: ClassVar[Promise] = Promise.LOCAL

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise SchemeError(f"{self.bits} bits are not in 2..8")

    @property
    def unit(self) -> float:
        """``σ``."""
        return 2.0 ** (1 - self.bits)

    def shift(self, w: Tensor) -> int:
        """``log₂ α``, by the number of inputs of a weight [outputs, …]; a vector is one row."""
        return max(round(log2(REACH * self.unit / _limit(w))), 0)

    def bound(self, w: Tensor) -> float:
        """``(1 − σ)/α``, the largest level: where latent weights are clipped to after every step."""
        return float((1 - self.unit) * 2.0 ** -self.shift(w))

    def finer(self, w: Tensor, bits: int) -> FixedPoint:
        """The multiples of ``2^(1−bits)/α`` in ``[−1/α, 1/α)``, on which latent weights of ``bits`` bits move."""
        shift = self.shift(w)
        return FixedPoint(1 - shift, bits - 1 + shift)

    def initial(self, w: Tensor) -> Tensor:
        """First weights: even on ``±max(L, β σ)/α``, then projected. Drawn from torch's global generator."""
        reach = max(_limit(w), REACH * self.unit) * 2.0 ** -self.shift(w)
        return self.project(torch.empty_like(w).uniform_(-reach, reach)).decode()

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> UniformCode:
        check_weight(w)
        grid = Grid(self.bits, True)
        step = self.unit * 2.0 ** -self.shift(w)
        numbers = w.detach().to(number_type(w.dtype))
        levels = grid.nearest(numbers / step).to(torch.int16)
        scales = stored(numbers.new_full((1,), step))
        return UniformCode(tuple(w.shape), w.dtype, levels, scales, None, grid, PerTensor())


def nearest_power(x: Tensor) -> Tensor:
    """``2^round(log₂ max|x|)``, the power of two next to the largest magnitude; 1 where all are zero."""
    largest = x.abs().amax()
    return torch.where(largest > 0, torch.exp2(torch.log2(largest).round()), torch.ones_like(largest))


def _limit(w: Tensor) -> float:
    """``L`` of a weight."""
    return sqrt(3 / (w[0].numel() if w.ndim > 1 else w.numel()))
