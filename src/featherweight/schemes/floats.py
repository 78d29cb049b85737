"""Plain numbers at a stored width: the leaves of every code."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Self

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, direct, fixed
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight, straight_through


class Width(Enum):
    """How a real number is stored; the value is its number in a file."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    FLOAT64 = 3

    @property
    def dtype(self) -> torch.dtype:
        return {0: torch.float32, 1: torch.float16, 2: torch.bfloat16, 3: torch.float64}[self.value]

    @classmethod
    def of(cls, dtype: torch.dtype) -> "Width":
        """The width that stores a tensor of ``dtype`` without loss."""
        for width in cls:
            if width.dtype == dtype:
                return width
        raise SchemeError(f"{dtype} has no stored width; convert the model to float32, float16, bfloat16 or float64")


def rounded(values: Tensor, width: Width) -> Tensor:
    """``values`` rounded to the width, in the type they had."""
    return values.to(width.dtype).to(values.dtype)


def fits(values: Tensor, width: Width, tolerance: float = 2**-10) -> bool:
    """Whether the width holds every value within a relative ``tolerance`` (2⁻¹⁰: float16 out of its subnormals)."""
    difference = (rounded(values, width) - values).abs()
    return bool((difference <= tolerance * values.abs()).all())


def narrow(values: Tensor) -> Width:
    """float16 where its range holds the values, else float32: for scales, centroids and other side values."""
    return Width.FLOAT16 if fits(values, Width.FLOAT16) else Width.FLOAT32


def positive(scales: Tensor) -> Tensor:
    """A block of zeros gets scale one, so that nothing is divided by zero."""
    return torch.where(scales > 0, scales, torch.ones_like(scales))


def stored(values: Tensor) -> "Floats":
    """``values`` at the width that holds them (:func:`narrow`)."""
    return Floats.holding(values, narrow(values))


INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


@dataclass(frozen=True, eq=False)
class Floats(Code):
    """Real numbers; ``values`` are held in ``dtype`` and are exactly representable in ``width``."""

    values: Tensor = direct()
    width: Width = Width.FLOAT32

    @classmethod
    def holding(cls, values: Tensor, width: Width) -> "Floats":
        """``values`` rounded to ``width``."""
        return cls(tuple(values.shape), values.dtype, rounded(values, width), width)

    @property
    def bits(self) -> int:
        return self.width.dtype.itemsize * 8

    def decode(self) -> Tensor:
        return self.values

    def select(self, dim: int, indices: Tensor) -> "Floats":
        values = self.values.index_select(dim, indices)
        return Floats(tuple(values.shape), self.dtype, values, self.width)

    def stored(self) -> Self:
        return self.with_tensors({"values": rounded(self.values, self.width)})

    def settings(self) -> tuple[int, ...]:
        return (self.width.value,)

    def streams(self) -> Iterator[Stream]:
        patterns = self.values.detach().to(self.width.dtype).view(INTEGERS[self.width.dtype]).long()
        if self.bits == 64:
            yield Stream("high", (patterns >> 32) & 0xFFFFFFFF, 2**32)
            yield Stream("low", patterns & 0xFFFFFFFF, 2**32)
        else:
            yield Stream("values", patterns & (2**self.bits - 1), 2**self.bits)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "Floats":
        match layout.settings:
            case (0 | 1 | 2 | 3 as number,) if not layout.parts:
                width = Width(number)
            case _:
                raise FormatError(f"floats have no settings {layout.settings}")
        bits = width.dtype.itemsize * 8
        if bits == 64:
            patterns = take("high", shape, 2**32).long() << 32 | take("low", shape, 2**32).long()
        else:
            patterns = take("values", shape, 2**bits).long()
        stored = patterns.to(INTEGERS[width.dtype]).view(width.dtype)
        return cls(shape, dtype, stored.to(dtype), width)


@dataclass(frozen=True)
class Float(Scheme):
    """Every entry rounded to the nearest number of a float format (ties to even).

    ``width`` ``None`` keeps the tensor's own format: nothing is lost.
    """

    width: Width | None = None
    promise: ClassVar[Promise] = Promise.EXACT

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> Floats:
        check_weight(w)
        width = self.width or Width.of(w.dtype)
        code = Floats.holding(w.detach().clone(), width)
        if not bool(torch.isfinite(code.values).all()):
            raise SchemeError(f"the largest entry, {w.abs().max():.3g}, overflows {width.name.lower()}; use BFLOAT16")
        return code

    def through(self, w: Tensor, code: Code) -> Tensor:
        """The backward rule is the identity; at the tensor's own width so is the forward."""
        if self.width is None or self.width is Width.of(w.dtype):
            return w
        return straight_through(rounded(w, self.width), w)


@dataclass(frozen=True, eq=False)
class Exact(Code):
    """Any tensor, bit for bit: integers and booleans of a model's state (counters, indices)."""

    values: Tensor = fixed()

    def decode(self) -> Tensor:
        return self.values

    def settings(self) -> tuple[int, ...]:
        return ()

    def streams(self) -> Iterator[Stream]:
        values = self.values.detach()
        if values.dtype == torch.bool or values.dtype.itemsize < 8:
            bits = 1 if values.dtype == torch.bool else 8 * values.dtype.itemsize
            yield Stream("values", values.long() & (2**bits - 1), 2**bits)
        else:
            yield Stream("high", (values.long() >> 32) & 0xFFFFFFFF, 2**32)
            yield Stream("low", values.long() & 0xFFFFFFFF, 2**32)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "Exact":
        if layout.settings or layout.parts or dtype.is_floating_point or dtype.is_complex:
            raise FormatError(f"exact integers have no settings {layout.settings} and no type {dtype}")
        if dtype == torch.bool:
            return cls(shape, dtype, take("values", shape, 2).bool())
        if dtype.itemsize < 8:
            patterns = take("values", shape, 2 ** (8 * dtype.itemsize)).long()
        else:
            patterns = take("high", shape, 2**32).long() << 32 | take("low", shape, 2**32).long()
        return cls(shape, dtype, patterns.to(dtype))
