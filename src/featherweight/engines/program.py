"""Models as exported programs (``torch.export``), of any batch size where they allow it."""

from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.utils._pytree import tree_map

from featherweight.core.errors import EngineError, reason_of
from featherweight.core.quiet import quiet
from featherweight.core.task import Example, evaluating


@dataclass(frozen=True, eq=False)
class Program:
    """A traced model; ``any_batch`` where the first dimension of its inputs may be of any size."""

    exported: ExportedProgram
    any_batch: bool


@dataclass(frozen=True)
class Limits:
    """The largest batch, and the largest length of integer inputs, that a program is for; ``None`` is no limit."""

    batch: int | None = None
    length: int | None = None


def program(
    model: nn.Module,
    example: Example,
    *,
    any_batch: bool = True,
    most: Limits = Limits(),  # frozen
) -> Program:
    """Trace the model as it is in evaluation: for ``any_batch`` if it can be, else for the example's.

    With a free batch, the lengths of integer inputs, such as tokens of a text, are free too where the model allows it.
    Free sizes are ``most`` at most, or lengths as the example's where that is longer. Tracing takes a size of one to be
    meant, so a batch of one is doubled for it.
    """
    with quiet(), evaluating(model), torch.no_grad():
        if any_batch:
            # Whatever tracing stumbles over, it may not without a free dimension.
            with suppress(Exception):
                return Program(_traced(model, _doubled(example), most), True)
        try:
            return Program(_traced(model, example), False)
        except Exception as error:
            reason = reason_of(error)
            raise EngineError(f"the model cannot be traced for export ({reason}); {ADVICE}") from error


ADVICE = "make its forward free of branches on values, or run it in PyTorch with weights compressed alone"


def constant_of(module: GraphModule, node: Any) -> Tensor:
    """The tensor that a node of a program's module holds, perhaps through operators that only hand it on."""
    while node.op == "call_function":
        node = node.args[0]
    found: Tensor = attrgetter(node.target)(module)
    return found.detach()


def _traced(model: nn.Module, example: Example, most: Limits | None = None) -> ExportedProgram:
    """Trace a copy of the example, since tensors are marked as of free size; without ``most`` all sizes are fixed."""

    def copied(value: Any) -> Any:
        return value.detach().clone() if isinstance(value, Tensor) else value

    def dimensions(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.ndim or most is None:
            return None
        lengths = () if value.is_floating_point() else tuple(enumerate(value.shape))[1:]
        free = {k: Dim.AUTO(max=None if most.length is None else max(most.length, size)) for k, size in lengths}
        return {0: Dim.DYNAMIC(max=most.batch), **free}

    args, kwargs = tree_map(copied, example.args), tree_map(copied, example.kwargs)
    shapes = None if most is None else (*tree_map(dimensions, args), *tree_map(dimensions, kwargs).values())
    return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)


def _doubled(example: Example) -> Example:
    """The example with a batch of two where it has one of one."""

    def double(value: Any) -> Any:
        return torch.cat([value, value]) if isinstance(value, Tensor) and value.ndim and len(value) == 1 else value

    return Example(tree_map(double, example.args), tree_map(double, example.kwargs))
