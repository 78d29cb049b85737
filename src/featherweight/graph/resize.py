"""Sizes that stand literally in a graph, as they are once labels are gone."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from featherweight.core.errors import SelectionError
from featherweight.graph.label_rules import operand, shape_of
from featherweight.graph.labelled import Labelled
from featherweight.graph.labels import Walked
from featherweight.graph.union import Array

aten = torch.ops.aten

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Called:
    """A call of an operator."""

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Resized:
    """A walked graph without the labels in ``dead``."""

    def __init__(self, walked: Walked, dead: Collection[int]) -> None:
        self.walked, self.dead = walked, frozenset(dead)

    def mask(self, labels: Array) -> Mask:
        """Whether each label is alive."""
        roots = self.walked.union.roots(labels)
        return ~np.isin(roots, list(self.dead))

    def alive(self, value: Labelled, dim: int) -> Mask:
        """Whether each index of a dimension stays. ``SelectionError`` where what stays of several is no rectangle."""
        block = value.block(dim)
        if block is None:
            return np.ones(value.shape[dim], dtype=np.bool_)
        dims, labels = block
        mask = self.mask(labels)
        each = [_projected(mask, axis) for axis in range(mask.ndim)]
        if int(mask.sum()) != prod(int(one.sum()) for one in each):
            raise SelectionError("what stays of a split dimension is no rectangle: these labels cannot go")
        return each[dims.index(dim)]

    def shape(self, value: Labelled) -> tuple[int, ...]:
        return tuple(int(self.alive(value, dim).sum()) for dim in range(len(value.shape)))

    def call(self, node: Node) -> Called:
        """The call with the sizes that are left."""
        rule = RULES.get(node.target)
        return Called(node.target, node.args, node.kwargs) if rule is None else rule(self, node)

    def value(self, node: Any) -> Labelled:
        return self.walked.value(node)


def _projected(mask: Mask, axis: int) -> Mask:
    """Whether anything is true at each index of one axis."""
    found: Mask = np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1).max(axis=1)
    return found


def _with(node: Node, position: int, given: Any, target: Any = None) -> Called:
    args = (*node.args[:position], given, *node.args[position + 1 :])
    return Called(target or node.target, args, node.kwargs)


def _sizes(sizes: Sequence[Any], before: Sequence[int], after: Sequence[int]) -> list[Any]:
    """Literal sizes become those of ``after``; −1 stays. ``SelectionError`` where one that changes is computed."""
    found = []
    for size, old, new in zip(sizes, before, after, strict=True):
        if not isinstance(size, int) and old != new:
            raise SelectionError("a size that changes is computed from others")
        found.append(new if isinstance(size, int) and size >= 0 else size)
    return found


def _viewed(resized: Resized, node: Node) -> Called:
    sizes = operand(node, 1)
    return _with(node, 1, _sizes(sizes, shape_of(node), resized.shape(resized.value(node))))


def _unflattened(resized: Resized, node: Node) -> Called:
    sizes, dim = operand(node, 2), operand(node, 1) % len(shape_of(operand(node, 0)))
    part = slice(dim, dim + len(sizes))
    return _with(node, 2, _sizes(sizes, shape_of(node)[part], resized.shape(resized.value(node))[part]))


def _created(position: int) -> Callable[[Resized, Node], Called]:
    def rule(resized: Resized, node: Node) -> Called:
        shape = resized.shape(resized.value(node))
        return _with(node, position, _sizes(operand(node, position), shape_of(node), shape))

    return rule


def _dimension(node: Node, position: int) -> int:
    given = node.args[position] if len(node.args) > position else node.kwargs.get("dim", 0)
    dim: int = given  # type: ignore[assignment]
    return dim % len(shape_of(operand(node, 0)))


def _split(resized: Resized, node: Node) -> Called:
    """Parts of the sizes that are left; of equal size they stay so."""
    dim = _dimension(node, 2)
    found: Any = resized.walked.values[node]
    sizes = [resized.shape(value)[dim] for value in found]
    if node.target is aten.split_with_sizes.default:
        return _with(node, 1, sizes)
    if len(set(sizes)) == 1:
        return _unchanged(node) if node.target is aten.chunk.default else _with(node, 1, sizes[0])
    args = (node.args[0], sizes, dim)
    return Called(aten.split_with_sizes.default, args, {})


def _unchanged(node: Node) -> Called:
    return Called(node.target, node.args, node.kwargs)


def _sliced(resized: Resized, node: Node) -> Called:
    x = resized.value(operand(node, 0))
    dim = _dimension(node, 1)
    alive = resized.alive(x, dim)
    args = list(node.args)
    for position in (2, 3):
        if len(args) > position and isinstance(args[position], int):
            args[position] = _moved(args[position], alive)  # type: ignore[arg-type]
    return Called(node.target, tuple(args), node.kwargs)


def _moved(index: int, alive: Mask) -> int:
    """Where a boundary between indices is, once some are gone; from the end where it counts from there."""
    if abs(index) > len(alive):
        return index
    return int(alive[:index].sum()) if index >= 0 else -int(alive[index:].sum())


def _narrowed(resized: Resized, node: Node) -> Called:
    dim, start, length = operand(node, 1), operand(node, 2), operand(node, 3)
    alive = resized.alive(resized.value(operand(node, 0)), dim % len(shape_of(operand(node, 0))))
    args = (node.args[0], dim, int(alive[:start].sum()), int(alive[start : start + length].sum()))
    return Called(node.target, args, node.kwargs)


def _padded(resized: Resized, node: Node) -> Called:
    x, value = resized.value(operand(node, 0)), resized.value(node)
    pads = list(operand(node, 1))
    for number in range(len(pads) // 2):
        dim = len(value.shape) - 1 - number
        before, behind = pads[2 * number : 2 * number + 2]
        if before >= 0 and behind >= 0 and value.block(dim) is not None and x.shape[dim] != value.shape[dim]:
            alive = resized.alive(value, dim)
            pads[2 * number] = int(alive[:before].sum())
            pads[2 * number + 1] = int(alive[len(alive) - behind :].sum())
    return _with(node, 1, pads)


def _convolved(position: int) -> Callable[[Resized, Node], Called]:
    """Groups of one channel go with it; groups of several stay."""

    def rule(resized: Resized, node: Node) -> Called:
        if len(node.args) <= position or operand(node, position) == 1:
            return _unchanged(node)
        x, groups = resized.value(operand(node, 0)), operand(node, position)
        channel = len(x.shape) - len(shape_of(operand(node, 1))) + 1
        each = x.shape[channel] // groups
        return _with(node, position, resized.shape(x)[channel]) if each == 1 else _unchanged(node)

    return rule


def _targets(*names: str) -> list[Any]:
    return [getattr(getattr(aten, name.partition(".")[0]), name.partition(".")[2] or "default") for name in names]


RULES: Mapping[Any, Callable[[Resized, Node], Called]] = {
    target: rule
    for rule, targets in (
        (_viewed, _targets("view", "reshape", "_unsafe_view", "expand", "broadcast_to")),
        (_unflattened, _targets("unflatten.int")),
        (_created(0), _targets("zeros", "ones", "full", "empty.memory_format")),
        (_created(1), _targets("new_zeros", "new_ones", "new_full")),
        (_split, _targets("split.Tensor", "split_with_sizes", "chunk")),
        (_sliced, _targets("slice.Tensor")),
        (_narrowed, _targets("narrow")),
        (_padded, _targets("pad", "constant_pad_nd")),
        (_convolved(6), _targets("conv1d", "conv2d", "conv3d", "conv1d.padding", "conv2d.padding", "conv3d.padding")),
        (_convolved(7), _targets("conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input")),
    )
    for target in targets
}
"""Operators with sizes among their arguments."""
