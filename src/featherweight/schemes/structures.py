"""Which entries of a tensor live and die together: the boxes of a grid over it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from featherweight.core.errors import SchemeError


class Norm(Enum):
    """What the importances of a box's entries are reduced to."""

    L2 = "root of the sum of squares"  # √Σ d w² of a diagonal metric: the root of the error that zeroing the box makes
    L1 = "sum"  # Σ √d |w| (Mao et al. 2017); of scores of any sign, their sum
    RMS = "root of the mean square"  # L2 over the root of the box's size (Yu et al. 2017): boxes of any size compare


@dataclass(frozen=True)
class Box:
    """A grid over a tensor whose boxes hold ``sizes`` entries along each dimension, 0 for all of it.

    With ``matrix`` the tensor is read as its rows, [first dimension, all others] (a vector as one row), and there are
    two sizes. Where a size does not divide its dimension, the last box along it is shorter.
    """

    sizes: tuple[int, ...]
    matrix: bool = False

    def view(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the sizes are of."""
        if not self.matrix:
            return shape
        return (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))

    def grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """How many boxes there are along each dimension."""
        return tuple(-(-n // size) for n, size in self._extents(shape))

    def single(self, shape: tuple[int, ...]) -> bool:
        """Whether every box of such a tensor is one entry."""
        return all(size == 1 for _, size in self._extents(shape))

    def spread(self, boxes: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Every entry's box's value: [grid] -> ``shape``."""
        for dimension, (n, size) in enumerate(self._extents(shape)):
            at = torch.arange(n, device=boxes.device) // size
            boxes = boxes.index_select(dimension, at)
        return boxes.reshape(shape)

    def folded(self, entries: Tensor) -> Tensor:
        """[grid…, entries of a box], with zeros where boxes at the end are shorter; differentiable."""
        shape = tuple(entries.shape)
        extents = self._extents(shape)
        padding = [pad for n, size in reversed(extents) for pad in (0, -n % size)]
        whole = F.pad(entries.reshape(self.view(shape)), padding) if any(padding) else entries.reshape(self.view(shape))
        split = whole.reshape([each for n, size in extents for each in (-(-n // size), size)])
        dims = range(len(extents))
        moved = split.permute([*(2 * d for d in dims), *(2 * d + 1 for d in dims)])
        return moved.reshape(*self.grid(shape), -1)

    def any(self, entries: Tensor) -> Tensor:
        """Which boxes hold an entry that is true: bool, [grid]."""
        return self.folded(entries).any(-1)

    def reduced(self, importance: Tensor, norm: Norm) -> Tensor:
        """The importance of every box, [grid], in the type that it is given in; differentiable."""
        if self.single(tuple(importance.shape)):
            return importance.reshape(self.grid(tuple(importance.shape)))
        folded = self.folded(importance)
        if norm is Norm.L1:
            return folded.sum(-1)
        norms: Tensor = torch.linalg.vector_norm(folded, dim=-1)
        return norms if norm is Norm.L2 else norms / self.folded(torch.ones_like(importance)).sum(-1).sqrt()

    def _extents(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """(entries of the dimension, entries of a box along it), a pair for each dimension of the view."""
        pairs = zip(self.view(shape), self.sizes, strict=True)
        return [(n, min(size, n) if size and n else max(n, 1)) for n, size in pairs]


DIMENSIONS = 7
"""Dimensions of a tensor that a grid of boxes can lie over: what a file's layout has room for."""


@dataclass(frozen=True)
class Structure(ABC):
    """A partition of a tensor's entries. ``norm`` is what decides which of its boxes stay."""

    norm: Norm = field(default=Norm.L2, kw_only=True)

    @abstractmethod
    def box(self, shape: tuple[int, ...]) -> Box:
        """The grid for tensors of this shape. Raises ``SchemeError`` where it has none."""


@dataclass(frozen=True)
class Filters(Structure):
    """All that one output reads, ``W[n]``: the rows of a matrix."""

    def box(self, shape: tuple[int, ...]) -> Box:
        return Box((1, *_rest(self, shape, 1)))


@dataclass(frozen=True)
class Channels(Structure):
    """All that is read of one input channel, ``W[:, c]``: the columns of a matrix."""

    def box(self, shape: tuple[int, ...]) -> Box:
        return Box((0, 1, *_rest(self, shape, 2)))


@dataclass(frozen=True)
class Columns(Structure):
    """All filters' weights at one input channel and kernel position, ``W[:, c, i, j]``.

    They are a column of the matrix [outputs, inputs · positions] that a convolution is multiplied as: without it the
    product is a smaller dense one. Group-wise brain damage (Lebedev and Lempitsky 2016, CVPR, section 3) and the filter
    shapes of Wen et al. 2016 (arXiv 1608.03665, section 3).
    """

    def box(self, shape: tuple[int, ...]) -> Box:
        return Box((0, 1, *(1 for _ in _rest(self, shape, 2))))


@dataclass(frozen=True)
class Kernels(Structure):
    """What one output reads of one input channel, ``W[n, c]``; single entries of a matrix."""

    def box(self, shape: tuple[int, ...]) -> Box:
        return Box((1, 1, *_rest(self, shape, 2)))


@dataclass(frozen=True)
class FilterGroups(Structure):
    """What one of ``groups`` groups of filters reads of one input channel, ``W[g n : (g + 1) n, c]``.

    Filters that follow each other are a group, and all have ``n``. Groups that each read a few channels are a
    convolution in groups (Huang et al. 2017, arXiv 1711.09224, section 3.1).
    """

    groups: int

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise SchemeError(f"{self.groups} groups of filters; give 1 or more")

    def box(self, shape: tuple[int, ...]) -> Box:
        rest = _rest(self, shape, 2)
        if shape[0] % self.groups:
            raise SchemeError(f"{shape[0]} filters are no {self.groups} equal groups; give a number that divides them")
        if shape[1] == 1:
            raise SchemeError("filters that read one input each (a depthwise layer) have none to drop; exclude them")
        return Box((shape[0] // self.groups, 1, *rest))


@dataclass(frozen=True)
class Vectors(Structure):
    """All entries along one ``dimension``: 3 for a row of a 2-d kernel; single entries of a tensor without it."""

    dimension: int = 3

    def __post_init__(self) -> None:
        if self.dimension < 0:
            raise SchemeError(f"vectors along dimension {self.dimension}: count dimensions from the first, which is 0")

    def box(self, shape: tuple[int, ...]) -> Box:
        _rest(self, shape, 0)
        return Box(tuple(0 if d == self.dimension else 1 for d in range(len(shape))))


@dataclass(frozen=True)
class Blocks(Structure):
    """Blocks of ``rows`` x ``columns`` of the weight as a matrix [outputs, all that an output reads], 0 for all.

    ``Blocks(1, width)`` are aligned runs of a row: with the width of a vector register, what one instruction takes (Yu
    et al. 2017, ISCA, section 4).
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows < 0 or self.columns < 0:
            raise SchemeError(f"a block of {self.rows} x {self.columns}: sizes are above 0, or 0 for all")

    def box(self, shape: tuple[int, ...]) -> Box:
        return Box((self.rows, self.columns), matrix=True)


def _rest(structure: Structure, shape: tuple[int, ...], least: int) -> tuple[int, ...]:
    """The whole of every dimension from ``least`` on."""
    dims = len(shape)
    if not least <= dims <= DIMENSIONS:
        raise SchemeError(
            f"{type(structure).__name__} are of tensors with {least} to {DIMENSIONS} dimensions, and this one has "
            f"{dims}; exclude it from the sites"
        )
    return (0,) * (dims - least)
