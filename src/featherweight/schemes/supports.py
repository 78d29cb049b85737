"""Codes of sparse tensors: which entries stay, written as cheaply as their structure allows, and their values."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, direct, fixed, part_streams, read_part
from featherweight.core.errors import FormatError
from featherweight.schemes.runs import LONGEST, PATTERNS, Runs, numbered, table
from featherweight.schemes.structures import DIMENSIONS, Box, Norm


@dataclass(frozen=True, eq=False)
class Support:
    """Which entries of a tensor stay, bool, of its shape."""

    entries: Tensor

    def less(self, alive: Tensor, importance: Tensor) -> Self:
        """Only those of them that are ``alive``, at least in part; where none is, the most important of all."""
        return replace(self, entries=never_empty(self.entries & alive, importance))

    def code(self, dtype: torch.dtype, values: Code) -> "SparseCode":
        """The code with these values, row-major."""
        return SparseCode(tuple(self.entries.shape), dtype, self.entries, values)


@dataclass(frozen=True, eq=False)
class BoxSupport(Support):
    """All entries of some boxes of a grid."""

    box: Box

    def less(self, alive: Tensor, importance: Tensor) -> "BoxSupport":
        boxes = never_empty(self.box.any(self.entries & alive), self.box.reduced(importance.double(), Norm.L2))
        return BoxSupport(self.box.spread(boxes, tuple(self.entries.shape)), self.box)

    def code(self, dtype: torch.dtype, values: Code) -> "SparseCode":
        shape = tuple(self.entries.shape)
        if self.box.single(shape):
            return super().code(dtype, values)
        return BoxSparseCode(shape, dtype, self.entries, values, box=self.box)


@dataclass(frozen=True, eq=False)
class RunSupport(Support):
    """At most n entries of every run of m."""

    runs: Runs

    def code(self, dtype: torch.dtype, values: Code) -> "SparseCode":
        if self.runs.m > LONGEST or self.runs.patterns > PATTERNS:
            return super().code(dtype, values)
        shape, runs = tuple(self.entries.shape), self.runs
        return RunSparseCode(shape, dtype, self.entries, values, n=runs.n, m=runs.m, members=runs.members)


@dataclass(frozen=True, eq=False)
class SparseCode(Code):
    """``decode()`` is zero outside ``support`` and holds ``values.decode()`` on it, in row-major order."""

    support: Tensor = fixed()  # bool, of the code's shape
    values: Code = direct()  # of shape [survivors]

    def decode(self) -> Tensor:
        values = self.values.decode()
        return values.new_zeros(self.shape).masked_scatter(self.support, values)

    def form(self, entries: Tensor) -> Support:
        """Other entries, to be written as this code writes its own."""
        return Support(entries)

    def select(self, dim: int, indices: Tensor) -> "SparseCode | None":
        """A plain support of what stays; ``None`` where nothing does, or the values cannot be taken apart."""
        support = self.support.index_select(dim, indices)
        order = self.support.flatten().cumsum(0).reshape(self.support.shape) - 1
        left = order.index_select(dim, indices)[support]
        values = self.values.select(0, left) if len(left) else None
        return None if values is None else SparseCode(tuple(support.shape), self.dtype, support, values)

    def settings(self) -> tuple[int, ...]:
        return ()

    def streams(self) -> Iterator[Stream]:
        yield Stream("support", self.support.to(torch.uint8), 2)
        yield from part_streams("values", self.values)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "SparseCode":
        if layout.settings or len(layout.parts) != 1:
            raise FormatError("a sparse code has one part and no settings")
        support = take("support", shape, 2).bool()
        return cls(shape, dtype, support, read_part(layout, 0, (int(support.sum()),), dtype, take, "values"))


@dataclass(frozen=True, eq=False, kw_only=True)
class BoxSparseCode(SparseCode):
    """The same where boxes of entries live and die together: a bit is written for each box."""

    box: Box

    def form(self, entries: Tensor) -> Support:
        return BoxSupport(entries, self.box)

    def settings(self) -> tuple[int, ...]:
        return (int(self.box.matrix), *self.box.sizes)

    def streams(self) -> Iterator[Stream]:
        yield Stream("support", self.box.any(self.support).to(torch.uint8), 2)
        yield from part_streams("values", self.values)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "BoxSparseCode":
        matrix, *sizes = layout.settings or (2,)
        dims = 2 if matrix else len(shape)
        if matrix > 1 or len(sizes) != dims or dims > DIMENSIONS or len(layout.parts) != 1:
            raise FormatError(f"boxes {layout.settings}, {len(layout.parts)} parts, of a tensor of shape {shape}")
        box = Box(tuple(sizes), bool(matrix))
        support = box.spread(take("support", box.grid(shape), 2).bool(), shape)
        values = read_part(layout, 0, (int(support.sum()),), dtype, take, "values")
        return cls(shape, dtype, support, values, box=box)


@dataclass(frozen=True, eq=False, kw_only=True)
class RunSparseCode(SparseCode):
    """The same where at most ``n`` of every run of ``m`` stay: the pattern of a run is one symbol.

    ``members`` is the run of every input channel, int64, where runs are not of a row's consecutive entries.
    """

    n: int
    m: int
    members: Tensor | None = fixed()

    @property
    def runs(self) -> Runs:
        return Runs(self.n, self.m, self.members)

    def form(self, entries: Tensor) -> Support:
        return RunSupport(entries, self.runs)

    def settings(self) -> tuple[int, ...]:
        return (self.n, self.m, int(self.members is not None))

    def streams(self) -> Iterator[Stream]:
        if self.members is not None:
            yield Stream("members", self.members, -(-len(self.members) // self.m))
        patterns = numbered(self.runs.split(self.support), self.n)
        yield Stream("patterns", patterns, self.runs.patterns)
        yield from part_streams("values", self.values)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "RunSparseCode":
        if len(layout.settings) != 3 or len(layout.parts) != 1:
            raise FormatError("a code of runs has three settings and one part")
        n, m, permuted = layout.settings
        if not 1 <= n <= m <= LONGEST or permuted > 1 or Runs(n, m).patterns > PATTERNS:
            raise FormatError(f"there are no runs of {n} of {m} entries, permuted {permuted}")
        runs = Runs(n, m, _read_members(shape, m, take) if permuted else None)
        lines, length = runs.extent(shape)
        patterns = take("patterns", (lines, -(-length // m)), runs.patterns).long()
        kept = table(n, m).to(patterns.device)[patterns]
        support = runs.joined(kept, shape)
        if int(support.sum()) != int(kept.sum()):
            raise FormatError("a run at the end of a line keeps entries that it does not have")
        values = read_part(layout, 0, (int(support.sum()),), dtype, take, "values")
        return cls(shape, dtype, support, values, n=n, m=m, members=runs.members)


def _read_members(shape: tuple[int, ...], m: int, take: Take) -> Tensor:
    if len(shape) < 2 or shape[1] == 0:
        raise FormatError(f"a tensor of shape {shape} has no input channels to be permuted")
    count = -(-shape[1] // m)
    members = take("members", (shape[1],), count).long()
    sizes = members.bincount(minlength=count)
    if bool((sizes[:-1] != m).any()):
        raise FormatError(f"input channels are not in runs of {m}")
    return members


def never_empty(support: Tensor, importance: Tensor) -> Tensor:
    """At least the most important entry stays: a code of nothing would have no numbers to learn."""
    if bool(support.any()):
        return support
    first = torch.zeros_like(support).flatten()
    first[importance.flatten().argmax()] = True
    return first.reshape(support.shape)
