"""Waterfilling: uniform levels whose steps make every bit of the whole model buy the same."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight
from featherweight.schemes.floats import Floats, Width
from featherweight.schemes.uniform import Grid, PerChannel, PerTensor, Uniform, UniformCode, blocks


@dataclass(frozen=True)
class Waterfilling(Scheme):
    """Levels ``s_r · q`` with ``s_r = √(6 λ / (ln 2 · g_r))``, where one squared error in row ``r`` costs ``g_r``.

    ``price`` is λ, in the metric's units a bit. Uniform levels with an entropy coder behind them have, at high rates,
    the distortion ``g s²/12`` and a rate that falls by one bit as ``s`` doubles (Gish and Pierce 1968, Asymptotically
    efficient quantizing): ``dD/dR = −g s² ln 2 / 6``. Steps at which all rows of all tensors have the same slope −λ are
    the optimum under additive errors, so one λ serves a whole model and is what a search for a size changes. ``g_r`` is
    :meth:`featherweight.core.metric.Metric.sensitivity`: of the full metric, the geometric mean of what errors cost in
    the column sweep, as in reverse waterfilling of a Gaussian source's components (Cover and Thomas, section 10.3.3).

    A row has ``bits`` bits at most, ``headroom`` times its largest level; rows that would have more get steps that are
    2, 4, 8 … times larger. The code is a uniform one with a scale a row, stored in bfloat16, of no more bits than it
    needs: engines run it as they run any other.
    """

    price: float
    bits: int = 8
    headroom: float = 1.25
    promise: ClassVar[Promise] = Promise.RULE
    scaled_by_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.price > 0 or not math.isfinite(self.price) or self.headroom < 1:
            raise SchemeError(f"a price of {self.price} and a headroom of {self.headroom}: give above 0, and 1 or more")
        if not 2 <= self.bits <= 8:
            raise SchemeError(f"{self.bits} bits are not in 2..8")

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> UniformCode:
        check_weight(w)
        start = self._start(w.detach(), metric) if warm is None else warm
        return self._uniform(start).project(w, metric, warm=start, rate=rate)

    def through(self, w: Tensor, code: Code) -> Tensor:
        return self._uniform(code).through(w, code)

    def _uniform(self, code: Code) -> Uniform:
        if not isinstance(code, UniformCode):
            raise SchemeError(f"a warm start of waterfilling is a uniform code, not {type(code).__name__}")
        return Uniform(code.grid.bits, granularity=code.granularity)

    def _start(self, w: Tensor, metric: Metric) -> UniformCode:
        """Scales and a grid for ``w``; all levels zero."""
        granularity = PerChannel(0) if w.ndim > 1 else PerTensor()
        matrix = blocks(w.double(), granularity)
        costs = _costs(w, metric)
        steps = (6 * self.price / math.log(2) / costs.clamp(min=1e-30)).sqrt()
        steps = steps.clamp(max=1e30).to(torch.bfloat16).double()
        largest = matrix.abs().amax(1)
        high = Grid(self.bits, True).high
        while bool((over := (largest / steps).round() * self.headroom > high).any()):
            steps = torch.where(over, 2 * steps, steps)
        needed = float(((largest / steps).round() * self.headroom).max())
        grid = Grid(max(2, math.ceil(math.log2(math.ceil(needed) + 1)) + 1), True)
        numbers = torch.float64 if w.dtype == torch.float64 else torch.float32
        scales = Floats.holding(steps.to(numbers), Width.BFLOAT16)
        nothing = torch.zeros(w.shape, dtype=torch.int16, device=w.device)
        return UniformCode(tuple(w.shape), w.dtype, nothing, scales, None, grid, granularity)


def _costs(w: Tensor, metric: Metric) -> Tensor:
    """What an error costs in each block that has a scale, float64: in each row; in the whole of a vector."""
    if w.ndim > 1:
        costs = metric.sensitivity(w)
        return torch.ones(w.shape[0], dtype=torch.float64, device=w.device) if costs is None else costs.to(w.device)
    weights = metric.weights(w)
    each = torch.ones_like(w, dtype=torch.float64) if weights is None else weights.double().clamp(min=1e-30)
    return each.log().mean().exp().reshape(1)
