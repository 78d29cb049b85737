"""Activations worth quantizing: found in a traced graph, tapped in the running model.

Only operations on which engines agree are given quantized operands: convolutions, linear layers, and for images the
joins and averages between them. Matrix products of two activations, softmax, normalisation and gates stay float.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from featherweight.core.tap import Call, Operator, Place, watching
from featherweight.core.task import Example
from featherweight.graph.trace import TARGETS, Traced, operands

aten = torch.ops.aten

WEIGHTED = frozenset({Operator.CONVOLVE, Operator.LINEAR})
JOINED = frozenset({Operator.ADD, Operator.CAT, Operator.MEAN, Operator.POOL})

VIEWS = frozenset({
    aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.permute.default, aten.transpose.int,
    aten.contiguous.default, aten.clone.default, aten.detach.default, aten.alias.default, aten.dropout.default,
    aten.dropout_.default, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.t.default,
    aten.max_pool2d.default, aten.expand.default,
})  # fmt: skip
"""Operators whose output holds nothing but entries of their input: what is on a grid stays on it."""
PARTS = frozenset({aten.slice.Tensor, aten.select.int, aten.pad.default, aten.constant_pad_nd.default})
"""The same, with entries left out or zeros added."""
SHARING = (VIEWS | PARTS) - {
    aten.clone.default, aten.max_pool2d.default, aten.pad.default, aten.constant_pad_nd.default,
}  # fmt: skip
"""Those whose output may be their input's own memory."""


@dataclass(frozen=True)
class Activation:
    """One tensor of the model and the places at which it is quantized, by one function."""

    name: str
    places: tuple[Place, ...]
    shared: str = ""
    """Activations of equal ``shared`` have one range: they are concatenated somewhere."""


@dataclass(frozen=True)
class Edge:
    """An operand of a call, where the tensor comes from, and whether it was cut or padded on the way."""

    node: Node
    operand: int
    source: Node
    parts: bool


def find_activations(traced: Traced, weights: Callable[[str], bool], joins: bool = True) -> list[Activation]:
    """The activations that reach the layers whose weight's name satisfies ``weights``, and the joins of images.

    A tensor that only quantized operations take is quantized where it is made; else at each operand.
    """
    edges = [edge for node, call in traced.calls.items() for edge in _edges(traced, node, call, weights, joins)]
    chosen = {(edge.node, edge.operand) for edge in edges}
    by_source: dict[Node, list[Edge]] = {}
    for edge in edges:
        by_source.setdefault(edge.source, []).append(edge)
    shared = _concatenated(traced, by_source)
    found = []
    for source, its in by_source.items():
        places = _places(traced, source, its, chosen)
        if places:
            found.append(Activation(str(places[0]), places, shared.get(source, "")))
    return found


def linear_inputs(traced: Traced, weights: Callable[[str], bool]) -> list[Place]:
    """What the linear layers take in whose weight's name satisfies ``weights``."""
    linear = (node for node, call in traced.calls.items() if call.operator is Operator.LINEAR)
    return [Place(traced.calls[node], 0) for node in linear if _weighted(traced, node, weights)]


@torch.no_grad()
def seen_alike(traced: Traced, model: nn.Module, example: Example) -> frozenset[Call]:
    """The calls of the traced graph that the running model counts alike.

    Some operations are seen in one of the two only (``nn.MultiheadAttention`` runs as one function), and would shift
    the ordinals of others. A module's calls of an operator count where there are as many, on operands of equal shapes.
    """
    ran: dict[Call, list[tuple[int, ...]]] = {}

    def note(place: Place, x: Tensor) -> Tensor:
        if place.operand is not None:
            ran.setdefault(place.call, []).append(tuple(x.shape))
        return x

    with watching(model, note):
        example.run(model)
    graph = {call: [tuple(x.meta["val"].shape) for x in operands(node).values()] for node, call in traced.calls.items()}
    odd = {(call.module, call.operator) for call in ran.keys() | graph.keys() if ran.get(call) != graph.get(call)}
    return frozenset(call for call in graph if (call.module, call.operator) not in odd)


