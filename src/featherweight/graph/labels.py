"""Labels: one for each channel, everywhere it appears.

Every index of every dimension of every tensor in the traced graph gets a label; operators say which labels are the
same. What ends up with one label lives and dies together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from featherweight.core.task import Example
from featherweight.graph.trace import trace

Place = tuple[str, int, int]
"""(name of a parameter or buffer, dimension, index)."""

aten = torch.ops.aten

SAME = (
    aten.relu.default, aten.relu_.default, aten.relu6.default, aten.hardtanh.default, aten.hardtanh_.default,
    aten.silu.default, aten.silu_.default, aten.gelu.default, aten.sigmoid.default, aten.tanh.default,
    aten.hardswish.default, aten.hardswish_.default, aten.leaky_relu.default, aten.leaky_relu_.default,
    aten.elu.default, aten.dropout.default, aten.dropout_.default, aten.clone.default, aten.contiguous.default,
    aten.detach.default, aten.neg.default, aten.abs.default, aten.square.default,
)  # fmt: skip
JOIN = (aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.mul_.Tensor, aten.div.Tensor)
POOL = (
    aten.max_pool2d.default, aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default, aten.adaptive_max_pool2d.default,
)  # fmt: skip
RESHAPE = (aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten._unsafe_view.default)
CONVOLVE = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)


@dataclass(frozen=True)
class Labels:
    """The classes of a model: for every free label the places it appears at, and what stopped others from being free.

    ``free`` maps a label to its places. ``barriers`` are operators whose labels are frozen: name and operator.
    """

    free: dict[int, tuple[Place, ...]]
    barriers: tuple[str, ...]

    def groups(self) -> list[list[int]]:
        """Labels that share a dimension of a tensor somewhere, together: candidates that can be weighed against
        each other. In the order of their first place.
        """
        owners: dict[tuple[str, int], list[int]] = {}
        for label, places in self.free.items():
            owners.setdefault(places[0][:2], []).append(label)
        return list(owners.values())


class _Union:
    """Disjoint sets of labels (Tarjan 1975), with the root remembering whether any member is frozen."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.frozen: list[bool] = []

    def fresh(self, count: int, frozen: bool = False) -> list[int]:
        first = len(self.parent)
        self.parent += range(first, first + count)
        self.frozen += [frozen] * count
        return list(range(first, first + count))

    def find(self, label: int) -> int:
        while self.parent[label] != label:
            self.parent[label] = label = self.parent[self.parent[label]]
        return label

    def join(self, a: Sequence[int], b: Sequence[int]) -> None:
        for pair in zip(a, b, strict=True):
            root, other = sorted(map(self.find, pair))
            self.parent[other] = root
            self.frozen[root] |= self.frozen[other]

    def freeze(self, dims: Sequence[Sequence[int]]) -> None:
        for dim in dims:
            for label in dim:
                self.frozen[self.find(label)] = True


Dims = list[list[int]]
"""Labels of a tensor: one list a dimension."""


def find_labels(model: nn.Module, example: Example) -> Labels:
    """Trace the model on the example and run its graph on labels; ``SelectionError`` where it cannot be traced."""
    traced = trace(model, example)
    walk = _Walk(dict(traced.names))
    for node in traced.nodes:
        walk.visit(node)
    return walk.labels()


class _Walk:
    """The state of one pass over a graph."""

    def __init__(self, names: dict[str, str]) -> None:
        self.union = _Union()
        self.names = names
        self.values: dict[Node, Dims] = {}
        self.stored: dict[str, Dims] = {}
        self.barriers: list[str] = []

    def visit(self, node: Node) -> None:
        if node.op == "placeholder":
            name = self.names.get(node.name)
            dims = [self.union.fresh(size, frozen=name is None) for size in _shape(node)]
            self.values[node] = dims if name is None else self.stored.setdefault(name, dims)
        elif node.op == "output":
            for source in node.all_input_nodes:
                self.union.freeze(self.values.get(source, []))
        elif node.op == "call_function":
            rule = _rule(node)
            done = rule(self, node) if rule is not None else None
            self.values[node] = self.barrier(node) if done is None else done

    def barrier(self, node: Node) -> Dims:
        """Nobody knows the operator: what goes in stays as it is, and so does what comes out."""
        touched = [source for source in node.all_input_nodes if not self._all_frozen(source)]
        for source in node.all_input_nodes:
            self.union.freeze(self.values.get(source, []))
        if touched:
            self.barriers.append(f"{node.name} ({node.target})")
        return [self.union.fresh(size, frozen=True) for size in _shape(node)]

    def _all_frozen(self, node: Node) -> bool:
        dims = self.values.get(node, [])
        return all(self.union.frozen[self.union.find(label)] for dim in dims for label in dim)

    def labels(self) -> Labels:
        found: dict[int, list[Place]] = {}
        for name, dims in self.stored.items():
            for dim, labels in enumerate(dims):
                for index, label in enumerate(labels):
                    root = self.union.find(label)
                    if not self.union.frozen[root]:
                        found.setdefault(root, []).append((name, dim, index))
        return Labels({root: tuple(places) for root, places in found.items()}, tuple(self.barriers))


Rule = Callable[[_Walk, Node], Dims | None]
"""Labels of a node's output, joining labels on the way; ``None``: the rule does not cover this use."""


