"""Labels of one tensor of a graph, and what moving, joining and dropping dimensions does to them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import prod

import numpy as np

from featherweight.graph.union import Array, Union

Dims = tuple[int, ...]
Block = tuple[Dims, Array]
"""Dimensions, ascending, and the label at every combination of their indices."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """A tensor's shape and labels.

    A dimension in no block is fixed: none of its indices can be cut. Most blocks have one dimension. One with several
    comes from splitting a dimension, as attention splits its width into heads of entries: which index of one dimension
    can go then depends on the other.

    ``zero`` says that entries are zero wherever their label is masked.
    """

    shape: tuple[int, ...]
    blocks: tuple[Block, ...] = ()
    zero: bool = False

    def block(self, dim: int) -> Block | None:
        return next((block for block in self.blocks if dim in block[0]), None)

    def others(self, dim: int) -> tuple[Block, ...]:
        """All blocks but the one of this dimension."""
        return tuple(block for block in self.blocks if dim not in block[0])


class Algebra:
    """Operations on labelled tensors, joining labels on the way."""

    def __init__(self, union: Union) -> None:
        self.union = union
        self.rectangles: list[Array] = []  # of all views that split: what stays of each must be a rectangle

    def tidy(self, value: Labelled) -> Labelled:
        """Without dimensions along which labels do not differ: those are fixed."""
        if all(len(dims) == 1 for dims, _ in value.blocks):
            return value
        return replace(value, blocks=tuple(map(self._tidied, value.blocks)))

    def _tidied(self, block: Block) -> Block:
        dims, labels = block
        if len(dims) == 1:
            return block
        roots = self.union.roots(labels)
        for axis in reversed(range(len(dims))):
            if roots.ndim > 1 and bool((roots == roots.take([0], axis)).all()):
                roots = roots.take([0], axis).squeeze(axis)
                dims = (*dims[:axis], *dims[axis + 1 :])
        return dims, roots

    def fix(self, value: Labelled, dim: int) -> Labelled:
        """No index of this dimension may go; others of its block may, each as a whole."""
        block = value.block(dim)
        if block is None:
            return value
        dims, labels = block
        if len(dims) == 1:
            self.union.freeze(labels)
            return replace(value, blocks=value.others(dim))
        axis = dims.index(dim)
        left = self.union.join_along(labels, axis)
        return replace(value, blocks=(*value.others(dim), ((*dims[:axis], *dims[axis + 1 :]), left)))

    def fix_all(self, value: Labelled) -> None:
        for _, labels in value.blocks:
            self.union.freeze(labels)

    def all_frozen(self, value: Labelled) -> bool:
        return all(self.union.all_frozen(labels) for _, labels in value.blocks)

    def one(self, value: Labelled, dim: int) -> tuple[Labelled, Array | None]:
        """The labels of one dimension by itself, all others of its block fixed; ``None`` where it is fixed."""
        block = value.block(dim)
        while block is not None and len(block[0]) > 1:
            value = self.fix(value, next(other for other in block[0] if other != dim))
            block = value.block(dim)
        return value, None if block is None else block[1]

    def match(self, value: Labelled, dim: int, labels: Array | None) -> Labelled:
        """Index by index, one dimension has the labels of another tensor's; ``None``: of one that is fixed."""
        block = value.block(dim)
        if labels is None:
            return self.fix(value, dim)
        if block is None:
            self.union.freeze(labels)
            return value
        dims, its = block
        shape = [1] * its.ndim
        shape[dims.index(dim)] = len(labels)
        self.union.join(its, labels.reshape(shape))
        return self.tidy(value)

    def drop(self, value: Labelled, dim: int) -> Labelled:
        """Without a dimension that was summed over; others of its block stay as wholes."""
        block = value.block(dim)
        if block is not None and len(block[0]) > 1:
            value = self.fix(value, dim)
        elif block is not None:
            value = replace(value, blocks=value.others(dim))
        order = [d for d in range(len(value.shape)) if d != dim]
        return self.permute(value, order)

    def permute(self, value: Labelled, order: Sequence[int]) -> Labelled:
        """Dimension ``i`` of the result is ``order[i]`` of the value; those left out must be fixed."""
        place = {old: new for new, old in enumerate(order)}
        blocks = []
        for dims, labels in value.blocks:
            new = [place[dim] for dim in dims]
            axes = sorted(range(len(new)), key=new.__getitem__)
            blocks.append((tuple(new[axis] for axis in axes), labels.transpose(axes)))
        return Labelled(tuple(value.shape[dim] for dim in order), tuple(blocks), value.zero)

    def view(self, value: Labelled, shape: Sequence[int]) -> Labelled:
        """Dimensions split and merged, in runs of equal size."""
        runs = list(_runs(value.shape, shape))
        blocks = list(value.blocks)
        for inside, _ in runs:
            value = replace(value, blocks=tuple(blocks))
            if len(inside) > 1:
                blocks = list(self._only_one(value, inside).blocks)
        made: list[Block] = []
        for dims, labels in blocks:
            made.append(self._viewed(dims, labels, value.shape, shape, runs))
        return self.tidy(Labelled(tuple(shape), tuple(made), value.zero))

    def _only_one(self, value: Labelled, inside: Dims) -> Labelled:
        """Of the blocks that merge into one dimension, the one of most labels stays free."""
        meeting = [block for block in value.blocks if set(block[0]) & set(inside)]
        meeting.sort(key=lambda block: (self.union.all_frozen(block[1]), -block[1].size))
        for dims, _ in meeting[1:]:
            for dim in set(dims) & set(inside):
                value = self.fix(value, dim)
        return value

    def _viewed(
        self, dims: Dims, labels: Array, before: Sequence[int], after: Sequence[int], runs: list[tuple[Dims, Dims]]
    ) -> Block:
        touched = [(inside, outside) for inside, outside in runs if set(inside) & set(dims)]
        full = [dim for inside, _ in touched for dim in inside]
        at = [slice(None) if dim in dims else None for dim in full]
        spread = np.broadcast_to(labels[tuple(at)], [before[dim] for dim in full])
        new = tuple(dim for _, outside in touched for dim in outside)
        reshaped = spread.reshape([after[dim] for dim in new])
        if len(new) > 1:
            self.rectangles.append(reshaped)
        return new, reshaped

    def merge(self, values: Sequence[Labelled], shape: Sequence[int]) -> Labelled:
        """What broadcasts together: indices of one place have one label."""
        aligned = [self._aligned(value, len(shape)) for value in values]
        for dim, size in enumerate(shape):
            full = [number for number, value in enumerate(aligned) if value.shape[dim] == size]
            for number, value in enumerate(aligned):
                if value.shape[dim] != size:
                    aligned[number] = self.fix(value, dim)
            if any(aligned[number].block(dim) is None for number in full):
                for number in full:
                    aligned[number] = self.fix(aligned[number], dim)
        return self.tidy(Labelled(tuple(shape), tuple(self._united(aligned, shape))))

    def _aligned(self, value: Labelled, rank: int) -> Labelled:
        lead = rank - len(value.shape)
        blocks = tuple((tuple(dim + lead for dim in dims), labels) for dims, labels in value.blocks)
        return replace(value, shape=(*[1] * lead, *value.shape), blocks=blocks)

    def _united(self, values: Sequence[Labelled], shape: Sequence[int]) -> list[Block]:
        """Blocks of all values; those that share a dimension become one."""
        found: list[Block] = []
        for whole in (block for value in values for block in value.blocks):
            meeting = [each for each in found if set(each[0]) & set(whole[0])]
            found = [each for each in found if not set(each[0]) & set(whole[0])]
            found.append(reduce(lambda a, b: self._united_pair(a, b, shape), meeting, whole))
        return found

    def _united_pair(self, a: Block, b: Block, shape: Sequence[int]) -> Block:
        dims = tuple(sorted({*a[0], *b[0]}))
        spread = [labels[tuple(slice(None) if dim in own else None for dim in dims)] for own, labels in (a, b)]
        self.union.join(*spread)
        return dims, np.broadcast_to(spread[0], [shape[dim] for dim in dims])

    def settle(self) -> None:
        """Make what stays of every split dimension a rectangle: one of its dimensions is cut, the others are not.

        The one with most labels left, where labels differ along several; again and again, as arrays share labels.
        """
        while any(self._settled(labels) for labels in self.rectangles):
            pass

    def _settled(self, labels: Array) -> bool:
        roots = self.union.roots(labels)
        varying = [axis for axis in range(roots.ndim) if bool((roots != roots.take([0], axis)).any())]
        if len(varying) < 2:
            return False
        kept = max(varying, key=lambda axis: (roots.shape[axis], axis))
        for axis in sorted(set(varying) - {kept}, reverse=True):
            roots = self.union.join_along(roots, axis)
        return True


def _runs(before: Sequence[int], after: Sequence[int]) -> "list[tuple[Dims, Dims]]":
    """Runs of dimensions of equal size, before and after a view, as short as they can be."""
    runs: list[tuple[Dims, Dims]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        first, second = i, j
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while prod(before[first:i]) != prod(after[second:j]):
            if i == len(before) or (j < len(after) and prod(before[first:i]) > prod(after[second:j])):
                j += 1
            else:
                i += 1
        runs.append((tuple(range(first, i)), tuple(range(second, j))))
    return runs
