"""Chains of layers, each read by the next alone, with nothing but positively homogeneous functions between them."""

from collections import Counter

import torch
from torch import nn
from torch.fx import Node

from featherweight.core.tap import Operator
from featherweight.graph.fold import only_user, own_layer
from featherweight.graph.sites import WEIGHTED
from featherweight.graph.trace import Traced, operands

aten = torch.ops.aten

ELEMENTWISE = frozenset({
    aten.leaky_relu.default, aten.leaky_relu_.default, aten.dropout.default, aten.dropout_.default, aten.clone.default,
    aten.contiguous.default, aten.detach.default, aten.alias.default,
})  # fmt: skip
"""Functions of each entry with ``f(s x) = s f(x)`` for ``s > 0``, as they are in evaluation; ReLU is one too."""
POOLING = frozenset({aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default})
FLATTENING = frozenset({aten.flatten.using_ints, aten.view.default, aten.reshape.default})


def find_chains(traced: Traced, model: nn.Module, *, relu6: bool = False) -> list[tuple[str, ...]]:
    """Paths of the layers of every longest chain of two or more.

    A layer counts where it runs once, its parameters are its own, and its channels reach one other layer alone,
    through ReLU, leaky ReLU, pooling and flattening. ``relu6`` takes ReLU6 for a ReLU, which it is only below its
    bound.
    """
    runs = Counter(call.module for call in traced.calls.values())
    modules = dict(model.named_modules())

    def alone(node: Node) -> bool:
        call = traced.calls[node]
        layer = own_layer(modules.get(call.module))
        return layer is not None and runs[call.module] == 1 and only_user(traced, model, node, layer)

    following: dict[str, str] = {}
    for node, call in traced.calls.items():
        if call.operator in WEIGHTED and alone(node):
            reader = _reader(traced, node, relu6)
            if reader is not None and alone(reader):
                following[call.module] = traced.calls[reader].module
    return [_path(first, following) for first in following if first not in following.values()]


def _path(first: str, following: dict[str, str]) -> tuple[str, ...]:
    path = [first]
    while path[-1] in following:
        path.append(following[path[-1]])
    return tuple(path)


def _reader(traced: Traced, node: Node, relu6: bool) -> Node | None:
    """The layer that reads a layer's channels, where nothing else does."""
    spatial = traced.calls[node].operator is Operator.CONVOLVE  # channels are dimension 1; else the last one
    if spatial and node.meta["val"].ndim != node.args[1].meta["val"].ndim:  # type: ignore[union-attr]
        return None  # without a batch
    while len(node.users) == 1:
        before, node = node, next(iter(node.users))
        call = traced.calls.get(node)
        operator = call.operator if call is not None else None
        if operator in WEIGHTED:
            fits = spatial == (operator is Operator.CONVOLVE) and operands(node).get(0) is before
            return node if fits else None
        if operator is Operator.RELU or (relu6 and operator is Operator.RELU6) or node.target in ELEMENTWISE:
            continue
        if not spatial or not _keeps_channels(before, node, operator):
            return None
        spatial = node.meta["val"].ndim > 2
    return None


def _keeps_channels(before: Node, node: Node, operator: Operator | None) -> bool:
    """Whether samples and channels stay the first dimensions, or become rows of all that a sample has, in order."""
    if operator is Operator.POOL or node.target in POOLING:
        return True
    shape = before.meta["val"].shape
    if operator is Operator.MEAN:
        dims = node.args[1] if len(node.args) > 1 else None
        return isinstance(dims, list | tuple) and all(int(dim) % len(shape) > 1 for dim in dims)
    if node.target not in FLATTENING:
        return False
    after = node.meta["val"].shape
    return len(after) == 2 and after[0] == shape[0]