def _edges(traced: Traced, node: Node, call: Call, weights: Callable[[str], bool], joins: bool) -> list[Edge]:
    if call.operator in WEIGHTED:
        wanted = _weighted(traced, node, weights)
    else:
        wanted = joins and call.operator in JOINED and all(x.meta["val"].ndim == 4 for x in operands(node).values())
    found = []
    for number, operand in operands(node).items() if wanted else ():
        source, parts = _source(operand)
        if traced.parameter(source) is None and not _overwritten(source, node):
            found.append(Edge(node, number, source, parts))
    return found


def _weighted(traced: Traced, node: Node, weights: Callable[[str], bool]) -> bool:
    name = traced.parameter(node.args[1])
    return name is not None and weights(name)


def _source(node: Node) -> tuple[Node, bool]:
    """The tensor whose entries ``node`` holds, and whether some are left out or zeros were added."""
    parts = False
    while moves(node):
        parts |= node.target in PARTS
        node = node.args[0]  # type: ignore[assignment]
    return node, parts


def aliases(node: Any) -> set[Node]:
    """A tensor, and all that may share its memory."""
    while node.op == "call_function" and node.target in SHARING:
        node = node.args[0]
    found, new = {node}, [node]
    while new:
        views = [user for user in new.pop().users if user.target in SHARING and user not in found]
        found.update(views)
        new.extend(views)
    return found


def writes(node: Node) -> bool:
    """Whether an operator writes to its first operand; dropout does not, in evaluation."""
    return "_." in str(node.target) and node.target not in VIEWS


def _overwritten(source: Node, node: Node) -> bool:
    """Whether the tensor was written to, through another of its views, before ``node`` reads it: it stays float."""
    shared = aliases(source)
    users = {user for each in shared for user in each.users if user < node}
    return any(writes(user) and user.args[0] in shared for user in users)


def moves(node: Node) -> bool:
    """Whether a node's result holds nothing but entries of its first operand, and zeros."""
    return node.op == "call_function" and (node.target in VIEWS or _is_part(node))


def _is_part(node: Node) -> bool:
    if node.target is aten.pad.default:
        mode, value = [*node.args[2:], *("constant", None)[len(node.args) - 2 :]][:2]
        return mode == "constant" and not value
    if node.target is aten.constant_pad_nd.default:
        return not (node.args[2] if len(node.args) > 2 else 0)
    return node.target in PARTS


def _places(traced: Traced, source: Node, edges: list[Edge], chosen: set[tuple[Node, int]]) -> tuple[Place, ...]:
    made = traced.calls.get(source)
    if made is not None and _only_quantized(source, chosen):
        again = [edge for edge in edges if edge.parts]  # engines want their operands' grid right before them
        return (Place(made, None), *(Place(traced.calls[edge.node], edge.operand) for edge in again))
    return tuple(Place(traced.calls[edge.node], edge.operand) for edge in edges)


def _only_quantized(source: Node, chosen: set[tuple[Node, int]]) -> bool:
    """Whether all that use the tensor, or its entries, take it quantized."""
    for user in source.users:
        if moves(user):
            if not _only_quantized(user, chosen):
                return False
            continue
        if user.op == "output" or user.target not in TARGETS:
            return False
        if any((user, number) not in chosen for number, operand in operands(user).items() if operand is source):
            return False
    return bool(source.users)


def _concatenated(traced: Traced, by_source: Mapping[Node, list[Edge]]) -> dict[Node, str]:
    """Source -> the name of the group of sources that are concatenated, with what they become."""
    groups: list[set[Node]] = []
    for node, call in traced.calls.items():
        if call.operator is not Operator.CAT:
            continue
        members = {_source(operand)[0] for operand in operands(node).values()} | {node}
        together = [group for group in groups if group & members]
        groups = [group for group in groups if not group & members] + [members.union(*together)]
    return {node: f"group {number}" for number, group in enumerate(groups) for node in group if node in by_source}
