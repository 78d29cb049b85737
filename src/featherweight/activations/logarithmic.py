"""Logarithmic quantizers: activations, and gradients, that are powers of two or of its root."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from featherweight.activations.gradients import GradientFunction
from featherweight.activations.rules import inputs
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.stage import TapRule
from featherweight.core.tap import Place, StoredFunction, TapSite
from featherweight.core.task import Task
from featherweight.schemes.logarithmic import Base, Powers


class LogQuantizer(StoredFunction):
    """``x̂ = sign(x) · base^min(e, t)`` with ``e = round(log_base |x|)``, and 0 where ``e ≤ t − K``.

    ``K`` magnitudes under a top exponent ``t`` in steps of the base; where it is not ``signed``, what is negative is 0
    (Miyashita, Lee and Murmann 2016, arXiv 1603.01025, equations 3 to 5, whose full scale range is ``t + 1``). ``b``
    bits hold ``2ᵇ − 1`` magnitudes, or ``2ᵇ⁻¹ − 1`` with a sign. Backward: straight through where ``|x|`` is not over
    ``base^(t + ½)`` (and ``x > 0``, where there is no sign), else 0.
    """

    identifier = "logarithmic"

    def __init__(self, magnitudes: int, base: Base, top: int, *, signed: bool = False) -> None:
        super().__init__()
        least, most = Powers(magnitudes, base).tops(torch.float32)
        if not least <= top <= most:
            raise SchemeError(f"a top exponent of {top} steps is not in {least}..{most}")
        self.magnitudes, self.base, self.top, self.signed = magnitudes, base, top, signed

    @classmethod
    def covering(cls, x: Tensor, bits: int, base: Base = Base.TWO) -> "LogQuantizer":
        """Up to the exponent that the largest magnitude of ``x`` rounds to; with a sign where ``x`` has one."""
        if not 1 <= bits <= 8:
            raise SchemeError(f"{bits} bits are not in 1..8")
        signed = bool((x < 0).any())
        if signed and bits == 1:
            raise SchemeError("one bit holds no sign and a magnitude; take 2 bits or more, or Signs")
        magnitudes = 2 ** (bits - 1) - 1 if signed else min(2**bits - 1, Powers.LARGEST)
        largest = x.detach().abs().max().double()
        least, most = Powers(magnitudes, base).tops(torch.float32)
        top = round(base.value * float(torch.log2(largest))) if largest > 0 else 0
        return cls(magnitudes, base, min(max(top, least), most), signed=signed)

    @property
    def bits(self) -> int:
        return (self.magnitudes * (1 + int(self.signed))).bit_length()

    @property
    def largest(self) -> float:
        return float(2 ** (self.top / self.base.value))

    @property
    def smallest(self) -> float:
        return float(2 ** ((self.top - self.magnitudes + 1) / self.base.value))

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return _rounded(x, self.magnitudes, self.base, self.top, self.signed)
        y: Tensor = _Round.apply(x, self)  # type: ignore[no-untyped-call]
        return y

    def to_json(self) -> list[Any]:
        return [self.magnitudes, self.base.value, self.top, int(self.signed)]

    @classmethod
    def from_json(cls, record: list[Any]) -> "LogQuantizer":
        if [type(value) for value in record] == [int] * 4:
            magnitudes, base, top, signed = record
            if 1 <= magnitudes <= Powers.LARGEST and base in (1, 2) and signed in (0, 1):
                least, most = Powers(magnitudes, Base(base)).tops(torch.float32)
                if least <= top <= most:
                    return cls(magnitudes, Base(base), top, signed=bool(signed))
        raise FormatError(f"{record} is no logarithmic quantizer")

    def extra_repr(self) -> str:
        return f"{self.smallest:.4g}..{self.largest:.4g}, {self.magnitudes} magnitudes, signed={self.signed}"


def _rounded(x: Tensor, magnitudes: int, base: Base, top: Tensor | int, signed: bool = True) -> Tensor:
    """``x`` with its exponents rounded, clipped at ``top``, and zero below the last of ``magnitudes``."""
    exponents = (torch.log2(x.abs().float()) * base.value).round()
    value = torch.exp2(exponents.clamp(max=top) / base.value)
    sign = x.sign() if signed else (x > 0).to(x.dtype)
    return torch.where(exponents > top - magnitudes, value * sign, torch.zeros_like(value)).to(x.dtype)


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: LogQuantizer) -> Tensor:
        limit = 2 ** ((function.top + 0.5) / function.base.value)
        ctx.save_for_backward((x.abs() if function.signed else x.where(x > 0, torch.inf)) <= limit)
        return _rounded(x, function.magnitudes, function.base, function.top, function.signed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None


class LogGradient(GradientFunction):
    """The identity, whose gradient is rounded to powers: ``bits`` bits with a sign under the batch's largest magnitude.

    Miyashita, Lee and Murmann 2016, arXiv 1603.01025, section 5 train with gradients of 5 bits.
    """

    identifier = "logarithmic-gradient"

    def __init__(self, bits: int, base: Base = Base.TWO) -> None:
        super().__init__()
        if not 2 <= bits <= 8:
            raise SchemeError(f"{bits} bits are not in 2..8")
        self.bits, self.base = bits, base

    def changed(self, g: Tensor) -> Tensor:
        largest = g.abs().max().float().clamp(min=torch.finfo(torch.float32).tiny)
        top = (torch.log2(largest) * self.base.value).round()
        return _rounded(g, 2 ** (self.bits - 1) - 1, self.base, top)

    def to_json(self) -> list[Any]:
        return [self.bits, self.base.value]

    @classmethod
    def from_json(cls, record: list[Any]) -> "LogGradient":
        match record:
            case [int(bits), 1 | 2 as base]:
                return cls(bits, Base(base))
        raise FormatError(f"{record} is no logarithmic quantizer of gradients")


@dataclass(frozen=True)
class LogActivations(TapRule):
    """Quantize what convolutions and linear layers of the matching modules take in to powers of ``base``.

    ``bits`` everywhere but at the modules of ``exceptions``. Top exponents are those of the first calibration batch.
    With ``gradients`` the gradients that reach these layers' results are rounded to powers of so many bits while
    learning.
    """

    modules: tuple[str, ...] = ("*",)
    bits: int = 4
    base: Base = Base.TWO
    exceptions: tuple[tuple[str, int], ...] = ()
    gradients: int | None = None

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        found = inputs(student, task, self.modules)
        sites = [TapSite(place, LogQuantizer.covering(x, self._bits(place), self.base)) for place, x in found.items()]
        if self.gradients is not None:
            sites += [TapSite(Place(place.call, None), LogGradient(self.gradients, self.base)) for place in found]
        return sites

    def _bits(self, place: Place) -> int:
        return next((bits for name, bits in self.exceptions if fnmatchcase(place.call.module, name)), self.bits)
