"""A model's graph of operators, with the calls that a running model counts (``featherweight.core.tap``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from featherweight.core.errors import TraceError, reason_of
from featherweight.core.quiet import quiet
from featherweight.core.tap import JOINS, Call, Operator
from featherweight.core.task import Example

aten = torch.ops.aten

TARGETS: Mapping[Any, Operator] = {
    target: operator
    for operator, targets in {
        Operator.CONVOLVE: (
            aten.conv1d.default, aten.conv2d.default, aten.conv3d.default,
            aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding,
        ),
        Operator.LINEAR: (aten.linear.default,),
        Operator.MATMUL: (aten.matmul.default, aten.bmm.default),
        Operator.ADD: (aten.add.Tensor, aten.add_.Tensor),
        Operator.MULTIPLY: (aten.mul.Tensor, aten.mul_.Tensor),
        Operator.CAT: (aten.cat.default,),
        Operator.MEAN: (aten.mean.dim, aten.mean.default),
        Operator.POOL: (aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default),
        Operator.RELU: (aten.relu.default, aten.relu_.default),
        Operator.RELU6: (
            aten.relu6.default, aten.relu6_.default, aten.hardtanh.default, aten.hardtanh_.default,
        ),
        Operator.ACTIVATE: (
            aten.silu.default, aten.silu_.default, aten.gelu.default, aten.hardswish.default, aten.hardswish_.default,
            aten.sigmoid.default, aten.sigmoid_.default, aten.tanh.default, aten.tanh_.default,
        ),
        Operator.NORMALIZE: (aten.batch_norm.default, aten.layer_norm.default),
    }.items()
    for target in targets
}  # fmt: skip
"""Operator of a traced graph -> the operation it is."""


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced model: its graph, the call that each node is, and what its inputs are called in the model's state."""

    program: ExportedProgram
    calls: Mapping[Node, Call]
    names: Mapping[str, str]  # of a placeholder -> of a parameter or buffer

    @property
    def nodes(self) -> list[Node]:
        return list(self.program.graph.nodes)

    def parameter(self, node: Any) -> str | None:
        """The name of the parameter or buffer that a node stands for."""
        return self.names.get(node.name) if isinstance(node, Node) else None


def trace(model: nn.Module, example: Example, any_batch: bool = False) -> Traced:
    """Trace the model on the example, as it is in evaluation; ``TraceError`` where it cannot be traced.

    With ``any_batch`` the first dimension of tensors may have any size in the graph, where the model allows it.
    """
    args, kwargs, free = example.args, example.kwargs, None
    if any_batch:
        args, kwargs = pytree.tree_map_only(torch.Tensor, _several, (args, kwargs))
        free = pytree.tree_map(_free, (*args, *kwargs.values()))
    try:
        with quiet():  # of recurrent layers' second list of weights, and of what it could not trace: that is told below
            program = torch.export.export(model, args, kwargs, dynamic_shapes=free, strict=False)
    except Exception as error:
        raise TraceError(f"the model cannot be traced ({reason_of(error)}); compress its weights instead") from error
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    first = {id(module): name for name, module in model.named_modules()}
    paths = {name: first[id(module)] for name, module in model.named_modules(remove_duplicate=False)}
    counts: dict[tuple[str, Operator], int] = {}
    calls = {}
    for node in program.graph.nodes:
        operator = TARGETS.get(node.target) if node.op == "call_function" else None
        if operator is None or len(operands(node)) < (2 if operator in JOINS else 1):
            continue
        path = module_of(node)
        key = (paths.get(path, path), operator)
        calls[node] = Call(*key, counts.get(key, 0))
        counts[key] = counts.get(key, 0) + 1
    return Traced(program, calls, names)


def _several(x: torch.Tensor) -> torch.Tensor:
    """A batch of two instead of one: torch takes a size of one for a constant."""
    return torch.cat([x, x]) if x.ndim and x.shape[0] == 1 else x


def _free(x: Any) -> Any:
    return {0: torch.export.Dim.AUTO} if isinstance(x, torch.Tensor) and x.ndim else None


def operands(node: Node) -> dict[int, Node]:
    """Number -> operand of a call: tensors of real numbers, without weights."""
    operator = TARGETS[node.target]
    if operator is Operator.CAT:
        given: Any = node.args[0]
    else:
        given = node.args[:2] if operator in JOINS else node.args[:1]
    return {number: arg for number, arg in enumerate(given) if isinstance(arg, Node) and _real(arg)}


def _real(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 0


def module_of(node: Node) -> str:
    """The path of the innermost module that a node was called in; calls after the first are told by ``@``."""
    stack = node.meta.get("nn_module_stack") or {}
    path: str = next(reversed(stack.values()))[0] if stack else ""
    return path.split("@")[0]
