"""The edit that removes labels, in the form that leaves most of the model as its author wrote it."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import Node

from featherweight.core.compressed import twin
from featherweight.core.edit import Edit
from featherweight.core.errors import SelectionError
from featherweight.core.task import Example, evaluating
from featherweight.graph.attributes import follow
from featherweight.graph.cut import Cut, Kept, cut
from featherweight.graph.labels import Walked
from featherweight.graph.resize import Called, Resized
from featherweight.graph.rewrite import CutGraph, described
from featherweight.graph.trace import Traced, trace


def removal(walked: Walked, dead: Iterable[int], model: nn.Module, example: Example) -> tuple[Edit, ...]:
    """The edits that remove these labels from ``model``, which is not changed.

    First the model's own class is tried: its tensors cut, the sizes of its layers and the numbers among its attributes
    made to follow. That stands where it is proved: traced anew, the cut model must be, call by call and number by
    number, the graph that the labels say. Else the model is replaced by that graph.
    """
    gone = set(dead)
    resized = Resized(walked, gone)
    kept = cut(walked.labels, gone, model)
    sizes = follow(resized, model)
    forms: tuple[tuple[Edit, ...], ...] = ((kept,),) if sizes is None else ((kept, sizes), (kept,))
    for edits in forms:
        if proved(model, edits, resized, example):
            return edits
    return (CutGraph(kept.kept, described(example)),)


def walk(model: nn.Module, example: Example) -> Walked:
    """The model's graph run on labels, traced as it is in evaluation; ``TraceError`` where it cannot be traced."""
    with evaluating(model):
        return Walked(model, trace(model, example))


def kept_by(edits: Iterable[Edit]) -> Kept:
    """What the cuts among these edits keep."""
    return {name: dims for edit in edits if isinstance(edit, Cut | CutGraph) for name, dims in edit.kept.items()}


class Hollow(Cut):
    """A cut whose tensors have the right shapes and nothing in them, which takes no memory: for tracing alone."""

    def select(self, tensor: Tensor, dim: int, indices: tuple[int, ...]) -> Tensor:
        return tensor.new_empty((*tensor.shape[:dim], len(indices), *tensor.shape[dim + 1 :]))


def proved(model: nn.Module, edits: Sequence[Edit], resized: Resized, example: Example) -> bool:
    """Whether the model's own code, after the edits, computes the resized graph."""
    small = twin(model)
    try:
        for edit in edits:
            (Hollow(edit.kept) if isinstance(edit, Cut) else edit).apply(small)
        with evaluating(small):
            return _equal(resized, trace(small, example))
    except (SelectionError, RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False  # the code cannot run on what stays


def _equal(resized: Resized, traced: Traced) -> bool:
    """Whether both graphs make the same calls on the same operands."""
    before, after = resized.walked.traced.nodes, traced.nodes
    if len(before) != len(after):
        return False
    place = {node: number for number, node in enumerate(before)} | {node: number for number, node in enumerate(after)}
    for ours, theirs in zip(before, after, strict=True):
        if ours.op != theirs.op or resized.walked.traced.names.get(ours.name) != traced.names.get(theirs.name):
            return False
        called = resized.call(ours) if ours.op == "call_function" else Called(ours.target, ours.args, ours.kwargs)
        if ours.op == "call_function" and called.target != theirs.target:
            return False
        other = Called(theirs.target, theirs.args, theirs.kwargs)
        if _plain(_complete(called), place) != _plain(_complete(other), place):
            return False
    return True


def _complete(called: Called) -> list[Any]:
    """All arguments, also those that a trace leaves out since they are the operator's own defaults."""
    if not isinstance(called.target, OpOverload):
        return [called.args, dict(called.kwargs)]
    found = []
    for number, argument in enumerate(called.target._schema.arguments):
        default = called.kwargs.get(argument.name, argument.default_value)
        found.append(called.args[number] if number < len(called.args) else default)
    return found


def _plain(value: Any, place: dict[Node, int]) -> Any:
    """Nested arguments with the places of nodes in place of nodes."""
    if isinstance(value, Node):
        return ("node", place[value])
    if isinstance(value, tuple | list):
        plain = [_plain(each, place) for each in value]
        alike = all(type(each) is int and each == plain[0] for each in plain)
        return plain[0] if plain and alike else plain  # a default of 1 is [1, 1] where it is said
    if isinstance(value, dict):
        return {key: _plain(each, place) for key, each in value.items()}
    return value
