"""Fixed point: integers times a power of two that is given, in words of up to 24 bits."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, latent
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight, straight_through

WIDEST, FINEST = 24, 63
"""The most bits of a word, all of which float32 holds, and the most behind the point."""
PLANE = 12
"""Bits of a symbol that the coder's models see whole; those below are nearly uniform."""


@dataclass(frozen=True, eq=False)
class FixedPointCode(Code):
    """``decode() = levels · 2^(−fraction)``, levels from ``−2^(width−1)`` to ``2^(width−1) − 1``; nothing in it learns.

    The width is the least that holds the levels, so that small numbers on a fine grid take few bits.
    """

    levels: Tensor = latent()  # int32, of the code's shape
    width: int = 16
    fraction: int = 14

    @property
    def bits(self) -> int:
        return self.width

    def decode(self) -> Tensor:
        return (self.levels.double() * 2.0**-self.fraction).to(self.dtype)

    def settings(self) -> tuple[int, ...]:
        return (self.width, self.fraction)

    def streams(self) -> Iterator[Stream]:
        symbols = self.levels.long() + (1 << (self.width - 1))
        below = max(self.width - PLANE, 0)
        yield Stream("high", symbols >> below, 1 << (self.width - below))
        if below:
            yield Stream("low", symbols & ((1 << below) - 1), 1 << below)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "FixedPointCode":
        match layout.settings:
            case (width, fraction) if 1 <= width <= WIDEST and fraction <= FINEST:
                pass
            case _:
                raise FormatError(f"a fixed-point code has no settings {layout.settings}")
        if layout.parts or not prod(shape) or not dtype.is_floating_point:
            raise FormatError(f"a fixed-point code has no parts, no shape {shape} or no type {dtype}")
        below = max(width - PLANE, 0)
        symbols = take("high", shape, 1 << (width - below)).long() << below
        if below:
            symbols = symbols | take("low", shape, 1 << below).long()
        return cls(shape, dtype, (symbols - (1 << (width - 1))).to(torch.int32), width, fraction)


class Rounding(Enum):
    """How a number between two levels is rounded (Gupta et al. 2015, arXiv 1502.02551, section 3.1)."""

    NEAREST = "nearest"  # ties to even levels
    STOCHASTIC = "stochastic"  # upwards with the probability of its distance from the level below: E[round(x)] = x


@dataclass(frozen=True)
class FixedPoint(Scheme):
    """Numbers ``⟨IL, FL⟩``: multiples of ``ε = 2^(−FL)`` from ``−2^(IL−1)`` to ``2^(IL−1) − ε``.

    ``integer`` bits before the point, the sign among them, and ``fraction`` bits behind it (Gupta, Agrawal,
    Gopalakrishnan and Narayanan 2015, arXiv 1502.02551, section 3). The grid is given, so rounding to the nearest of
    it, or to its end, is the minimum in every diagonal metric. Where a tensor's grid is to be found from its entries,
    take :class:`featherweight.schemes.uniform.Uniform` with scales that are powers of two.

    Backward: straight through inside the range, zero outside.
    """

    integer: int = 2
    fraction: int = 14
    promise: ClassVar[Promise] = Promise.EXACT

    def __post_init__(self) -> None:
        if self.fraction < 0 or self.fraction > FINEST or not 1 <= self.integer + self.fraction <= WIDEST:
            raise SchemeError(
                f"words of {self.integer} bits before the point and {self.fraction} behind it are none of 1 to {WIDEST}"
            )

    @property
    def step(self) -> float:
        return 2.0**-self.fraction

    @property
    def low(self) -> float:
        return -(2.0 ** (self.integer - 1))

    @property
    def high(self) -> float:
        return -self.low - self.step

    def rounded(self, x: Tensor, rounding: Rounding = Rounding.NEAREST) -> Tensor:
        """``x`` on the grid, of its shape and type. Stochastic rounding draws from torch's global generator."""
        steps = x * (1 / self.step)
        levels = steps.round() if rounding is Rounding.NEAREST else (steps + torch.rand_like(steps)).floor()
        return levels.mul_(self.step).clamp_(self.low, self.high)

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> FixedPointCode:
        check_weight(w)
        half = 1 << (self.integer + self.fraction - 1)
        levels = (w.detach().double() / self.step).round().clamp(-half, half - 1).to(torch.int32)
        return FixedPointCode(tuple(w.shape), w.dtype, levels, _width(levels), self.fraction)

    def through(self, w: Tensor, code: Code) -> Tensor:
        with torch.no_grad():
            decoded = self.project(w.detach()).decode()
        return straight_through(decoded, w.clamp(self.low, self.high))


def _width(levels: Tensor) -> int:
    """The least width of a word in two's complement that holds all levels."""
    highest = max(int(levels.max()), -int(levels.min()) - 1, 0)
    return highest.bit_length() + 1
