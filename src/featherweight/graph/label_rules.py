"""What operators do to labels: one rule for each kind.

A rule gives the labels of a call's result and joins labels on the way; ``None`` says that it does not cover this use,
which makes the call a barrier. Results of several tensors are lists.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from featherweight.graph.labelled import Algebra, Block, Labelled
from featherweight.graph.union import Array

aten = torch.ops.aten

Result = Labelled | list[Labelled] | None


class Walk(Protocol):
    """What rules know of a pass over a graph."""

    algebra: Algebra

    def stop(self, node: Node, value: Labelled) -> None:
        """Name the node as one that fixes what comes in, if anything of the value is free."""

    def value(self, node: Any) -> Labelled:
        """The labels of a node; a constant of no dimensions for what is no tensor."""


Rule = Callable[[Walk, Node], Result]


def shape_of(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else ()


def operand(node: Node, position: int) -> Any:
    return node.args[position]


def argument(node: Node, position: int, name: str = "", default: Any = None) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def same(walk: Walk, node: Node) -> Result:
    """An entry of the result depends on the entry at its place, and zero stays zero."""
    return walk.value(operand(node, 0))


def shifted(walk: Walk, node: Node) -> Result:
    """The same, but zero becomes another number."""
    return replace(walk.value(operand(node, 0)), zero=False)


def clamped(walk: Walk, node: Node) -> Result:
    x = walk.value(operand(node, 0))
    low, high = argument(node, 1, "min"), argument(node, 2, "max")
    if isinstance(low, Node) or isinstance(high, Node):
        return None
    return replace(x, zero=x.zero and (low is None or low <= 0) and (high is None or high >= 0))


def _merged(walk: Walk, node: Node, operands: Sequence[Any], zero: Callable[[list[bool]], bool]) -> Labelled:
    values = [walk.value(each) for each in operands]
    found = walk.algebra.merge([value for value in values if value.shape or value.blocks], shape_of(node))
    return replace(found, zero=zero([value.zero for value in values]))


def summed(walk: Walk, node: Node) -> Result:
    return _merged(walk, node, node.args[:2], all)


def multiplied(walk: Walk, node: Node) -> Result:
    return _merged(walk, node, node.args[:2], any)


def divided(walk: Walk, node: Node) -> Result:
    return _merged(walk, node, node.args[:2], lambda zeros: zeros[0] and not zeros[-1])


def compared(walk: Walk, node: Node) -> Result:
    return _merged(walk, node, [arg for arg in node.args if isinstance(arg, Node)], lambda zeros: False)


def chosen(walk: Walk, node: Node) -> Result:
    return _merged(walk, node, node.args[:3], lambda zeros: all(zeros[1:]))


def filled(walk: Walk, node: Node) -> Result:
    return _merged(walk, node, node.args[:2], lambda zeros: zeros[0] and bool(operand(node, 2) == 0))


def power(walk: Walk, node: Node) -> Result:
    x, exponent = walk.value(operand(node, 0)), operand(node, 1)
    positive = isinstance(exponent, int | float) and exponent > 0
    return replace(x, zero=x.zero and positive)


def convolve(walk: Walk, node: Node) -> Result:
    """Channels of a group are read by all filters of that group.

    In groups of several channels the same channels go from every group, so that the number of groups stays; where each
    group has one input channel (depthwise), groups go whole.
    """
    transposed = "transpose" in str(node.target)
    x, w = walk.value(operand(node, 0)), walk.value(operand(node, 1))
    bias = argument(node, 2, "bias")
    groups = int(argument(node, 7 if transposed else 6, "groups", 1)) if _has_groups(node, transposed) else 1
    algebra, channel = walk.algebra, len(x.shape) - len(w.shape) + 1
    for dim in range(2, len(w.shape)):
        w = algebra.fix(w, dim)
    x, given = algebra.one(x, channel)
    w, first = algebra.one(w, 0)
    w, second = algebra.one(w, 1)
    inside, outside = (first, second) if transposed else (second, first)
    made = _grouped(walk, given, inside, outside, groups, transposed, x.shape[channel])
    out = shape_of(node)
    for dim in range(len(x.shape)):
        if dim > channel:
            x = algebra.fix(x, dim)
    if bias is not None and made is not None:
        algebra.match(walk.value(bias), 0, made)
    kept = [block for block in x.blocks if max(block[0]) < channel]
    blocks = kept if made is None else [*kept, ((channel,), made)]
    return Labelled(out, tuple(blocks), zero=True)


def _has_groups(node: Node, transposed: bool) -> bool:
    return len(node.args) > (7 if transposed else 6) or "groups" in node.kwargs


def _grouped(
    walk: Walk,
    given: Array | None,
    inside: Array | None,
    outside: Array | None,
    groups: int,
    transposed: bool,
    channels: int,
) -> Array | None:
    """Join the labels of inputs and filters; the labels of the outputs."""
    union = walk.algebra.union
    if inside is None or outside is None:
        for labels in (given, inside, outside):
            if labels is not None:
                union.freeze(labels)
        return None
    if given is None:
        given = union.fresh([channels], frozen=True)
    if groups == 1:
        union.join(given, inside)
        return outside
    grouped = given.reshape(groups, -1)
    if transposed:  # w is [inputs, outputs / groups]
        union.join(given, inside)
        if grouped.shape[1] == 1:
            union.freeze(outside)
            return np.repeat(given, len(outside))
        union.join_along(grouped, 0)
        return np.tile(outside, groups)
    if grouped.shape[1] == 1:
        union.freeze(inside)
        union.join(grouped, outside.reshape(groups, -1))
        return outside
    union.join(grouped, np.broadcast_to(inside, grouped.shape))
    union.join_along(outside.reshape(groups, -1), 0)
    return outside


def linear(walk: Walk, node: Node) -> Result:
    x, w = walk.value(operand(node, 0)), walk.value(operand(node, 1))
    algebra = walk.algebra
    w, outside = algebra.one(w, 0)
    w, inside = algebra.one(w, 1)
    x = algebra.match(x, len(x.shape) - 1, inside)
    bias = argument(node, 2, "bias")
    if bias is not None:
        algebra.match(walk.value(bias), 0, outside)
    return _replaced(algebra, x, len(x.shape) - 1, shape_of(node), outside)


def _replaced(algebra: Algebra, x: Labelled, dim: int, shape: tuple[int, ...], labels: Array | None) -> Labelled:
    """``x`` with dimension ``dim`` summed over, and another one, the last, in place of it."""
    left = algebra.drop(x, dim)
    blocks = left.blocks if labels is None else (*left.blocks, ((len(shape) - 1,), labels))
    return Labelled(shape, blocks, zero=True)


def addmm(walk: Walk, node: Node) -> Result:
    """``bias + x w``, with ``w`` [in, out]."""
    bias, x, w = (walk.value(arg) for arg in node.args[:3])
    product = _product(walk, x, w, shape_of(node))
    found = walk.algebra.merge([bias, product], shape_of(node))
    return replace(found, zero=bias.zero and product.zero)


def matmul(walk: Walk, node: Node) -> Result:
    return _product(walk, walk.value(operand(node, 0)), walk.value(operand(node, 1)), shape_of(node))


def _product(walk: Walk, a: Labelled, b: Labelled, shape: tuple[int, ...]) -> Labelled:
    algebra = walk.algebra
    if len(a.shape) == 1 or len(b.shape) == 1:
        algebra.fix_all(a)
        algebra.fix_all(b)
        return Labelled(shape)
    last, first = len(a.shape) - 1, len(b.shape) - 2
    a, b = _contract(algebra, a, last, b, first)
    lead = shape[:-2]
    rows, columns = a.shape[-1], b.shape[-1]
    left = replace(a, shape=(*a.shape, 1))
    blocks = tuple((tuple(_moved(dim, len(b.shape) - 1) for dim in dims), labels) for dims, labels in b.blocks)
    right = Labelled((*b.shape[:-1], 1, columns), blocks, b.zero)
    found = algebra.merge([left, right], (*lead, rows, columns))
    return replace(found, zero=a.zero or b.zero)


def _moved(dim: int, last: int) -> int:
    return dim + 1 if dim == last else dim


def _contract(algebra: Algebra, a: Labelled, i: int, b: Labelled, j: int) -> tuple[Labelled, Labelled]:
    """Join a dimension of each, and sum over it: entries that are masked must add nothing."""
    first, second = a.block(i), b.block(j)
    if first is not None and second is not None and (a.zero or b.zero):
        a, labels = algebra.one(a, i) if len(first[0]) == 1 or len(second[0]) == 1 else (a, None)
        if labels is not None:
            b = algebra.match(b, j, algebra.one(a, i)[1])
        else:
            a, b = algebra.fix(a, i), algebra.fix(b, j)
    else:
        a, b = algebra.fix(a, i), algebra.fix(b, j)
    return algebra.drop(a, i), algebra.drop(b, j)


def attend(walk: Walk, node: Node) -> Result:
    """``softmax(q kᵀ / √d) v``: heads go whole, and entries of values; those of queries and keys set the scale."""
    algebra, (q, k, v) = walk.algebra, (walk.value(arg) for arg in node.args[:3])
    last = len(q.shape) - 1
    q, k = algebra.fix(q, last), algebra.fix(k, last)
    for dim in (last - 1,):
        q, k, v = algebra.fix(q, dim), algebra.fix(k, dim), algebra.fix(v, dim)
    mask = argument(node, 3, "attn_mask")
    if isinstance(mask, Node):
        algebra.fix_all(walk.value(mask))
    if q.shape[1] != k.shape[1] and len(q.shape) == 4:  # groups of queries read one key
        repeat = q.shape[1] // k.shape[1]
        k, v = (_repeated(algebra, each, 1, repeat) for each in (k, v))
    lead = q.shape[:-2]
    values = [replace(each, shape=(*lead, 1, 1)) for each in (q, k)]
    heads = Labelled((*v.shape[:-2], 1, v.shape[-1]), v.blocks)
    return replace(algebra.merge([*values, heads], shape_of(node)), zero=v.zero)


def _repeated(algebra: Algebra, x: Labelled, dim: int, times: int) -> Labelled:
    x, labels = algebra.one(x, dim)
    shape = tuple(size * times if d == dim else size for d, size in enumerate(x.shape))
    blocks = x.blocks if labels is None else (*x.others(dim), ((dim,), np.repeat(labels, times)))
    return Labelled(shape, blocks, x.zero)


def batch_norm(walk: Walk, node: Node) -> Result:
    x, channel = walk.value(operand(node, 0)), 1
    x, labels = walk.algebra.one(x, channel)
    for arg in node.args[1:5]:
        if isinstance(arg, Node):
            walk.algebra.match(walk.value(arg), 0, labels)
    return replace(x, zero=isinstance(operand(node, 1), Node) and isinstance(operand(node, 2), Node))


def layer_norm(walk: Walk, node: Node) -> Result:
    """Everything that is normalised over stays: the mean would be another."""
    x = walk.value(operand(node, 0))
    sizes: Any = operand(node, 1)
    walk.stop(node, x)
    for dim in range(len(x.shape) - len(sizes), len(x.shape)):
        x = walk.algebra.fix(x, dim)
    for arg in node.args[2:4]:
        if isinstance(arg, Node):
            walk.algebra.fix_all(walk.value(arg))
    return replace(x, zero=False)


def group_norm(walk: Walk, node: Node) -> Result:
    """A group of fewer channels would have another mean: all of them stay."""
    x = walk.value(operand(node, 0))
    walk.stop(node, x)
    x = walk.algebra.fix(x, 1)
    for arg in node.args[2:4]:
        if isinstance(arg, Node):
            walk.algebra.fix_all(walk.value(arg))
    return replace(x, zero=False)


def prelu(walk: Walk, node: Node) -> Result:
    x, w = walk.value(operand(node, 0)), walk.value(operand(node, 1))
    if w.shape and w.shape[0] > 1:
        w, labels = walk.algebra.one(w, 0)
        return walk.algebra.match(x, 1, labels)
    walk.algebra.fix_all(w)
    return x


def pooled(walk: Walk, node: Node) -> Result:
    """Positions are pooled or interpolated, channels are not."""
    return _spatial(walk, walk.value(operand(node, 0)), shape_of(node))


def _spatial(walk: Walk, x: Labelled, shape: tuple[int, ...]) -> Labelled:
    for dim in range(len(x.shape)):
        if x.shape[dim] != shape[dim] or dim >= 2:
            x = walk.algebra.fix(x, dim)
    return replace(x, shape=shape)


def pooled_pair(walk: Walk, node: Node) -> Result:
    """The same, with the places of the largest."""
    found = walk.value(operand(node, 0))
    value: Any = node.meta["val"]
    each = _spatial(walk, found, tuple(int(size) for size in value[0].shape))
    return [each, replace(each, zero=False)]


def reduced(walk: Walk, node: Node) -> Result:
    """A sum leaves masked zeros out; every other reduction fixes what it runs over."""
    x = walk.value(operand(node, 0))
    given = argument(node, 1, "dim")
    if "norm" in str(node.target):
        given = argument(node, 2, "dim")
    dims = (
        range(len(x.shape)) if given is None or given == [] else given if isinstance(given, list | tuple) else [given]
    )
    axes = sorted({int(dim) % max(len(x.shape), 1) for dim in dims}, reverse=True)
    sums = any(word in str(node.target) for word in ("aten.sum", "vector_norm")) and x.zero
    keep = len(shape_of(node)) == len(x.shape)
    for dim in axes:
        x = x if sums and len((x.block(dim) or ((), None))[0]) == 1 else walk.algebra.fix(x, dim)
        x = Labelled(_with(x.shape, dim, 1), x.others(dim), x.zero) if keep else walk.algebra.drop(x, dim)
    zero = x.zero and any(word in str(node.target) for word in ("sum", "mean", "amax", "amin", "norm"))
    value = node.meta["val"]
    found = replace(x, zero=zero)
    return found if isinstance(value, Tensor) else [found for _ in value]


def normalized(walk: Walk, node: Node) -> Result:
    """Softmax: entries compete along a dimension, so that all of them stay."""
    x = walk.value(operand(node, 0))
    return replace(walk.algebra.fix(x, int(argument(node, 1, "dim")) % len(x.shape)), zero=False)


def along(walk: Walk, node: Node) -> Result:
    """Entries move along dimensions, which are fixed."""
    x = walk.value(operand(node, 0))
    position = 2 if node.target is aten.roll.default else 1
    given = argument(node, position, "dims" if position == 2 else "dim", ())
    dims = given if isinstance(given, list | tuple) else [given]
    for dim in dims or range(len(x.shape)):
        x = walk.algebra.fix(x, int(dim) % len(x.shape))
    return x


def viewed(walk: Walk, node: Node) -> Result:
    return walk.algebra.view(walk.value(operand(node, 0)), shape_of(node))


def permuted(walk: Walk, node: Node) -> Result:
    x = walk.value(operand(node, 0))
    rank = len(x.shape)
    if node.target in (aten.transpose.int, aten.swapaxes.default):
        first, second = operand(node, 1) % rank, operand(node, 2) % rank
        order = list(range(rank))
        order[first], order[second] = second, first
    elif node.target in (aten.t.default, aten.numpy_T.default, aten.mT.default):
        order = (
            list(range(rank))[::-1] if node.target is not aten.mT.default else [*range(rank - 2), rank - 1, rank - 2]
        )
    elif node.target is aten.movedim.int:
        order = list(range(rank))
        order.insert(int(operand(node, 2)) % rank, order.pop(int(operand(node, 1)) % rank))
    else:
        order = [dim % rank for dim in operand(node, 1)]
    return walk.algebra.permute(x, order)


def expanded(walk: Walk, node: Node) -> Result:
    x, shape = walk.value(operand(node, 0)), shape_of(node)
    found = walk.algebra.merge([x, Labelled(tuple(1 for _ in shape))], shape)
    return replace(found, zero=x.zero)


def repeated(walk: Walk, node: Node) -> Result:
    x, shape = walk.value(operand(node, 0)), shape_of(node)
    lead = len(shape) - len(x.shape)
    for dim, size in enumerate(x.shape):
        if size != shape[dim + lead]:
            x = walk.algebra.fix(x, dim)
    blocks = tuple((tuple(dim + lead for dim in dims), labels) for dims, labels in x.blocks)
    return Labelled(shape, blocks, x.zero)


def interleaved(walk: Walk, node: Node) -> Result:
    dim = argument(node, 2, "dim")
    x = walk.value(operand(node, 0))
    if dim is None:
        return None
    return _repeated(walk.algebra, x, int(dim) % len(x.shape), int(operand(node, 1)))


def concatenated(walk: Walk, node: Node) -> Result:
    given: Any = operand(node, 0)
    shape = shape_of(node)
    dim = int(argument(node, 1, "dim", 0)) % len(shape)
    algebra, parts, rest = walk.algebra, [], []
    values = [value for value in map(walk.value, given) if len(value.shape) == len(shape)]
    for each in values:
        value, labels = algebra.one(each, dim)
        parts.append(algebra.union.fresh([value.shape[dim]], frozen=True) if labels is None else labels)
        rest.append(replace(value, shape=_with(value.shape, dim, 1), blocks=value.others(dim)))
    merged = algebra.merge(rest, _with(shape, dim, 1))
    blocks = (*merged.blocks, ((dim,), np.concatenate(parts)))
    fixed = all(value.block(dim) is None for value in values)
    return Labelled(shape, merged.blocks if fixed else blocks, all(value.zero for value in values))


def _with(shape: Sequence[int], dim: int, size: int) -> tuple[int, ...]:
    return tuple(size if d == dim else each for d, each in enumerate(shape))


def stacked(walk: Walk, node: Node) -> Result:
    given: Any = operand(node, 0)
    shape = shape_of(node)
    dim = int(argument(node, 1, "dim", 0)) % len(shape)
    values = [walk.value(each) for each in given]
    merged = walk.algebra.merge(values, values[0].shape)
    blocks = tuple((tuple(d + (d >= dim) for d in dims), labels) for dims, labels in merged.blocks)
    return Labelled(shape, blocks, all(value.zero for value in values))


def part(walk: Walk, x: Labelled, dim: int, start: int, end: int) -> Labelled:
    """Entries ``start`` to ``end`` of a dimension."""
    block = x.block(dim)
    if block is not None and len(block[0]) > 1:
        x = walk.algebra.fix(x, dim)
        block = x.block(dim)
    blocks = x.blocks if block is None else (*x.others(dim), ((dim,), block[1][start:end]))
    return Labelled(_with(x.shape, dim, end - start), tuple(blocks), x.zero)


def sliced(walk: Walk, node: Node) -> Result:
    x = walk.value(operand(node, 0))
    dim = int(argument(node, 1, "dim", 0)) % len(x.shape)
    start, end, step = (argument(node, i, name) for i, name in ((2, "start"), (3, "end"), (4, "step")))
    if not all(isinstance(each, int | None) for each in (start, end, step)):
        return None
    indices = range(x.shape[dim])[slice(start, end, step)]
    if operand(node, 0).op == "placeholder" and len(indices) < x.shape[dim]:
        x = walk.algebra.fix(x, dim)  # longer inputs use more of a table of positions
    if step not in (None, 1):
        return replace(walk.algebra.fix(x, dim), shape=shape_of(node))
    return part(walk, x, dim, indices.start, indices.stop)


def narrowed(walk: Walk, node: Node) -> Result:
    x = walk.value(operand(node, 0))
    dim, start, length = (operand(node, number) for number in (1, 2, 3))
    return part(walk, x, dim % len(x.shape), start, start + length)


def split(walk: Walk, node: Node) -> Result:
    """Parts of equal size keep equal numbers: index by index they have one label, as code that divides expects."""
    x = walk.value(operand(node, 0))
    values: Any = node.meta["val"]
    dim = int(argument(node, 2, "dim", 0)) % len(x.shape)
    sizes = [int(value.shape[dim]) for value in values]
    block = x.block(dim)
    if block is not None and len(block[0]) > 1:
        x = walk.algebra.fix(x, dim)
    x, labels = walk.algebra.one(x, dim)
    if labels is not None and len(set(sizes)) == 1 and node.target is not aten.split_with_sizes.default:
        walk.algebra.union.join_along(labels.reshape(len(sizes), -1), 0)
    ends = np.cumsum(sizes).tolist()
    return [part(walk, x, dim, end - size, end) for end, size in zip(ends, sizes, strict=True)]


def unbound(walk: Walk, node: Node) -> Result:
    x = walk.value(operand(node, 0))
    dim = int(argument(node, 1, "dim", 0)) % len(x.shape)
    values: Any = node.meta["val"]
    found = walk.algebra.fix(x, dim) if len((x.block(dim) or ((),))[0]) == 1 else x
    return [_selected(walk, found, dim, index) for index in range(len(values))]


def selected(walk: Walk, node: Node) -> Result:
    x = walk.value(operand(node, 0))
    dim, index = operand(node, 1), operand(node, 2)
    return _selected(walk, x, dim % len(x.shape), index)


def _selected(walk: Walk, x: Labelled, dim: int, index: int) -> Labelled:
    """One entry of a dimension that stays whole; of a block of several, the labels at that entry."""
    block = x.block(dim)
    if block is not None and len(block[0]) > 1:
        dims, labels = block
        axis = dims.index(dim)
        walk.algebra.union.join_along(labels, axis)
        left: Block = ((*dims[:axis], *dims[axis + 1 :]), labels.take([index], axis).squeeze(axis))
        x = replace(x, blocks=(*x.others(dim), left))
    else:
        x = walk.algebra.fix(x, dim)
    return walk.algebra.permute(x, [d for d in range(len(x.shape)) if d != dim])


def indexed(walk: Walk, node: Node) -> Result:
    """Lookups in dimensions, which stay whole; those that are not looked up in keep their labels."""
    x = walk.value(operand(node, 0))
    given: Any = operand(node, 1)
    at = [dim for dim, index in enumerate(given) if index is not None]
    for dim in at:
        x = walk.algebra.fix(x, dim)
    if at != list(range(at[0], at[-1] + 1)):
        walk.algebra.fix_all(x)
        return Labelled(shape_of(node))
    rank = len(shape_of(node)) - (len(x.shape) - len(at))
    place = {dim: dim if dim < at[0] else dim - len(at) + rank for dim in range(len(x.shape)) if dim not in at}
    blocks = tuple((tuple(place[dim] for dim in dims), labels) for dims, labels in x.blocks)
    return Labelled(shape_of(node), blocks, x.zero)


def looked_up(walk: Walk, node: Node) -> Result:
    """An embedding: the table's rows stay, its columns are channels."""
    w = walk.algebra.fix(walk.value(operand(node, 0)), 0)
    w, labels = walk.algebra.one(w, 1)
    shape = shape_of(node)
    return Labelled(shape, () if labels is None else (((len(shape) - 1,), labels),), zero=True)