def _shape(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, torch.Tensor) else ()


def _rule(node: Node) -> Rule | None:
    for targets, rule in RULES:
        if node.target in targets:
            return rule
    return None


def _argument(node: Node, position: int, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else default


def _same(walk: _Walk, node: Node) -> Dims | None:
    return walk.values[node.args[0]]  # type: ignore[index]


def _join(walk: _Walk, node: Node) -> Dims | None:
    """Broadcasting: dimensions of one size are one, aligned from the right."""
    sources = [walk.values[arg] for arg in node.args[:2] if isinstance(arg, Node)]
    out: Dims = [[] for _ in _shape(node)]
    for source in sources:
        for offset in range(1, len(source) + 1):
            if len(source[-offset]) != len(_shape_of(node, offset)):
                continue
            if out[-offset]:
                walk.union.join(out[-offset], source[-offset])
            else:
                out[-offset] = source[-offset]
    return out


def _shape_of(node: Node, offset: int) -> range:
    return range(_shape(node)[-offset])


def _convolve(walk: _Walk, node: Node) -> Dims | None:
    x, w = walk.values[node.args[0]], walk.values[node.args[1]]  # type: ignore[index]
    bias, groups = _argument(node, 2), _argument(node, 6, 1)
    if groups == 1:
        walk.union.join(x[1], w[1])
    elif groups == len(w[0]) == len(x[1]):
        walk.union.join(x[1], w[0])
        walk.union.freeze([w[1]])
    else:
        return None
    if bias is not None:
        walk.union.join(walk.values[bias][0], w[0])
    walk.union.freeze(w[2:])
    return [x[0], w[0], *(walk.union.fresh(size, frozen=True) for size in _shape(node)[2:])]


def _linear(walk: _Walk, node: Node) -> Dims | None:
    x, w = walk.values[node.args[0]], walk.values[node.args[1]]  # type: ignore[index]
    walk.union.join(x[-1], w[1])
    if _argument(node, 2) is not None:
        walk.union.join(walk.values[_argument(node, 2)][0], w[0])
    return [*x[:-1], w[0]]


def _batch_norm(walk: _Walk, node: Node) -> Dims | None:
    x = walk.values[node.args[0]]  # type: ignore[index]
    for argument in node.args[1:5]:
        if isinstance(argument, Node):
            walk.union.join(walk.values[argument][0], x[1])
    return x


def _pool(walk: _Walk, node: Node) -> Dims | None:
    x = walk.values[node.args[0]]  # type: ignore[index]
    return [*x[:2], *(walk.union.fresh(size, frozen=True) for size in _shape(node)[2:])]


def _mean(walk: _Walk, node: Node) -> Dims | None:
    x = walk.values[node.args[0]]  # type: ignore[index]
    reduced = {dim % len(x) for dim in _argument(node, 1, range(len(x)))}
    walk.union.freeze([x[dim] for dim in reduced])
    kept = [dim for number, dim in enumerate(x) if number not in reduced]
    return kept if len(kept) == len(_shape(node)) else None


def _reshape(walk: _Walk, node: Node) -> Dims | None:
    """Merging dimensions of which one is free: ``[n, c, h, w] -> [n, c·h·w]`` repeats a channel's label h·w times."""
    x, shape = walk.values[node.args[0]], _shape(node)  # type: ignore[index]
    out: Dims = []
    dim = 0
    for size in shape:
        merged: list[Sequence[int]] = []
        while dim < len(x) and prod(len(each) for each in merged) < size or (not merged and dim < len(x)):
            merged.append(x[dim])
            dim += 1
        if prod(len(each) for each in merged) != size:
            return None
        free = [each for each in merged if not _frozen(walk, each)]
        if not free:
            out.append(walk.union.fresh(size, frozen=True) if len(merged) != 1 else list(merged[0]))
        elif len(free) > 1:
            return None
        else:
            at = next(number for number, each in enumerate(merged) if each is free[0])
            inner = prod(len(each) for each in merged[at + 1 :])
            outer = prod(len(each) for each in merged[:at])
            out.append([label for _ in range(outer) for label in free[0] for _ in range(inner)])
    return out if dim == len(x) else None


def _frozen(walk: _Walk, labels: Sequence[int]) -> bool:
    return all(walk.union.frozen[walk.union.find(label)] for label in labels)


def _cat(walk: _Walk, node: Node) -> Dims | None:
    sources = [walk.values[arg] for arg in node.args[0]]  # type: ignore[index, union-attr]
    dim = _argument(node, 1, 0) % len(sources[0])
    for source in sources[1:]:
        for number, labels in enumerate(source):
            if number != dim:
                walk.union.join(sources[0][number], labels)
    out = list(sources[0])
    out[dim] = [label for source in sources for label in source[dim]]
    return out


RULES: tuple[tuple[tuple[Any, ...], Rule], ...] = (
    (SAME, _same),
    (JOIN, _join),
    (CONVOLVE, _convolve),
    ((aten.linear.default,), _linear),
    ((aten.batch_norm.default,), _batch_norm),
    (POOL, _pool),
    ((aten.mean.dim,), _mean),
    (RESHAPE, _reshape),
    ((aten.cat.default,), _cat),
)
"""Operators and what they do to labels; every other one is a barrier."""
