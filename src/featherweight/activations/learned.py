"""Quantizers of activations whose range is learned or averaged while the model trains."""

from typing import Any

import torch
from torch import Tensor, nn

from featherweight.activations.gradients import GradientFunction
from featherweight.activations.quantizers import Quantizer
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.tap import Function, StoredFunction
from featherweight.schemes.shifted import nearest_power


class Clipped(Function):
    """Parameterised clipping (PACT): ``y = clamp(x, 0, α)``, rounded to ``2ᵇ − 1`` steps of ``α / (2ᵇ − 1)``; α learns.

    Backward: ``∂y/∂x = 1`` for ``0 < x < α``, else 0; ``∂y/∂α = 1`` for ``x ≥ α``, else 0 (Choi et al. 2018, arXiv
    1805.06085, equations 1 to 3). Settles to a :class:`Quantizer`.
    """

    identifier = "clipped"

    def __init__(self, bits: int, alpha: Tensor) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise SchemeError(f"{bits} bits are not in 1..8")
        self.bits = bits
        self.alpha = nn.Parameter(alpha.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha.clamp(min=1e-6)
        clipped = torch.minimum(x.relu(), alpha.to(x.dtype))
        step = (alpha / (2**self.bits - 1)).detach().to(x.dtype)
        rounded: Tensor = (clipped / step).detach().round_().mul_(step)
        return clipped + (rounded - clipped.detach())

    def settled(self) -> Quantizer:
        return Quantizer(self.bits, 0, self.alpha.detach().clamp(min=1e-6) / (2**self.bits - 1))

    def to_json(self) -> list[Any]:
        return [self.bits]

    @classmethod
    def from_json(cls, record: list[Any]) -> "Clipped":
        match record:
            case [int(bits)]:
                return cls(bits, torch.tensor(1.0))
        raise FormatError(f"{record} is no learned clipping")


class MovingRange(Function):
    """Quantizes to the exponential moving average of the batches' least and largest values, after ``delay`` batches.

    While training, ``low ← decay · low + (1 − decay) · min x`` and ``high`` alike; until ``delay`` batches were seen,
    activations pass unquantized, so that ranges settle first (Jacob et al. 2017, arXiv 1712.05877, section 3.1).
    Backward: straight through inside the range. Settles to a :class:`Quantizer`.
    """

    identifier = "moving-range"
    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, bits: int, decay: float = 0.99, delay: int = 0) -> None:
        super().__init__()
        if not 0 <= decay < 1 or delay < 0:
            raise SchemeError(f"a decay of {decay} after {delay} batches: give 0 ≤ decay < 1 and 0 batches or more")
        self.bits, self.decay, self.delay = bits, decay, delay
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(0.0))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self._observe(x.detach())
        if int(self.seen) <= self.delay:
            return x
        y: Tensor = self.settled()(x)
        return y

    def _observe(self, x: Tensor) -> None:
        low, high = x.min().float().clamp(max=0), x.max().float().clamp(min=0)
        decay = self.decay if int(self.seen) else 0.0
        self.low.mul_(decay).add_((1 - decay) * low)
        self.high.mul_(decay).add_((1 - decay) * high)
        self.seen += 1

    def settled(self) -> Quantizer:
        if not int(self.seen):
            raise SchemeError("a moving range saw no batch, so there is no range to quantize to; train first")
        return Quantizer.covering(float(self.low), float(self.high), self.bits)

    def to_json(self) -> list[Any]:
        return [self.bits, self.decay, self.delay]

    @classmethod
    def from_json(cls, record: list[Any]) -> "MovingRange":
        match record:
            case [int(bits), int(decay) | float(decay), int(delay)]:
                return cls(bits, decay, delay)
        raise FormatError(f"{record} is no moving range")


class HalfWave(StoredFunction):
    """``0`` for ``x ≤ 0``, else the nearest of ``s, 2s … (2ᵇ − 1) s``: what is positive never becomes zero.

    Half-wave Gaussian quantization (Cai et al. 2017, arXiv 1702.00953, section 4): ``s`` is the step that is best, in
    squared error, for the positive half of a unit Gaussian (:func:`half_wave_step`), since batch-normalised inputs are
    about that. Backward: of the clipped rectifier, ``1`` for ``0 < x ≤ (2ᵇ − 1) s``, else 0 (section 4.2, equation 12).
    """

    identifier = "half-wave"

    def __init__(self, bits: int, step: float) -> None:
        super().__init__()
        if not 1 <= bits <= 8 or not step > 0:
            raise SchemeError(f"{bits} bits of a step of {step}: give 1 to 8 bits and a positive step")
        self.bits, self.step = bits, step

    def forward(self, x: Tensor) -> Tensor:
        top = 2**self.bits - 1
        clipped = x.clamp(0, top * self.step)
        with torch.no_grad():
            levels = (x / self.step).round().clamp(1, top) * (x > 0)
        return clipped + (levels * self.step - clipped.detach()).to(x.dtype)

    def to_json(self) -> list[Any]:
        return [self.bits, self.step]

    @classmethod
    def from_json(cls, record: list[Any]) -> "HalfWave":
        match record:
            case [int(bits), float(step)] if 1 <= bits <= 8 and 0 < step < 1e30:
                return cls(bits, step)
        raise FormatError(f"{record} is no half-wave quantizer")


