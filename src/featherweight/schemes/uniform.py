"""Uniform quantization: integers times a scale."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, direct, latent, number_type, part_streams, read_part
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight, straight_through
from featherweight.schemes.floats import Floats, narrow, positive, rounded, stored


@dataclass(frozen=True)
class PerTensor:
    """One scale for the tensor."""


@dataclass(frozen=True)
class PerChannel:
    """One scale for every index of ``axis``: 0 is the output of linear and convolution weights, 1 of transposed."""

    axis: int = 0


@dataclass(frozen=True)
class PerGroup:
    """One scale for every ``size`` consecutive entries in row-major order; ``size`` must divide a row."""

    size: int = 64


Granularity = PerTensor | PerChannel | PerGroup


class Fit(Enum):
    """How a scale is found."""

    RANGE = "range"  # the largest entry becomes the largest level
    SEARCH = "search"  # the best, in the metric, of the shares 0.21, 0.22 ... 1 of that range
    POWER_OF_TWO = "power of two"  # the least power of two at which the range holds the largest entry


SHARES = tuple(percent / 100 for percent in range(99, 20, -1))
"""What ``Fit.SEARCH`` tries besides the full range."""


def blocks(w: Tensor, granularity: Granularity) -> Tensor:
    """``w`` as a matrix [blocks, entries] whose rows share a scale."""
    match granularity:
        case PerTensor():
            return w.reshape(1, -1)
        case PerChannel(axis):
            if not 0 <= axis < w.ndim:
                raise SchemeError(f"there is no axis {axis} in shape {tuple(w.shape)}; use PerTensor")
            return w.movedim(axis, 0).reshape(w.shape[axis], -1)
        case PerGroup(size):
            row = _row(tuple(w.shape))
            if size < 1 or row % size:
                raise SchemeError(
                    f"a group size of {size} does not divide rows of {row} entries (shape "
                    f"{tuple(w.shape)}); use a divisor, or PerChannel"
                )
            return w.reshape(-1, size)


def blocked(w: Tensor, metric: Metric, granularity: Granularity) -> tuple[Tensor, Tensor | None]:
    """A weight, and the weights of a diagonal metric where there are some, as :func:`blocks` of the numbers' type."""
    matrix = blocks(w.detach(), granularity).to(number_type(w.dtype))
    weights = metric.weights(w)
    return matrix, None if weights is None else blocks(weights, granularity).to(matrix.dtype)


def _row(shape: tuple[int, ...]) -> int:
    """Entries of a row; a vector is one."""
    return prod(shape[1:] if len(shape) > 1 else shape)


def unblocked(matrix: Tensor, shape: tuple[int, ...], granularity: Granularity) -> Tensor:
    """Inverse of :func:`blocks`."""
    if isinstance(granularity, PerChannel):
        axis = granularity.axis
        moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
        return matrix.reshape(moved).movedim(0, axis)
    return matrix.reshape(shape)


def spread_of(granularity: Granularity) -> tuple[int, ...]:
    """The settings that a file has for a granularity."""
    match granularity:
        case PerTensor():
            return (0,)
        case PerChannel(axis):
            return (1, axis)
        case PerGroup(size):
            return (2, size)


def granularity_of(settings: tuple[int, ...], shape: tuple[int, ...]) -> Granularity | None:
    """Inverse of :func:`spread_of`; ``None`` for settings that no code of this shape has, empty ones among them."""
    if not prod(shape):
        return None
    match settings:
        case (0,):
            return PerTensor()
        case (1, axis) if axis < len(shape):
            return PerChannel(axis)
        case (2, size) if size >= 1 and _row(shape) % size == 0:
            return PerGroup(size)
        case _:
            return None


def block_count(granularity: Granularity, shape: tuple[int, ...]) -> int:
    """How many blocks a tensor of this shape has."""
    match granularity:
        case PerTensor():
            return 1
        case PerChannel(axis):
            return shape[axis]
        case PerGroup(size):
            return prod(shape) // size