def index_selected(walk: Walk, node: Node) -> Result:
    x = walk.value(operand(node, 0))
    return replace(walk.algebra.fix(x, int(operand(node, 1)) % len(x.shape)), shape=shape_of(node))


def padded(walk: Walk, node: Node) -> Result:
    """Entries before and behind, with labels of their own: zeros can go where what they meet goes."""
    x, shape = walk.value(operand(node, 0)), shape_of(node)
    pads: Any = operand(node, 1)
    constant = node.target is aten.constant_pad_nd.default or argument(node, 2, "mode", "constant") == "constant"
    value = argument(node, 3 if node.target is aten.pad.default else 2, "value", 0)
    for number in range(len(pads) // 2):
        dim = len(shape) - 1 - number
        before, behind = int(pads[2 * number]), int(pads[2 * number + 1])
        if before == behind == 0:
            continue
        if not constant or min(before, behind) < 0:
            x = replace(walk.algebra.fix(x, dim), shape=_with(x.shape, dim, shape[dim]))
            continue
        x, labels = walk.algebra.one(x, dim)
        if labels is None:
            x = replace(x, shape=_with(x.shape, dim, shape[dim]))
            continue
        union = walk.algebra.union
        longer = np.concatenate([union.fresh([before]), labels, union.fresh([behind])])
        x = Labelled(_with(x.shape, dim, shape[dim]), (*x.others(dim), ((dim,), longer)), x.zero)
    return replace(x, zero=x.zero and (not constant or value in (None, 0, 0.0)))


def created(walk: Walk, node: Node) -> Result:
    """A constant of a size that may follow what it meets."""
    shape = shape_of(node)
    zero = "zeros" in str(node.target) or "empty" in str(node.target)
    blocks = tuple(((dim,), walk.algebra.union.fresh([size])) for dim, size in enumerate(shape) if size > 1)
    return Labelled(shape, blocks, zero)


def shaped_alike(walk: Walk, node: Node) -> Result:
    return replace(walk.value(operand(node, 0)), zero="zeros" in str(node.target))


def written(walk: Walk, node: Node) -> Result:
    found = _merged(walk, node, node.args[:2], lambda zeros: zeros[1])
    return found


def shuffled(walk: Walk, node: Node) -> Result:
    """Pixels become channels or channels pixels: the ``r²`` channels of one pixel's block go together."""
    x, shape = walk.value(operand(node, 0)), shape_of(node)
    for dim in (-1, -2):
        x = walk.algebra.fix(x, dim % len(x.shape))
    channel = len(x.shape) - 3
    x, labels = walk.algebra.one(x, channel)
    few = min(x.shape[channel], shape[channel])
    blocks = x.others(channel)
    if labels is None:
        return Labelled(shape, blocks, x.zero)
    if shape[channel] == few:
        left = walk.algebra.union.join_along(labels.reshape(few, -1), 1)
    else:
        left = np.repeat(labels, shape[channel] // few)
    return Labelled(shape, (*blocks, ((channel,), left)), x.zero)


def gated(walk: Walk, node: Node) -> Result:
    """The first half times the sigmoid of the second."""
    x = walk.value(operand(node, 0))
    dim = int(argument(node, 1, "dim", -1)) % len(x.shape)
    x, labels = walk.algebra.one(x, dim)
    half = x.shape[dim] // 2
    if labels is not None:
        walk.algebra.union.join(labels[:half], labels[half:])
    return part(walk, x, dim, 0, half)


GATES: Mapping[Any, int] = {
    aten.lstm.input: 4,
    aten.gru.input: 3,
    aten.rnn_tanh.input: 1,
}


def recurrent(walk: Walk, node: Node) -> Result:
    """Gates of one hidden number go together, in both matrices; ``h = 0`` stays 0 where they are masked."""
    x = walk.value(operand(node, 0))
    states: Any = operand(node, 1)
    weights: list[Any] = list(operand(node, 2))
    biased, layers, bidirectional = bool(operand(node, 3)), int(operand(node, 4)), bool(operand(node, 7))
    algebra, gates = walk.algebra, GATES[node.target]
    directions = 2 if bidirectional else 1
    each = len(weights) // (layers * directions)
    if each != (4 if biased else 2):  # projections
        return None
    for dim in range(len(x.shape) - 1):
        x = algebra.fix(x, dim)
    hidden: list[Array] = []
    everything: list[Array] = []
    for layer in range(layers):
        given = x if layer == 0 else None
        outputs = []
        for direction in range(directions):
            first = (layer * directions + direction) * each
            outputs.append(_cell(walk, weights[first : first + each], gates, given, hidden))
        hidden = outputs
        everything += outputs
    first_state = states if isinstance(states, list | tuple) else [states]
    for state in first_state:
        value = walk.value(state)
        for dim in (0, 1):
            value = algebra.fix(value, dim)
        for labels in everything:  # one tensor holds the first states of all
            algebra.match(value, 2, labels)
    out = np.concatenate(hidden)
    values: Any = node.meta["val"]
    shapes = [tuple(int(size) for size in value.shape) for value in values]
    sequence = Labelled(shapes[0], (((len(shapes[0]) - 1,), out),), True)
    if directions == layers == 1:
        return [sequence, *(Labelled(shape, (((2,), out),), True) for shape in shapes[1:])]
    if any(user.target is operator.getitem and operand(user, 1) > 0 and user.users for user in node.users):
        algebra.union.freeze(out)  # the last states of all layers and directions lie in one tensor
    return [sequence, *map(Labelled, shapes[1:])]


def _cell(walk: Walk, weights: list[Any], gates: int, x: Labelled | None, before: list[Array]) -> Array:
    """Join the labels of one layer in one direction; those of its hidden state."""
    algebra = walk.algebra
    ih, hh, *biases = (walk.value(weight) for weight in weights)
    ih, rows = algebra.one(ih, 0)
    ih, inside = algebra.one(ih, 1)
    hh, again = algebra.one(hh, 0)
    hh, state = algebra.one(hh, 1)
    assert rows is not None and again is not None and state is not None and inside is not None
    hidden = algebra.union.join_along(rows.reshape(gates, -1), 0)
    algebra.union.join(rows, again)
    algebra.union.join(hidden, state)
    for bias in biases:
        algebra.match(bias, 0, rows)
    if x is not None:
        algebra.match(x, len(x.shape) - 1, inside)
    else:
        algebra.union.join(np.concatenate(before), inside)
    return hidden


def summed_by_letters(walk: Walk, node: Node) -> Result:
    """Einstein's sums: dimensions of one letter have one label."""
    equation = str(operand(node, 0)).replace(" ", "")
    given: Any = operand(node, 1)
    if "->" not in equation or "." in equation:
        return None
    left, right = equation.split("->")
    terms = left.split(",")
    values = [walk.value(each) for each in given]
    if any(len(set(term)) < len(term) or len(term) != len(v.shape) for term, v in zip(terms, values, strict=True)):
        return None
    algebra = walk.algebra
    letters = [*right, *sorted(set(left) - set(right) - {","})]
    sizes = {letter: v.shape[d] for term, v in zip(terms, values, strict=True) for d, letter in enumerate(term)}
    if not any(value.zero for value in values):
        values = [
            _fixed(algebra, v, [d for d, letter in enumerate(term) if letter not in right])
            for term, v in zip(terms, values, strict=True)
        ]
    spread = []
    for term, each in zip(terms, values, strict=True):
        order = sorted(range(len(term)), key=[letters.index(letter) for letter in term].__getitem__)
        value = algebra.permute(each, order)
        places = sorted(letters.index(letter) for letter in term)
        shape = tuple(sizes[letter] if i in places else 1 for i, letter in enumerate(letters))
        blocks = tuple((tuple(places[dim] for dim in dims), labels) for dims, labels in value.blocks)
        spread.append(Labelled(shape, blocks, value.zero))
    found = algebra.merge(spread, tuple(sizes[letter] for letter in letters))
    for dim in reversed(range(len(right), len(letters))):
        found = algebra.drop(found, dim)
    return replace(found, zero=any(value.zero for value in values))


def _fixed(algebra: Algebra, value: Labelled, dims: Sequence[int]) -> Labelled:
    for dim in dims:
        value = algebra.fix(value, dim)
    return value


def _targets(*names: str) -> list[Any]:
    """Operators by ``name.overload``; those that this version of torch lacks are left out."""
    found = []
    for name in names:
        packet, _, overload = name.partition(".")
        target = getattr(getattr(aten, packet, None), overload or "default", None)
        if target is not None:
            found.append(target)
    return found


RULES: Mapping[Any, Rule] = {
    target: rule
    for rule, targets in (
        (same, _targets(
            "relu", "relu_", "relu6", "relu6_", "silu", "silu_", "gelu", "gelu_", "tanh", "tanh_", "hardswish",
            "hardswish_", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "selu_", "celu", "celu_", "mish", "mish_",
            "dropout", "dropout_", "feature_dropout", "clone", "contiguous", "detach", "detach_", "alias", "neg", "abs",
            "square", "sqrt", "sin", "erf", "sign", "round", "floor", "expm1", "positive", "to.dtype", "to.device",
            "to.dtype_layout", "_to_copy", "type_as", "lift_fresh_copy", "lift_fresh", "alpha_dropout", "hardshrink",
            "softshrink", "tanhshrink", "atan", "log1p", "real", "native_dropout",
        )),
        (shifted, _targets(
            "sigmoid", "sigmoid_", "hardsigmoid", "hardsigmoid_", "exp", "cos", "softplus", "log", "reciprocal",
            "rsqrt", "logical_not", "bitwise_not", "log_sigmoid", "add.Scalar", "sub.Scalar", "rsub.Scalar",
            "eq.Scalar", "ne.Scalar", "lt.Scalar", "le.Scalar", "gt.Scalar", "ge.Scalar", "isinf",
            "isnan", "erfc", "logit",
        )),
        (same, _targets("mul.Scalar", "div.Scalar")),
        (clamped, _targets("clamp", "clamp_", "hardtanh", "hardtanh_", "clamp_min", "clamp_min_")),
        (summed, _targets("add.Tensor", "add_.Tensor", "sub.Tensor", "sub_.Tensor", "maximum", "minimum")),
        (multiplied, _targets("mul.Tensor", "mul_.Tensor")),
        (divided, _targets("div.Tensor", "div_.Tensor")),
        (compared, _targets(
            "eq.Tensor", "ne.Tensor", "lt.Tensor", "le.Tensor", "gt.Tensor", "ge.Tensor", "logical_and", "logical_or",
            "bitwise_and.Tensor", "bitwise_or.Tensor", "pow.Tensor_Tensor", "atan2", "__and__.Tensor", "__or__.Tensor",
        )),
        (chosen, _targets("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")),
        (filled, _targets("masked_fill.Scalar", "masked_fill_.Scalar")),
        (power, _targets("pow.Tensor_Scalar", "pow_.Scalar")),
        (convolve, _targets(
            "conv1d", "conv2d", "conv3d", "conv1d.padding", "conv2d.padding", "conv3d.padding",
            "conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input",
        )),
        (linear, _targets("linear")),
        (addmm, _targets("addmm")),
        (matmul, _targets("matmul", "bmm", "mm")),
        (attend, _targets("scaled_dot_product_attention")),
        (batch_norm, _targets("batch_norm")),
        (layer_norm, _targets("layer_norm", "rms_norm")),
        (group_norm, _targets("group_norm")),
        (prelu, _targets("prelu")),
        (pooled, _targets(
            "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
            "adaptive_avg_pool2d", "adaptive_avg_pool3d", "upsample_nearest1d.vec", "upsample_nearest2d.vec",
            "upsample_nearest3d.vec", "upsample_bilinear2d.vec", "upsample_bicubic2d.vec", "upsample_nearest1d",
            "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d.vec",
            "_upsample_bilinear2d_aa.vec", "_upsample_bicubic2d_aa.vec", "upsample_trilinear3d.vec",
            "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d",
        )),
        (pooled_pair, _targets(
            "max_pool2d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool1d", "max_pool1d_with_indices",
        )),
        (reduced, _targets(
            "mean", "mean.dim", "sum", "sum.dim_IntList", "amax", "amin", "max.dim", "min.dim", "var.correction",
            "var.dim", "std.correction", "std.dim", "linalg_vector_norm", "norm.ScalarOpt_dim", "var_mean.correction",
            "prod.dim_int", "logsumexp", "any.dim", "all.dim", "argmax", "argmin",
        )),
        (normalized, _targets("softmax.int", "log_softmax.int", "_softmax", "_log_softmax", "cumsum")),
        (along, _targets("roll", "flip")),
        (viewed, _targets(
            "view", "reshape", "flatten.using_ints", "_unsafe_view", "unflatten.int", "unsqueeze", "unsqueeze_",
            "squeeze", "squeeze.dim", "squeeze.dims", "view_as", "reshape_as",
        )),
        (permuted, _targets("permute", "transpose.int", "t", "numpy_T", "mT", "movedim.int", "swapaxes")),
        (expanded, _targets("expand", "expand_as", "broadcast_to")),
        (repeated, _targets("repeat")),
        (interleaved, _targets("repeat_interleave.self_int")),
        (concatenated, _targets("cat", "concat")),
        (stacked, _targets("stack")),
        (sliced, _targets("slice.Tensor")),
        (narrowed, _targets("narrow")),
        (split, _targets("split.Tensor", "split_with_sizes", "chunk", "split.sizes")),
        (unbound, _targets("unbind.int")),
        (selected, _targets("select.int")),
        (indexed, _targets("index.Tensor")),
        (index_selected, _targets("index_select")),
        (looked_up, _targets("embedding")),
        (padded, _targets("pad", "constant_pad_nd")),
        (created, _targets(
            "zeros", "ones", "full", "empty.memory_format", "new_zeros", "new_ones", "new_full",
        )),
        (shaped_alike, _targets("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")),
        (written, _targets("copy_")),
        (shuffled, _targets("pixel_shuffle", "pixel_unshuffle")),
        (gated, _targets("glu")),
        (recurrent, list(GATES)),
        (summed_by_letters, _targets("einsum")),
    )
    for target in targets
}  # fmt: skip
"""Operators and what they do to labels; every other one is a barrier."""
