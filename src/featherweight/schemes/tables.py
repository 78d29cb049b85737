"""Fixed tables: eight-bit data types whose values are no uniform grid."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, direct, latent, number_type, part_streams, read_part
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight, straight_through
from featherweight.schemes.floats import Floats, positive, stored
from featherweight.schemes.uniform import (
    Granularity,
    PerChannel,
    PerTensor,
    block_count,
    blocked,
    blocks,
    granularity_of,
    spread_of,
    unblocked,
)


class Table(Enum):
    """Values of eight bits, up to one (Dettmers 2015, arXiv 1511.04561, section 2); the number is the one in a file.

    ``DYNAMIC_TREE``: a sign; zeros, each of which divides by ten; a one; and what is left of the seven bits says which
    of the equal parts of [0.1, 1] is meant, whose middle is the value. No one at all is 0, and −0 is used for 1.

    ``MINIFLOAT``: a sign, three bits of exponent and four of mantissa, with gradual underflow, over the largest number.
    """

    DYNAMIC_TREE = 0
    MINIFLOAT = 1

    @property
    def numbers(self) -> tuple[float, ...]:
        """Ascending; zero is among them."""
        return _dynamic_tree() if self is Table.DYNAMIC_TREE else _minifloat()

    def values(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.tensor(self.numbers, dtype=dtype, device=device)


@cache
def _dynamic_tree() -> tuple[float, ...]:
    positive = []
    for zeros in range(7):
        parts = 1 << (6 - zeros)
        positive += [(0.1 + 0.9 * (part + 0.5) / parts) / 10**zeros for part in range(parts)]
    return tuple(sorted([*(-value for value in positive), 0.0, *positive, 1.0]))


@cache
def _minifloat() -> tuple[float, ...]:
    subnormal = [mantissa / 16 for mantissa in range(16)]
    normal = [(1 + mantissa / 16) * 2**exponent for exponent in range(7) for mantissa in range(16)]
    positive = [value / normal[-1] for value in (*subnormal, *normal)]
    return tuple(sorted({*(-value for value in positive if value), *positive}))


@dataclass(frozen=True, eq=False)
class TableCode(Code):
    """``decode() = scale · table[index]``, with one scale a block."""

    indices: Tensor = latent()  # int16 of the code's shape
    scales: Code = direct()  # of shape [blocks]
    table: Table = Table.DYNAMIC_TREE
    granularity: Granularity = PerTensor()

    @property
    def bits(self) -> int:
        return 8

    @property
    def columnwise(self) -> bool:
        return isinstance(self.granularity, PerTensor) or self.granularity == PerChannel(0)

    def decode(self) -> Tensor:
        scales = self.scales.decode()
        values = self.table.values(scales.dtype, scales.device)[blocks(self.indices, self.granularity).long()]
        return unblocked(values * scales[:, None], self.shape, self.granularity).to(self.dtype)

    def settings(self) -> tuple[int, ...]:
        return (self.table.value, *spread_of(self.granularity))

    def streams(self) -> Iterator[Stream]:
        yield Stream("indices", self.indices.long(), len(self.table.numbers))
        yield from part_streams("scales", self.scales)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "TableCode":
        match layout.settings:
            case (0 | 1 as number, *spread):
                table, granularity = Table(number), granularity_of(tuple(spread), shape)
            case _:
                granularity = None
        if granularity is None or len(layout.parts) != 1:
            raise FormatError(
                f"a table code of shape {shape} has no settings {layout.settings} and {len(layout.parts)} parts"
            )
        indices = take("indices", shape, len(table.numbers)).to(torch.int16)
        numbers = number_type(dtype)
        scales = read_part(layout, 0, (block_count(granularity, shape),), numbers, take, "scales")
        return cls(shape, dtype, indices, scales, table, granularity)


@dataclass(frozen=True)
class Tabled(Scheme):
    """Every entry is the nearest value of a table times a scale a block; the largest entry is the table's largest.

    ``s = max(max w / max table, min w / min table)``, stored in float16 where its range holds it, else in float32.
    Given the scale, every symbol is the best in any diagonal metric (with ``rate``, the minimum of
    ``d (w − ŵ)² + λ bits``).

    Latent learning passes gradients straight through inside the range; a scale gets ``ŵ/s − w/s`` there, else ``ŵ/s``.
    """

    table: Table = Table.DYNAMIC_TREE
    granularity: Granularity = PerTensor()
    promise: ClassVar[Promise] = Promise.LOCAL

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> TableCode:
        check_weight(w)
        matrix, d = blocked(w, metric, self.granularity)
        values = self.table.values(matrix.dtype, w.device)
        scales: Code = self._scales(matrix, values) if warm is None else _as_table(warm).scales
        if rate is None:
            indices = _nearest(matrix / scales.decode()[:, None], values)
        else:
            indices = rate.cheapest(matrix, d, (values * scales.decode()[:, None])[:, :, None].unbind(1))
        kept = unblocked(indices.to(torch.int16), tuple(w.shape), self.granularity)
        return TableCode(tuple(w.shape), w.dtype, kept, scales, self.table, self.granularity)

    def through(self, w: Tensor, code: Code) -> Tensor:
        before = _as_table(code)
        scales = before.scales.decode()[:, None]
        values = self.table.values(scales.dtype, scales.device)
        x = blocks(w, self.granularity).to(scales.dtype) / scales
        seen = straight_through(values[_nearest(x.detach(), values)], x.clamp(float(values[0]), float(values[-1])))
        return unblocked(seen * scales, before.shape, self.granularity).to(w.dtype)

    def _scales(self, matrix: Tensor, values: Tensor) -> Floats:
        return stored(positive(torch.maximum(matrix.amax(1) / values[-1], matrix.amin(1) / values[0])))


def _nearest(x: Tensor, values: Tensor) -> Tensor:
    return torch.bucketize(x.contiguous(), (values[1:] + values[:-1]) / 2)


def _as_table(code: Code) -> TableCode:
    if not isinstance(code, TableCode):
        raise SchemeError(f"a warm start of a table scheme is a table code, not {type(code).__name__}")
    return code
