"""Cutting the traced graph itself, where the model's own code cannot run on what stays."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from featherweight.core.code import Code
from featherweight.core.edit import Edit
from featherweight.core.errors import FormatError, SelectionError, TraceError
from featherweight.core.task import Example, evaluating
from featherweight.graph.cut import Cut, Kept
from featherweight.graph.labels import Walked
from featherweight.graph.resize import Resized
from featherweight.graph.trace import trace

aten = torch.ops.aten

TRAINS: Mapping[Any, int] = {aten.batch_norm.default: 5, aten.dropout.default: 2, aten.dropout_.default: 2}
"""Operators that compute something else in training -> the argument that says which."""


class Graph(GraphModule):
    """A traced model, with the parameters of the model under their names, that trains and evaluates.

    Batch norms and dropout follow the mode; everything else is as it was in evaluation.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> "Graph":
        with warnings.catch_warnings():  # of torch to itself, of how it tells the leaves of a tree
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            copied: Any = super().__deepcopy__(memo)
        assert isinstance(copied, Graph)
        return copied

    def train(self, mode: bool = True) -> "Graph":
        super().train(mode)
        nodes = [node for node in self.graph.nodes if node.target in TRAINS]
        if any(node.args[TRAINS[node.target]] is not mode for node in nodes):
            for node in nodes:
                place = TRAINS[node.target]
                node.args = (*node.args[:place], mode, *node.args[place + 1 :])
            self.recompile()
        return self


@dataclass(frozen=True)
class CutGraph(Edit):
    """The same as :class:`~featherweight.graph.cut.Cut`, of a model that is replaced by its traced graph.

    Sizes that stand in the model's code cannot follow a cut; in the graph they can. ``given`` is what the model takes:
    shapes and types of an example, with which it is traced again where the edit is replayed.
    """

    kept: Kept
    given: tuple[Any, Any]
    identifier: ClassVar[str] = "cut-graph"
    again: ClassVar[bool] = True

    def apply(self, model: nn.Module) -> None:
        raise FormatError("a cut of a graph replaces the model")

    def replaced(self, model: nn.Module) -> nn.Module:
        example = Example(*_inputs(self.given))
        with evaluating(model):
            try:
                program = self._program(model, example, any_batch=True)
            except SelectionError:
                try:
                    program = self._program(model, example, any_batch=False)
                except SelectionError as error:
                    raise FormatError(f"the graph of this model cannot be cut so: {error}") from error
        Cut(self.kept).apply(model)
        return _assembled(program, model)

    def _program(self, model: nn.Module, example: Example, any_batch: bool) -> torch.export.ExportedProgram:
        traced = trace(model, example, any_batch)
        walked = Walked(model, traced)
        resized = Resized(walked, dead_labels(walked, self.kept))
        calls = {node: resized.call(node) for node in traced.nodes if node.op == "call_function"}
        for node, called in calls.items():
            node.target, node.args, node.kwargs = called.target, called.args, dict(called.kwargs)
        return traced.program

    def recode(self, model: nn.Module, name: str, code: Code) -> Code | None:
        return Cut(self.kept).recode(model, name, code)

    def to_json(self) -> dict[str, object]:
        return {"kept": Cut(self.kept).to_json(), "given": list(self.given)}

    @classmethod
    def from_json(cls, record: dict[str, object]) -> "CutGraph":
        kept, given = record.get("kept"), record.get("given")
        if not isinstance(kept, dict) or not isinstance(given, list) or len(given) != 2:
            raise FormatError("a cut of a graph has what it keeps, and what the model takes")
        _inputs((given[0], given[1]))
        return cls(Cut.from_json(kept).kept, (given[0], given[1]))


def dead_labels(walked: Walked, kept: Kept) -> set[int]:
    """The labels of what is not kept. ``FormatError`` where they are not free, or the model has no such tensor."""
    dead: set[int] = set()
    for name, dims in kept.items():
        value = walked.stored.get(name)
        for dim, stays in dims.items():
            block = None if value is None else value.block(dim)
            if block is None or not set(stays) <= set(range(len(block[1]))):
                raise FormatError(f"the model has no tensor {name!r} with a dimension {dim} to cut so")
            roots = walked.union.roots(block[1]).tolist()
            dead |= {root for index, root in enumerate(roots) if index not in set(stays)}
    frozen = [label for label in dead if label not in walked.labels.free]
    if frozen:
        raise FormatError(f"{len(frozen)} of the channels that are cut must stay in this model")
    return dead


def _assembled(program: torch.export.ExportedProgram, model: nn.Module) -> Graph:
    """A module of the program's graph, on the tensors of ``model``."""
    unlifted = program.module(check_guards=False)
    graph = Graph(unlifted, unlifted.graph, type(model).__name__)
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner, _, leaf = name.rpartition(".")
        try:
            module = graph.get_submodule(owner)
        except AttributeError:
            continue
        if leaf in module._parameters:
            module._parameters[leaf] = tensor
        elif leaf in module._buffers:
            module._buffers[leaf] = tensor
    _order(graph, model)
    return graph.eval()


def _order(ours: nn.Module, theirs: nn.Module) -> None:
    """Parameters, buffers and modules in the order in which the other module has them; files tell tensors in order."""
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (ours._parameters, theirs._parameters), (ours._buffers, theirs._buffers), (ours._modules, theirs._modules)
    ]  # fmt: skip
    for mine, others in pairs:
        given = dict(mine)
        names = [name for name in others if name in given] + [name for name in given if name not in others]
        mine.clear()
        mine.update({name: given[name] for name in names})
    for name, module in ours._modules.items():
        other = theirs._modules.get(name)
        if module is not None and other is not None:
            _order(module, other)


def described(example: Example) -> tuple[Any, Any]:
    """Shapes and types of an example, as JSON values."""
    return [_described(value) for value in example.args], {
        name: _described(value) for name, value in example.kwargs.items()
    }


def _described(value: Any) -> Any:
    match value:
        case Tensor():
            return {"shape": list(value.shape), "type": str(value.dtype).removeprefix("torch.")}
        case None | bool() | int() | float() | str():
            return {"value": value}
        case tuple() | list():
            return [_described(each) for each in value]
        case _:
            raise TraceError(f"an input of type {type(value).__name__} cannot be described in a file")


def _inputs(given: tuple[Any, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = given
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise FormatError("what a model takes is a list and a table")
    if _entries([*args, *kwargs.values()]) > LARGEST:
        raise FormatError(f"what a model takes has more than {LARGEST} entries")
    return tuple(map(_input, args)), {str(name): _input(value) for name, value in kwargs.items()}


LARGEST = 1 << 26


def _input(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_input, value))
    if not isinstance(value, dict):
        raise FormatError("an input of a model is neither a tensor nor a value")
    if "shape" not in value:
        return value.get("value")
    dtype = getattr(torch, str(value.get("type")), None)
    shape = value["shape"]
    if not isinstance(dtype, torch.dtype) or not _is_shape(shape):
        raise FormatError("an input of a model has no shape and type of a tensor")
    return torch.zeros(shape, dtype=dtype)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) <= 16 and all(type(size) is int and size >= 0 for size in shape)


def _entries(values: list[Any]) -> int:
    """Entries of all tensors among these inputs, those of none counted as one."""
    total = 0
    for value in values:
        if isinstance(value, list):
            total += _entries(value)
        elif isinstance(value, dict) and _is_shape(value.get("shape")):
            total += prod(max(size, 1) for size in value["shape"])
    return total
