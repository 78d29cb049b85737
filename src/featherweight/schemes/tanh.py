"""Uniform quantization of weights behind a hyperbolic tangent."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from featherweight.core.code import Code, number_type
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight, straight_through
from featherweight.schemes.floats import Floats, Width
from featherweight.schemes.uniform import Grid, PerTensor, Uniform, UniformCode


@dataclass(frozen=True)
class TanhUniform(Scheme):
    """``ŵ = 2 q(tanh(w) / (2 max|tanh(w)|) + ½) − 1`` with ``q(r) = round((2ᵇ − 1) r) / (2ᵇ − 1)``: DoReFa-Net.

    Zhou et al. 2016, arXiv 1606.06160, equation 9. The values are the odd multiples of ``1/(2ᵇ − 1)`` up to one. A bit
    is the sign times the mean magnitude of the tensor (section 2.3). It is a rule, no projection: for training a latent
    weight. Backward: straight through ``q``, and the derivative of the rest.
    """

    bits: int = 2
    promise: ClassVar[Promise] = Promise.RULE

    def __post_init__(self) -> None:
        Grid(self.bits, True, True)

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> UniformCode:
        check_weight(w)
        if self.bits == 1:
            return Uniform(1).project(w)
        grid = Grid(self.bits, True, True)
        squashed = _squashed(w.detach().to(number_type(w.dtype)))
        levels = grid.nearest(squashed * grid.high).to(torch.int16)
        scale = torch.full((1,), 1 / grid.high, dtype=squashed.dtype, device=w.device)
        width = Width.of(number_type(w.dtype))
        return UniformCode(tuple(w.shape), w.dtype, levels, Floats.holding(scale, width), None, grid, PerTensor())

    def through(self, w: Tensor, code: Code) -> Tensor:
        with torch.no_grad():
            decoded = self.project(w.detach()).decode()
        return straight_through(decoded, w if self.bits == 1 else _squashed(w))


def _squashed(w: Tensor) -> Tensor:
    """``tanh(w)`` over its largest magnitude."""
    bounded = torch.tanh(w)
    return bounded / bounded.abs().max().clamp(min=torch.finfo(w.dtype).tiny)
