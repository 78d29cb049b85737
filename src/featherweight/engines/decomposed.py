"""Traced models whose integers are in PyTorch's standard operators, for engines that know no others.

``quantized_decomposed.quantize_per_tensor``, ``dequantize_per_tensor`` and ``dequantize_per_channel`` stand around what
is computed in floats, and the engine's compiler makes integer kernels where it finds a pattern that it has one for: the
operands, the weight and the result of an operator are levels, and no two operators share one dequantized tensor. What
no kernel takes is computed in floats.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from featherweight.activations.dynamic import dynamic_numbers
from featherweight.core.task import Example
from featherweight.engines.integers import numbers
from featherweight.engines.program import Limits, Program, constant_of, program
from featherweight.graph.sites import moves

aten, ours, standard = torch.ops.aten, torch.ops.featherweight, torch.ops.quantized_decomposed
LOWEST, HIGHEST = -128, 127
WEIGHTED = frozenset({aten.linear.default, aten.conv1d.default, aten.conv2d.default})
BOUNDS = frozenset({
    aten.relu.default, aten.relu_.default, aten.relu6.default, aten.relu6_.default, aten.hardtanh.default,
    aten.hardtanh_.default,
})  # fmt: skip
"""Kernels of engines end in one of these for nothing."""


@dataclass(frozen=True)
class Grid:
    """Levels ``q`` from -128 to 127 that stand for ``scale · (q − zero)``."""

    scale: float
    zero: int

    @property
    def args(self) -> tuple[Any, ...]:
        return self.scale, self.zero, LOWEST, HIGHEST, torch.int8

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest number that a level stands for."""
        return self.scale * (LOWEST - self.zero), self.scale * (HIGHEST - self.zero)