def half_wave_step(bits: int) -> float:
    """``argmin_s E[(x − q(x))² | x > 0]`` for ``x ~ N(0, 1)`` and the levels ``s … (2ᵇ − 1) s`` of :class:`HalfWave`.

    Golden-section search on the exact error, by Gaussian integrals over the cells between midpoints.
    """
    low, high = 1e-3, 3.0
    ratio = (5**0.5 - 1) / 2
    while high - low > 1e-9:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if _half_wave_error(a, bits) < _half_wave_error(b, bits) else (a, high)
    return (low + high) / 2


def _half_wave_error(step: float, bits: int) -> float:
    levels = step * torch.arange(1, 2**bits, dtype=torch.float64)
    middle = (levels[1:] + levels[:-1]) / 2
    edges = torch.cat([levels.new_zeros(1), middle, levels.new_full((1,), torch.inf)])
    density = torch.exp(-edges.square() / 2) / (2 * torch.pi) ** 0.5
    below = torch.special.ndtr(edges)
    moved = torch.where(edges.isinf(), 0.0, edges * density)  # x φ(x) vanishes at infinity
    mass, first = below.diff(), -density.diff()
    second = mass - moved.diff()
    return float((second - 2 * levels * first + levels.square() * mass).sum())


class QuantizedGradient(GradientFunction):
    """The identity, whose gradient is quantized to ``bits`` bits with random rounding.

    ``g ← 2 m [q(g / 2m + ½ + N) − ½]`` with ``m`` the largest ``|g|`` of each sample,
    ``q(r) = round((2ᵇ − 1) r)/(2ᵇ − 1)`` and ``N = u / (2ᵇ − 1)``, ``u`` uniform on ``[−½, ½]`` (Zhou et al. 2016,
    arXiv 1606.06160, equation 12 and section 2.5).
    """

    identifier = "quantized-gradient"

    def __init__(self, bits: int) -> None:
        super().__init__()
        if not 1 <= bits <= 16:
            raise SchemeError(f"{bits} bits are not in 1..16")
        self.bits = bits

    def changed(self, g: Tensor) -> Tensor:
        top = 2**self.bits - 1
        wide = g if g.dtype == torch.float64 else g.float()  # in bfloat16, ½ + a small share rounds to one side
        largest = wide.abs().amax(dim=tuple(range(1, g.ndim)), keepdim=True).clamp(min=torch.finfo(wide.dtype).tiny)
        noise = (torch.rand_like(wide) - 0.5) / top
        unit = (wide / (2 * largest) + 0.5 + noise).clamp(0, 1)
        rounded: Tensor = 2 * largest * ((unit * top).round() / top - 0.5)
        return rounded.to(g.dtype)

    def to_json(self) -> list[Any]:
        return [self.bits]

    @classmethod
    def from_json(cls, record: list[Any]) -> "QuantizedGradient":
        match record:
            case [int(bits)]:
                return cls(bits)
        raise FormatError(f"{record} is no quantizer of gradients")


class ShiftedError(GradientFunction):
    """The identity, whose gradient ``g`` becomes ``clip(round(g / (s σ)), ±(2ᵏ⁻¹ − 1)) σ``: an integer of ``k`` bits.

    ``s = 2^round(log₂ max|g|)`` of the batch and ``σ = 2^(1−k)``: of an error, only its proportions are passed on, and
    not how large it is (Wu, Li, Chen and Shi 2018, arXiv 1802.04680, section 3.3.3).
    """

    identifier = "shifted-error"

    def __init__(self, bits: int) -> None:
        super().__init__()
        if not 2 <= bits <= 16:
            raise SchemeError(f"{bits} bits are not in 2..16")
        self.bits = bits

    def changed(self, g: Tensor) -> Tensor:
        steps = 2 ** (self.bits - 1)
        levels = (g / nearest_power(g)).mul_(steps).round_().clamp_(1 - steps, steps - 1)
        return levels.div_(steps)

    def to_json(self) -> list[Any]:
        return [self.bits]

    @classmethod
    def from_json(cls, record: list[Any]) -> "ShiftedError":
        match record:
            case [int(bits)]:
                return cls(bits)
        raise FormatError(f"{record} is no shifted quantizer of errors")
