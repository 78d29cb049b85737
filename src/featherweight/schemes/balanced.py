"""Balanced quantization: bins of equal population, at even levels."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from featherweight.core.code import Code, number_type
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight, straight_through
from featherweight.schemes.floats import positive, stored
from featherweight.schemes.uniform import Grid, PerTensor, UniformCode


@dataclass(frozen=True)
class Balanced(Scheme):
    """The ``2ᵇ`` bins that halving at medians again and again gives, at the odd multiples of a step.

    Of ``n`` entries, the one of rank ``r`` (ties by their order) is in bin ``⌊r 2ᵇ / n⌋``, so that bins differ by one
    entry at most, and gets ``s (2 bin + 1 − 2ᵇ)``: every level is used, and alike often (He, Wen, Zhou, Wu, Yao, Zhou
    and Zou 2016, arXiv 1611.10176; Zhou, Wang, Wen, He and Zou 2017, arXiv 1706.07145). ``s`` keeps the mean magnitude
    of the tensor, whatever its distribution; it is stored in float16 where its range holds it, else in float32.

    It is a rule, no projection: rounding to the nearest of these levels is nearer to the tensor. For training a latent
    weight. Bins and step are found anew at every step; backward: straight through, with nothing for ``s``.
    """

    bits: int = 2
    promise: ClassVar[Promise] = Promise.RULE

    def __post_init__(self) -> None:
        Grid(self.bits, True, True)

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> UniformCode:
        check_weight(w)
        grid = Grid(self.bits, True, True)
        entries = w.detach().to(number_type(w.dtype)).flatten()
        count = entries.numel()
        bins = torch.arange(count, device=w.device) * grid.alphabet // count
        levels = torch.empty_like(bins)
        levels[entries.argsort(stable=True)] = 2 * bins + grid.low
        step = positive(entries.abs().mean() / levels.abs().to(entries.dtype).mean()).reshape(1)
        kept = levels.to(torch.int16).reshape(w.shape)
        return UniformCode(tuple(w.shape), w.dtype, kept, stored(step), None, grid, PerTensor())

    def through(self, w: Tensor, code: Code) -> Tensor:
        return straight_through(self.project(w).decode(), w)
