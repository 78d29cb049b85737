"""Signs times a magnitude that is given: BinaryConnect."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from featherweight.core.code import Code, number_type
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight, straight_through
from featherweight.schemes.floats import Floats, stored
from featherweight.schemes.uniform import Grid, PerTensor, UniformCode


def glorot(w: Tensor) -> float:
    """``√(1.5 / (fan in + fan out))``: half of Glorot and Bengio's bound (2010), as BinaryConnect's published code has.

    Signs of this magnitude have the variance that a layer's initial weights have within a factor of 4/3, so that a
    network without norms still passes signals on. Raises ``SchemeError`` for a vector, which has no fans.
    """
    if w.ndim < 2:
        raise SchemeError(f"a tensor of shape {tuple(w.shape)} has no fan in; give Binary a number for its magnitude")
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(w)
    return float((1.5 / (fan_in + fan_out)) ** 0.5)


def mean_magnitude(w: Tensor) -> float:
    """``mean |w|``, or one where all entries are zero: the best magnitude for the signs of ``w`` in squared error."""
    return float(w.abs().double().mean()) or 1.0


@dataclass(frozen=True)
class Binary(Scheme):
    """``+H`` where ``w ≥ 0``, else ``−H``; while learning, drawn with ``stochastic``.

    BinaryConnect (Courbariaux, Bengio and David 2015, section 2.3): with ``σ(x) = clip((x + 1)/2, 0, 1)``, the hard
    sigmoid, a weight is ``+H`` with probability ``σ(w/H)``, anew in every forward pass, so that ``E = clip(w, −H, H)``.
    What is stored is always the deterministic sign. ``magnitude`` is ``H``, a number or a function of the tensor. Given
    the magnitude, no other signs are nearer.

    Backward: straight through. Latent weights are meant to be clipped to ``[−H, H]`` after every step
    (:class:`featherweight.training.optimizers.Clipped`), where the probability ends.
    """

    magnitude: float | Callable[[Tensor], float] = 1.0
    stochastic: bool = False
    promise: ClassVar[Promise] = Promise.LOCAL

    def __post_init__(self) -> None:
        if isinstance(self.magnitude, int | float) and not self.magnitude > 0:
            raise SchemeError(f"signs of a magnitude of {self.magnitude}: give one above zero")

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> UniformCode:
        check_weight(w)
        scales = self._scales(w.detach()) if warm is None else _as_signs(warm).scales
        levels = torch.where(w.detach() >= 0, 1, -1).to(torch.int16)
        return UniformCode(tuple(w.shape), w.dtype, levels, scales, None, Grid(1, True), PerTensor())

    def through(self, w: Tensor, code: Code) -> Tensor:
        before = _as_signs(code)
        (scale,) = before.scales.decode()
        with torch.no_grad():
            up = torch.rand_like(w) < (w / scale.to(w.dtype) + 1) / 2 if self.stochastic else w >= 0
            signs = torch.where(up, 1.0, -1.0).to(scale.dtype)
        return straight_through((signs * scale).to(w.dtype), w)

    def _scales(self, w: Tensor) -> Floats:
        value = self.magnitude(w) if callable(self.magnitude) else self.magnitude
        scale = torch.full((1,), value, dtype=number_type(w.dtype), device=w.device)
        return stored(scale)


def _as_signs(code: Code) -> UniformCode:
    if not isinstance(code, UniformCode) or code.grid != Grid(1, True) or code.granularity != PerTensor():
        raise SchemeError(f"a warm start of signs is a code of one bit and one scale, not {type(code).__name__}")
    return code