@dataclass(frozen=True)
class Grid:
    """The integers of a uniform code: ``low .. high``, and whether they are shifted by a zero point.

    Symmetric with b > 1 bits: ``−(2ᵇ⁻¹ − 1) .. 2ᵇ⁻¹ − 1``, so that zero is a level. Symmetric with one bit: the levels
    ``−1`` and ``+1``. Odd: ``−(2ᵇ − 1), −(2ᵇ − 3) … 2ᵇ − 1``, all 2ᵇ levels and no zero. Affine: ``0 .. 2ᵇ − 1`` less
    the zero point.
    """

    bits: int
    symmetric: bool
    odd: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise SchemeError(f"{self.bits} bits are not in 1..8; wider codes are floats (Float)")
        if self.odd and not self.symmetric:
            raise SchemeError("an odd grid has no zero point; leave it symmetric")

    @property
    def low(self) -> int:
        if self.odd:
            return 1 - (1 << self.bits)
        return (-1 if self.bits == 1 else 1 - 2 ** (self.bits - 1)) if self.symmetric else 0

    @property
    def high(self) -> int:
        if self.odd:
            return (1 << self.bits) - 1
        return (1 if self.bits == 1 else 2 ** (self.bits - 1) - 1) if self.symmetric else 2**self.bits - 1

    @property
    def step(self) -> int:
        """Distance of neighbouring levels: 2 for grids without zero."""
        return 2 if self.odd or (self.symmetric and self.bits == 1) else 1

    @property
    def alphabet(self) -> int:
        return (self.high - self.low) // self.step + 1

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest level, ties to even levels; of grids without zero, ties upwards: zero goes to +1."""
        if self.step == 2:
            return ((x / 2).floor() * 2 + 1).clamp(self.low, self.high)
        return x.round().clamp(self.low, self.high)


@dataclass(frozen=True, eq=False)
class UniformCode(Code):
    """``decode() = scale · (level − zero)``, with one scale (and zero point) a block."""

    levels: Tensor = latent()  # int16, of the code's shape, in the grid
    scales: Code = direct()  # of shape [blocks]
    zeros: Tensor | None = latent()  # int16 of shape [blocks]; None where symmetric
    grid: Grid = Grid(8, True)
    granularity: Granularity = PerTensor()

    def select(self, dim: int, indices: Tensor) -> "UniformCode | None":
        """Scales of the channels that stay; groups of entries do not survive."""
        levels = self.levels.index_select(dim, indices)
        scales: Code | None = self.scales
        zeros = self.zeros
        match self.granularity:
            case PerGroup():
                return None
            case PerChannel(axis) if axis == dim:
                scales = self.scales.select(0, indices)
                zeros = None if zeros is None else zeros.index_select(0, indices)
        if scales is None:
            return None
        return replace(self, shape=tuple(levels.shape), levels=levels, scales=scales, zeros=zeros)

    @property
    def bits(self) -> int:
        return self.grid.bits

    @property
    def columnwise(self) -> bool:
        return isinstance(self.granularity, PerTensor) or self.granularity == PerChannel(0)

    def decode(self) -> Tensor:
        levels = blocks(self.levels, self.granularity)
        if self.zeros is not None:
            levels = levels - self.zeros[:, None]
        return unblocked(levels * self.scales.decode()[:, None], self.shape, self.granularity).to(self.dtype)

    def settings(self) -> tuple[int, ...]:
        return (self.grid.bits, 2 if self.grid.odd else int(self.grid.symmetric), *spread_of(self.granularity))

    def streams(self) -> Iterator[Stream]:
        above = self.levels - self.grid.low
        yield Stream("levels", above if self.grid.step == 1 else above // self.grid.step, self.grid.alphabet)
        if self.zeros is not None:
            yield Stream("zeros", self.zeros.long(), self.grid.alphabet)
        yield from part_streams("scales", self.scales)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "UniformCode":
        match layout.settings:
            case (bits, 0 | 1 | 2 as kind, *spread):
                granularity = granularity_of(tuple(spread), shape)
            case _:
                granularity = None
        if granularity is None or not 1 <= bits <= 8 or len(layout.parts) != 1:
            raise FormatError(
                f"a uniform code of shape {shape} has no settings {layout.settings} and {len(layout.parts)} parts"
            )
        grid = Grid(bits, kind > 0, kind == 2)
        levels = take("levels", shape, grid.alphabet).to(torch.int16) * grid.step + grid.low
        count = block_count(granularity, shape)
        zeros = None if grid.symmetric else take("zeros", (count,), grid.alphabet).to(torch.int16)
        numbers = number_type(dtype)
        scales = read_part(layout, 0, (count,), numbers, take, "scales")
        return cls(shape, dtype, levels, scales, zeros, grid, granularity)


@dataclass(frozen=True)
class Uniform(Scheme):
    """``min Σ d (w − s (q − z))²`` over levels ``q`` of a grid, with a scale ``s`` and a zero point ``z`` a block.

    Given the scales, every level is the best in any diagonal metric (rounding to nearest; with ``rate`` the minimum of
    ``d (w − ŵ)² + λ bits``). ``Fit.RANGE`` takes ``s`` from the largest entry; ``Fit.SEARCH`` also tries smaller
    shares of it; ``Fit.POWER_OF_TWO``, for symmetric levels that hold zero, makes products with ``s`` shifts (dynamic
    fixed point: Gysel, Motamedi and Ghiasi 2016, arXiv 1604.03168). Scales are stored in float16 where its range holds
    them, else in float32.

    Latent learning passes gradients straight through inside the range, and to the scale as learned step size
    quantization does (Esser et al. 2019, arXiv 1902.08153, equation 3), with its gradient scale ``1/√(n·high)``.
    """

    bits: int = 8
    symmetric: bool = True
    granularity: Granularity = PerTensor()
    fit: Fit = Fit.RANGE
    odd: bool = False
    promise: ClassVar[Promise] = Promise.LOCAL

    def __post_init__(self) -> None:
        Grid(self.bits, self.symmetric, self.odd)
        if self.fit is Fit.POWER_OF_TWO and (not self.symmetric or self.bits == 1 or self.odd):
            raise SchemeError("scales that are powers of two are for symmetric levels that hold zero, of 2 to 8 bits")

    @property
    def grid(self) -> Grid:
        return Grid(self.bits, self.symmetric, self.odd)

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> UniformCode:
        check_weight(w)
        matrix, d = blocked(w, metric, self.granularity)
        if warm is not None:
            scales, zeros = _as_uniform(warm).scales, _as_uniform(warm).zeros
        else:
            scales, zeros = self._scales(matrix, d)
        levels = self._levels(matrix, d, scales.decode(), zeros, rate)
        levels16 = unblocked(levels.to(torch.int16), tuple(w.shape), self.granularity)
        return UniformCode(tuple(w.shape), w.dtype, levels16, scales, zeros, self.grid, self.granularity)

    def through(self, w: Tensor, code: Code) -> Tensor:
        before = _as_uniform(code)
        matrix = blocks(w, self.granularity).to(before.scales.dtype)
        scales = before.scales.decode()
        if scales.requires_grad:
            scales = _scaled_gradient(scales, (matrix.shape[1] * max(self.grid.high, 1)) ** -0.5)
        zeros = 0 if before.zeros is None else before.zeros.to(matrix.dtype)[:, None]
        x = matrix / scales[:, None] + zeros
        inside = x.clamp(self.grid.low, self.grid.high)
        levels = straight_through(self.grid.nearest(x), inside)
        return unblocked((levels - zeros) * scales[:, None], before.shape, self.granularity).to(w.dtype)

    def _scales(self, matrix: Tensor, d: Tensor | None) -> tuple[Floats, Tensor | None]:
        scales, zeros = self._range(matrix, d)
        if self.fit is not Fit.SEARCH or self.bits == 1 and self.symmetric:
            return scales, zeros
        best, least = scales.values, self._error(matrix, d, scales, zeros)
        for share in SHARES:
            tried = Floats.holding(scales.values * share, scales.width)
            error = self._error(matrix, d, tried, zeros)
            best = torch.where(error < least, tried.values, best)
            least = torch.minimum(error, least)
        return Floats.holding(best, scales.width), zeros

    def _error(self, matrix: Tensor, d: Tensor | None, scales: Floats, zeros: Tensor | None) -> Tensor:
        levels = self._levels(matrix, d, scales.values, zeros, None)
        shift = 0 if zeros is None else zeros.to(matrix.dtype)[:, None]
        squared = ((levels - shift) * scales.values[:, None] - matrix).square()
        return (squared if d is None else squared * d).sum(1)

    def _range(self, matrix: Tensor, d: Tensor | None) -> tuple[Floats, Tensor | None]:
        if not self.symmetric:
            low, high = matrix.amin(1).clamp(max=0), matrix.amax(1).clamp(min=0)
            # Scales round down and halves up: else an outermost level could go unused.
            scales = _stored_below(positive((high.double() - low.double()) / self.grid.high), matrix.dtype)
            return scales, (-low / scales.values + 0.5).floor().clamp(0, self.grid.high).to(torch.int16)
        if self.bits == 1:
            weights = torch.ones_like(matrix) if d is None else d
            mean = (weights * matrix.abs()).sum(1) / weights.sum(1).clamp(min=torch.finfo(matrix.dtype).tiny)
            return stored(positive(mean)), None
        covering = positive(matrix.abs().amax(1) / self.grid.high)
        return stored(_power_of_two(covering) if self.fit is Fit.POWER_OF_TWO else covering), None

    def _levels(
        self, matrix: Tensor, d: Tensor | None, scales: Tensor, zeros: Tensor | None, rate: Rate | None
    ) -> Tensor:
        shift = 0 if zeros is None else zeros.to(matrix.dtype)[:, None]
        if rate is None:
            return self.grid.nearest(matrix / scales[:, None] + shift)
        levels = torch.arange(self.grid.low, self.grid.high + 1, self.grid.step, device=matrix.device)
        values = [(level - shift) * scales[:, None] for level in levels.tolist()]
        return levels[rate.cheapest(matrix, d, values)].to(matrix.dtype)


def _power_of_two(values: Tensor) -> Tensor:
    """The least power of two that is not smaller, of positive numbers."""
    mantissa, exponent = torch.frexp(values)  # 1/2 ≤ mantissa < 1
    return torch.ldexp(torch.ones_like(values), exponent - (mantissa == 0.5).to(exponent.dtype))


def _stored_below(values: Tensor, dtype: torch.dtype) -> Floats:
    """``values``, in float64, at the width that holds them, none above what it was; held in ``dtype``."""
    width = narrow(values)
    nearest, lower = (rounded(values * factor, width) for factor in (1, 1 - torch.finfo(width.dtype).eps / 2))
    return Floats.holding(torch.where(nearest > values, lower, nearest).to(dtype), width)


def _scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """``x``, with its gradient multiplied by ``factor``."""
    return straight_through(x, x * factor)


def _as_uniform(code: Code) -> UniformCode:
    if not isinstance(code, UniformCode):
        raise SchemeError(f"a warm start of a uniform scheme is a uniform code, not {type(code).__name__}")
    return code
