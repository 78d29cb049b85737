"""Multiplying 32-bit integers by real numbers with integer operations only.

Jacob et al. 2017, arXiv 1712.05877, section 2.2 and appendix B; the roundings are those of the gemmlowp library, which
integer engines and ARM's SQRDMULH and SRSHL instructions share. Integers of 32 bits are held in int64 tensors, so that
a product of two is exact.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from featherweight.core.errors import SchemeError

LOWEST, HIGHEST = -(2**31), 2**31 - 1
"""The integers of 32 bits."""


def doubling_high_product(a: Tensor, b: Tensor) -> Tensor:
    """``⌊2ab / 2³² + ½⌋`` of integers of 32 bits: the product as fixed-point numbers of 31 fractional bits.

    Ties go up. The one product outside 32 bits, of −2³¹ and itself, saturates.
    """
    product = torch.mul(a.long(), b.long()).add_(2**30)
    return product.bitwise_right_shift_(31).clamp_(max=HIGHEST)


def rounding_right_shift(x: Tensor, places: Tensor) -> Tensor:
    """``x / 2ᵖ`` for ``p`` in 0..31, rounded to nearest, ties away from zero."""
    x, places = x.long(), places.long()
    # ⌊(x + 2ᵖ⁻¹) / 2ᵖ⌋ rounds ties up; one less before the division sends those of negative numbers down.
    half = (torch.ones_like(places) << places) >> 1
    nudged = x + half
    return nudged.sub_(((x < 0) & (places > 0)).long()).bitwise_right_shift_(places)


@dataclass(frozen=True, eq=False)
class Multiplier:
    """Positive real numbers ``2⁻ⁿ · M₀``, where ``M₀ = mantissa / 2³¹`` lies in [½, 1): ``2³⁰ ≤ mantissa < 2³¹``.

    The call is ``x ↦ shift(product(x, mantissa), n)``. For ``n < 0`` a left shift by ``−n`` comes first and saturates.
    What should be beyond 32 bits then comes out at 2³⁰ − 1 or more, which is enough for what is clamped to 8 bits.
    Numbers below 2⁻³², whose product with 32 bits rounds to zero, have mantissa 0.
    """

    mantissas: Tensor  # int64, broadcast against what is multiplied
    shifts: Tensor  # int64: n, in −30..31

    @classmethod
    def nearest(cls, values: Tensor | float) -> Self:
        """The nearest multipliers to ``values``; ``SchemeError`` unless they are in (0, 2³⁰)."""
        exact = torch.as_tensor(values, dtype=torch.float64)
        if not bool(((exact > 0) & (exact < 2**30)).all()):
            raise SchemeError(
                "a multiplier of integers is not in (0, 2^30); look for scales that are zero or not finite"
            )
        shares, exponents = torch.frexp(exact)
        mantissas, shifts = (shares * 2**31).round().long(), -exponents.long()
        full = mantissas == 2**31
        mantissas, shifts = torch.where(full, 2**30, mantissas), shifts - full.long()
        if bool((shifts < -30).any()):
            raise SchemeError("a multiplier of integers rounds to 2^30, which is too large; look at the scales")
        tiny = shifts > 31
        return cls(torch.where(tiny, 0, mantissas), torch.where(tiny, 0, shifts))

    @property
    def values(self) -> Tensor:
        """What is multiplied by, in float64, exactly."""
        return torch.ldexp(self.mantissas.double(), -31 - self.shifts)

    def __call__(self, x: Tensor) -> Tensor:
        """``x · M`` rounded to integers of 32 bits; at most one from the nearest while nothing saturates."""
        x = x.long()
        if bool((self.shifts < 0).any()):
            x = (x << (-self.shifts).clamp(min=0)).clamp_(LOWEST, HIGHEST)
        return rounding_right_shift(doubling_high_product(x, self.mantissas), self.shifts.clamp(min=0))
