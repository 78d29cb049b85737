"""Between which layers scales can move: chains, each read by the next alone, and norms that only layers read."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.fx import Node

from featherweight.core.site import parameters
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


@dataclass(frozen=True)
class Scaling:
    """Channels that can be divided where they are written and multiplied where they are read: the function stays.

    written   parameters whose first dimension is that of the channels: gain and shift of a norm, or weight and bias of
              a layer
    readers   paths of all layers that read the channels
    """

    written: tuple[str, ...]
    readers: tuple[str, ...]


GAINS = frozenset({aten.layer_norm.default, aten.rms_norm.default, aten.mul.Tensor})
"""What ends in a product with a gain for each entry of the last dimension, and perhaps a sum with a shift."""


def find_scalings(traced: Traced, model: nn.Module, *, relu6: bool = False) -> list[Scaling]:
    """Norms that linear layers alone read, and every pair of neighbours of :func:`find_chains`.

    A norm is a layer norm over the last dimension, or any product with a vector of its own there, as root mean square
    norms end in. Layers whose inputs come from one norm, as query, key and value do, are read together. All of them run
    once, and their parameters are their own.
    """
    modules = dict(model.named_modules())
    runs = Counter(call.module for call in traced.calls.values())
    owned = {first for first, names, _ in parameters(model) if len(names) == 1}
    found = []
    for node in traced.program.graph.nodes:
        if node.op != "call_function" or node.target not in GAINS:
            continue
        written = _gains(traced, node, owned)
        reading = _linear_readers(traced, node) if written else []
        layers = {traced.calls[each].module: own_layer(modules.get(traced.calls[each].module)) for each in reading}
        own = all(
            layer is not None and runs[traced.calls[each].module] == 1 and only_user(traced, model, each, layer)
            for each, layer in zip(reading, layers.values(), strict=False)
        )
        if reading and own and len(layers) == len(reading):
            found.append(Scaling(written, tuple(layers)))
    for chain in find_chains(traced, model, relu6=relu6):
        for first, second in pairwise(chain):
            leaves = ("weight",) if modules[first].bias is None else ("weight", "bias")
            found.append(Scaling(tuple(f"{first}.{leaf}" for leaf in leaves), (second,)))
    return found


def _gains(traced: Traced, node: Node, owned: set[str]) -> tuple[str, ...]:
    """The vectors that scale the last dimension of a result, each used here alone; none where that is not so."""
    if node.target is aten.mul.Tensor:
        given = [arg for arg in node.args if traced.parameter(arg) is not None]
    else:
        given = [arg for arg in node.args[2:4] if isinstance(arg, Node)]
        given = given if len(node.args[1]) == 1 else []  # type: ignore[arg-type]
    names = []
    for arg in given:
        name = traced.parameter(arg)
        shape = arg.meta["val"].shape  # type: ignore[union-attr]
        if name not in owned or len(arg.users) > 1 or shape != node.meta["val"].shape[-1:]:  # type: ignore[union-attr]
            return ()
        names.append(name)
    return tuple(names)


def _linear_readers(traced: Traced, node: Node) -> list[Node]:
    """The linear layers that read a tensor, through positively homogeneous functions; none where anything else does."""
    found, waiting = [], [node]
    while waiting:
        at = waiting.pop(0)
        for user in at.users:
            call = traced.calls.get(user)
            operator = call.operator if call is not None else None
            if operator is Operator.LINEAR and operands(user).get(0) is at:
                found.append(user)
            elif operator is Operator.RELU or user.target in ELEMENTWISE:
                waiting.append(user)
            else:
                return []
    return found


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