Layer = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``x``, a weight ``[out, in]`` that was dequantized, a bias -> what a linear layer makes of them."""


@dataclass(frozen=True)
class Kernels:
    """What an engine makes of levels.

    folded       it takes weights that are levels; else floats and the operator that makes levels of them
    most         the largest sizes that files are made for
    bare         operators that are given levels as they are, since no kernel knows the pattern around them
    unquantized  a linear layer that takes levels and whose result stays in floats; by default it is all floats
    ranging      that layer finds the range of what it is given as it runs: each row gets the ends of the levels' range
                 beside it, with weights of zero, so that what it finds is that range
    """

    folded: bool = True
    most: Limits = Limits()
    bare: frozenset[Any] = frozenset()
    unquantized: Layer | None = None
    ranging: bool = False


def decomposed(model: nn.Module, example: Example, kernels: Kernels) -> Program:
    """Trace ``model`` (:func:`featherweight.engines.program.program`) with its integers in standard operators.

    ``featherweight::quantized`` becomes a pair of operators on signed eight-bit levels: its zero point less 128.
    Results of operators that only move levels are levels too. ``featherweight::scaled`` becomes
    ``dequantize_per_channel`` where an integer kernel takes the weight, levels that are looked up before they become
    numbers in an embedding, what ``kernels`` say in a linear layer whose result stays in floats, and else decoded
    numbers.
    """
    import torch.ao.quantization.fx._decomposed  # noqa: F401  # defines the operators

    traced = program(model, example, most=kernels.most)
    if not any(node.target in OURS for node in traced.exported.graph.nodes):
        return traced
    module = traced.exported.module(check_guards=False)
    assert isinstance(module, GraphModule)
    return program(_Rewriting(module, kernels).whole(), example, most=kernels.most)


OURS = frozenset({ours.quantized.default, ours.scaled.default, ours.dynamically_quantized.default})


class _Rewriting:
    """Functions of Python stand in the graph where several operators are meant: it is traced again."""

    def __init__(self, module: GraphModule, kernels: Kernels) -> None:
        self.module, self.graph, self.kernels = module, module.graph, kernels
        self.grids: dict[Node, Grid] = {}
        """Of the results of dequantizing operators."""

    def whole(self) -> GraphModule:
        for node in list(self.graph.nodes):
            if node.target == ours.quantized.default:
                self.hoist(node)
        for node in list(self.graph.nodes):
            if node.target == ours.quantized.default:
                self.quantize(node)
            elif node.target == ours.dynamically_quantized.default:
                node.target = dynamic_numbers
            elif _whole_slice(node):
                (whole,) = node.all_input_nodes
                node.replace_all_uses_with(whole)
                self.graph.erase_node(node)
            else:
                self.move(node)
        for node in list(self.graph.nodes):
            if node.target == ours.scaled.default:
                self.weigh(node)
        self.graph.eliminate_dead_code()
        return GraphModule(self.module, self.graph)  # with the tensors that the graph uses, and no others

    def hoist(self, node: Node) -> None:
        """Quantize before entries are moved: the operator that makes them can then be one with the quantizer."""
        x: Any = node.args[0]
        moved, source = node, x
        while moves(source) and _only(source) is moved:
            moved, source = source, source.args[0]
        if moved is not node:
            node.replace_all_uses_with(x)
            moved.prepend(node)
            node.args = (source, *node.args[1:])
            moved.replace_input_with(source, node)

    def quantize(self, node: Node) -> None:
        x, scale, lowest, highest = node.args
        assert isinstance(x, Node) and isinstance(lowest, int) and isinstance(highest, int)
        step = float(self.constant(scale))
        grid = Grid(step, LOWEST - lowest)
        if self.grids.get(x) == grid:
            levels = x.args[0]
        else:
            with self.graph.inserting_before(node):
                if highest - lowest < HIGHEST - LOWEST:  # engines' integers saturate at eight bits
                    x = self.graph.call_function(aten.clamp.default, (x, lowest * step, highest * step))
                levels = self.graph.call_function(standard.quantize_per_tensor.default, (x, *grid.args))
        self.dequantize(node, levels, grid)
        self.graph.erase_node(node)

    def dequantize(self, node: Node, levels: Any, grid: Grid) -> None:
        """Users of ``node`` take these levels instead, each dequantized for itself."""
        for user in list(node.users):
            if user is not levels:
                with self.graph.inserting_before(user):
                    found = self.graph.call_function(standard.dequantize_per_tensor.default, (levels, *grid.args))
                user.replace_input_with(node, found)
                self.grids[found] = grid

    def move(self, node: Node) -> None:
        """What is made of levels alone, of one grid, is levels of that grid."""
        grids = {self.grids.get(operand) for operand in node.all_input_nodes}
        grid = grids.pop() if len(grids) == 1 else None
        if grid is None or not (moves(node) or node.target in LEVELLED):
            return
        if node.target in self.kernels.bare:
            (dequantized,) = node.all_input_nodes
            node.args = (dequantized.args[0], *node.args[1:])
            self.dequantize(node, node, grid)
            return
        with self.graph.inserting_after(node):
            levels = self.graph.call_function(standard.quantize_per_tensor.default, (node, *grid.args))
        self.dequantize(node, levels, grid)

    def weigh(self, node: Node) -> None:
        levels, scales, axis, group = node.args
        table = self.constant(levels), self.constant(scales)
        assert isinstance(axis, int) and isinstance(group, int)
        rowwise = axis == 0 and not group and bool((table[1] > 0).all())
        for user in list(node.users):
            with self.graph.inserting_before(user):
                if rowwise and user.target in WEIGHTED and user.args[1] is node and self.is_whole(user):
                    user.replace_input_with(node, self.per_channel(node))
                elif rowwise and user.target == aten.linear.default and self.kernels.unquantized and self.takes(user):
                    user.target, user.args = self.kernels.unquantized, self.unquantized(user, node)
                elif rowwise and user.target == aten.embedding.default:
                    user.target, user.args, user.kwargs = _looked_up, (levels, scales, user.args[1]), {}
                else:
                    user.replace_input_with(node, self.add(node, "numbers", numbers(*table, axis, group)))

    def unquantized(self, layer: Node, weight: Node) -> tuple[Any, ...]:
        """What a linear layer whose result stays in floats is given."""
        x, _, *bias = layer.args
        if not self.kernels.ranging:
            return x, self.per_channel(weight), *bias
        assert isinstance(x, Node)
        lowest, highest = self.grids[x].ends
        longer = self.add(weight, "longer", F.pad(self.constant(weight.args[0]), (0, 2)))
        return self.graph.call_function(_with_ends, (x, lowest, highest)), self.per_channel(weight, longer), *bias

    def per_channel(self, node: Node, levels: Node | None = None) -> Node:
        """A weight's levels, or others in their place, dequantized by the scale of each output channel."""
        scales = node.args[1]
        held: Any = levels or node.args[0]
        zeros = self.add(node, "zeros", torch.zeros(len(self.constant(scales)), dtype=torch.int64))
        settings = (scales, zeros, 0, -HIGHEST, HIGHEST, torch.int8)
        if not self.kernels.folded:
            weight = self.add(node, "numbers", numbers(self.constant(held), self.constant(scales), 0, 0))
            held = self.graph.call_function(standard.quantize_per_channel.default, (weight, *settings))
        return self.graph.call_function(standard.dequantize_per_channel.default, (held, *settings))

    def takes(self, node: Node) -> bool:
        """Whether a layer takes levels."""
        return node.args[0] in self.grids

    def is_whole(self, node: Node) -> bool:
        """Whether a layer takes levels, and gives nothing but levels, after bounds at most."""
        result = _only(node)
        if result is not None and result.target in BOUNDS:
            result = _only(result)
        return self.takes(node) and result is not None and result.target == standard.quantize_per_tensor.default

    def constant(self, node: Any) -> Tensor:
        return constant_of(self.module, node)

    def add(self, node: Node, kind: str, value: Tensor) -> Node:
        name = f"{node.name}_{kind}"
        self.module.register_buffer(name, value)
        return self.graph.get_attr(name)


LEVELLED = frozenset({aten.relu.default, aten.relu_.default, aten.cat.default})
"""Their results are levels, or zero, which is one."""


def _whole_slice(node: Node) -> bool:
    """Whether an operator takes all that there is: ``x[:]``."""
    if node.target != aten.slice.Tensor:
        return False
    given: list[Any] = [*node.args[2:]]
    start, end, step = given + [None, None, 1][len(given) :]
    return start in (None, 0) and end in (None, sys.maxsize) and bool(step == 1)


def _only(node: Node) -> Node | None:
    """Who takes a tensor, if it is one alone."""
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _with_ends(x: Tensor, lowest: float, highest: float) -> Tensor:
    """``[..., n]`` -> ``[..., n + 2]``."""
    ends = torch.tensor([lowest, highest], dtype=x.dtype, device=x.device)
    return torch.cat([x, ends.expand(*x.shape[:-1], 2)], dim=-1)


def _looked_up(levels: Tensor, scales: Tensor, rows: Tensor) -> Tensor:
    """Rows of an embedding, made numbers after they were taken."""
    taken: Tensor = aten.embedding.default(levels, rows).to(scales.dtype)
    steps: Tensor = aten.embedding.default(scales.unsqueeze(1), rows)
    return taken * steps
