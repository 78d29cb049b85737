"""Lowering a tapped student to integer operations: one rule for each operator of its traced graph."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

import featherweight.activations.quantizers  # noqa: F401 - defines featherweight::quantized
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, SelectionError
from featherweight.core.tap import Operator
from featherweight.core.task import Example, evaluating
from featherweight.graph.fixed_point import HIGHEST, LOWEST, Multiplier
from featherweight.graph.integer import (
    LEFT_SHIFT,
    Add,
    Clamp,
    IntegerProgram,
    Quantize,
    Requantize,
    Step,
    Sum,
    Units,
    WeightedSum,
)
from featherweight.graph.sites import PARTS, VIEWS, aliases, writes
from featherweight.graph.trace import TARGETS, Traced, module_of, trace
from featherweight.schemes.integers import integers

aten = torch.ops.aten
QUANTIZED = torch.ops.featherweight.quantized.default
"""What a :class:`~featherweight.activations.quantizers.Quantizer` is in a traced graph."""
PADS = frozenset({aten.pad.default, aten.constant_pad_nd.default})
UNMOVED = frozenset({
    aten.contiguous.default, aten.clone.default, aten.detach.default, aten.alias.default, aten.dropout.default,
    aten.dropout_.default, aten.max_pool2d.default,
})  # fmt: skip
"""Views that leave channels where they are, so that a scale for each stays right."""
Lowered = tuple[Callable[..., Any], tuple[Any, ...], Units | None]
"""What is computed, from what, and what the result means."""


def integer_program(student: Compressed, example: Example) -> IntegerProgram:
    """The student as operations on integers of 8 and 32 bits alone, for batches of any size that the model allows.

    Activations are unsigned integers with a zero point, weights signed ones without, biases integers of 32 bits in
    units of ``s_x s_w`` (Jacob et al. 2017, arXiv 1712.05877, section 2.4); sums are brought to 8 bits by fixed-point
    multipliers. Operands of additions are brought to one scale as TensorFlow Lite does it. ReLU and ReLU6 clamp.

    Every operand of a layer, a join or an average must be quantized by a ``Quantizer`` (``Calibrated`` does it),
    weights must have symmetric integer codes, and batch norms must be folded (``FoldNorms``). Whatever input it gets,
    no sum leaves 32 bits: that is proved here, from the weights. Raises ``SelectionError`` with the operator and its
    module where an operation has no integer form, an operand is not quantized, or a sum could overflow.
    """
    if student.learning:
        raise SelectionError("the student is still learning; settle it before it is run on integers")
    with evaluating(student.base):
        return _Lowering(student, trace(student.base, example, any_batch=True)).program()


class _Lowering:
    """Goes through a graph in order, and keeps what the integers of each node mean."""

    def __init__(self, student: Compressed, traced: Traced) -> None:
        self.student, self.traced = student, traced
        self.signature = traced.program.graph_signature
        self.units: dict[Node, Units | None] = {}
        self.alias = {name: first for first, names in student.names.items() for name in names}

    def program(self) -> IntegerProgram:
        for node in self.traced.nodes:
            if node.name in self.signature.user_inputs:
                self.units[node] = None
        called = [node for node in self.traced.nodes if node.op == "call_function" and self.constant(node) is None]
        steps = [self._step(node) for node in called]
        inputs = {node.name: self._given(node) for node in self.traced.nodes if node.name in self.signature.user_inputs}
        (given,) = (node.args[0] for node in self.traced.nodes if node.op == "output")
        match given:
            case (Node() as output,) if self.units.get(output) is not None:
                return IntegerProgram(inputs, tuple(steps), output.name, output.meta["val"].dtype)
        raise SelectionError("a model that runs on integers has one output, which is computed from quantized inputs")

    def _step(self, node: Node) -> Step:
        module = module_of(node)
        if not isinstance(node.meta.get("val"), Tensor):  # a size, on which the shapes of views depend
            return Step(node.name, module, node.target, node.args, node.kwargs, None)  # type: ignore[arg-type]
        rule = _rule(node)
        if rule is None:
            raise refusal(node, "no rule lowers it; replace it in the model by operations that have one")
        if writes(node) and any(user > node for each in aliases(node.args[0]) for user in each.users):
            raise refusal(node, "it changes in place a tensor that is used again; call it out of place")
        if node.kwargs and rule not in (_Lowering.add, _Lowering.move):
            raise refusal(node, f"{', '.join(node.kwargs)} is a setting that no rule knows")
        try:
            compute, args, units = rule(self, node, node.args)
        except SchemeError as error:
            raise refusal(node, str(error)) from error
        self.units[node] = units
        return Step(node.name, module, compute, args, {}, units)

    def _given(self, node: Node) -> Units | None:
        """What integers mean that are given for an input: its quantizer's, where that is all that reads it."""
        users = [user for user in node.users if isinstance(user.meta.get("val"), Tensor)]
        if not users or any(user.target is not QUANTIZED for user in users):
            return None
        kinds = [self.operand(user, user) for user in users]
        return kinds[0] if len({(float(units.scale), units.zero, units.highest) for units in kinds}) == 1 else None

    def constant(self, node: Any) -> Tensor | None:
        """The tensor that a node always is: a parameter, a buffer, or a number that tracing lifted."""
        while isinstance(node, Node) and node.op == "call_function" and node.target is aten.detach.default:
            node = node.args[0]
        name = self.traced.parameter(node)
        if name is None and isinstance(node, Node):
            name = self.signature.inputs_to_lifted_tensor_constants.get(node.name)
        program = self.traced.program
        found = None if name is None else program.state_dict.get(name, program.constants.get(name))
        return found.detach() if isinstance(found, Tensor) else None

    def known(self, node: Node, x: Any) -> Units | None:
        """What the integers of an operand mean; ``None`` for an input that is not quantized yet."""
        if x not in self.units:
            raise refusal(node, f"its operand {x} is a constant")
        return self.units[x]

    def operand(self, node: Node, x: Any) -> Units:
        """What the integers of an operand mean, of 8 or 32 bits."""
        units = self.known(node, x)
        if units is None:
            raise refusal(node, f"its operand {x} is an input that is not quantized; quantize it (Calibrated)")
        return units

    def stored(self, node: Node, x: Any) -> Units:
        """The same of an operand that must be quantized."""
        units = self.operand(node, x)
        if not units.stored:
            raise refusal(node, f"its operand {x} is not quantized, but a sum in 32 bits; quantize it (Calibrated)")
        return units

    def quantize(self, node: Node, args: Any) -> Lowered:
        x, given, low, high = args
        scale = self.constant(given)
        if scale is None or scale.numel() != 1:
            raise refusal(node, "its scale is not one number that stays the same")
        after = Units(scale.double().reshape(()), -low, max(-low, high), high - low)
        before = self.known(node, x)
        if before is None:
            return Quantize(scale, -low, high - low), (x,), after
        left = LEFT_SHIFT if before.stored else 0
        multiplier = Multiplier.nearest(before.scale / after.scale / 2**left)
        return Requantize(multiplier, left, before.zero, -low, high - low), (x,), after

    def weigh(self, node: Node, args: Any) -> Lowered:
        x, weight_node, bias_node, *settings = (*args, None)[: max(3, len(args))]
        units = self.stored(node, x)
        levels, scales = self._weight(node, weight_node)
        channels = [-1] + [1] * (levels.ndim - 2)
        bias = torch.zeros(len(levels)) if bias_node is None else self.constant(bias_node)
        if bias is None:
            raise refusal(node, "its bias is no parameter")
        size = levels.flatten(1).long().abs().sum(1)
        # Where all weights are zero any unit would do: one is chosen that is fine enough for the bias.
        free = bias.double().abs().clamp(min=2.0**-100) / 2**20 / units.scale
        scale = units.scale * torch.where(size > 0, scales.double(), free)
        amounts = (bias.double() / scale).round()
        reach = float((size * units.reach + amounts.abs()).max())
        if not reach <= HIGHEST:
            raise refusal(
                node, f"a sum of {levels[0].numel()} products and a bias can reach {reach:.0f}, outside 32 bits; "
                "use fewer bits, or a larger scale where a channel's weights are all but zero"
            )  # fmt: skip
        target: Any = node.target
        compute = WeightedSum(target, levels, amounts.to(torch.int32).reshape(channels), units.zero, tuple(settings))
        return compute, (x,), Units(scale.reshape(channels), 0, int(reach))

    def _weight(self, node: Node, weight: Any) -> tuple[Tensor, Tensor]:
        """The levels of a layer's weight, and a scale for each output channel."""
        name = self.traced.parameter(weight)
        if name is None:
            raise refusal(node, "its weight is computed, and no parameter")
        code = self.student.codes.get(self.alias.get(name, name))
        found = None if code is None else integers(code)
        if found is None or found[2:] != (0, 0) or not bool((found[1] > 0).all()):
            raise refusal(
                node, f"{name} has no symmetric integer code with one scale, or one an output channel; "
                "use Uniform(8, granularity=PerChannel())"
            )  # fmt: skip
        return found[0], found[1]

    def add(self, node: Node, args: Any) -> Lowered:
        if node.kwargs.get("alpha", 1) != 1:
            raise refusal(node, "an operand is multiplied by alpha")
        first, second = (self.stored(node, x) for x in args[:2])
        twice = 2 * torch.maximum(first.scale, second.scale)
        multipliers = Multiplier.nearest(first.scale / twice), Multiplier.nearest(second.scale / twice)
        reach = (first.reach + second.reach) << (LEFT_SHIFT - 1)  # no multiplier is above one half
        return Add(multipliers, (first.zero, second.zero)), args[:2], Units(twice / 2**LEFT_SHIFT, 0, reach)

    def concatenate(self, node: Node, args: Any) -> Lowered:
        target: Any = node.target
        given = [self.stored(node, x) for x in args[0]]
        if len({(float(units.scale), units.zero, units.highest) for units in given}) > 1:
            raise refusal(node, "its operands have different ranges; send them through one quantizer (Calibrated)")
        return target, args, replace(given[0], reach=max(units.reach for units in given))

    def mean(self, node: Node, args: Any) -> Lowered:
        x, dims, keep = (*args, None, False)[:3]
        shape = x.meta["val"].shape
        axes = sorted(axis % len(shape) for axis in dims or ())
        if not axes or 0 in axes:
            raise refusal(node, "it averages over the batch")
        over = partial(torch.sum, dim=axes, keepdim=bool(keep))
        return self._average(node, x, over, math.prod(int(shape[axis]) for axis in axes))

    def pool(self, node: Node, args: Any) -> Lowered:
        x, size, *rest = args
        height, width = (int(n) for n in x.meta["val"].shape[-2:])
        sides = list(size) if isinstance(size, list | tuple) else [size]
        if node.target is aten.adaptive_avg_pool2d.default:
            if height % sides[0] or width % sides[-1]:
                raise refusal(node, f"{sides} does not divide {[height, width]}")
            window = [height // sides[0], width // sides[-1]]
            return self._average(
                node, x, partial(F.avg_pool2d, kernel_size=window, divisor_override=1), math.prod(window)
            )
        defaults: list[Any] = [sides, 0, False, True, None]
        stride, padding, ceil, counted, divisor = rest + defaults[len(rest) :]
        padded = any(padding) if isinstance(padding, list | tuple) else bool(padding)
        if ceil or divisor is not None or (padded and not counted):
            raise refusal(node, "its windows have different sizes, or a divisor of their own")
        over = partial(F.avg_pool2d, kernel_size=sides, stride=stride, padding=padding, divisor_override=1)
        return self._average(node, x, over, sides[0] * sides[-1])

    def _average(self, node: Node, x: Any, over: Callable[[Tensor], Tensor], count: int) -> Lowered:
        units = self.stored(node, x)
        reach = units.reach * count
        if reach > HIGHEST:
            raise refusal(node, f"a sum of {count} numbers can reach {reach}, outside 32 bits")
        left = 31 - reach.bit_length()
        return Sum(over, left, units.zero), (x,), Units(units.scale / count / 2**left, 0, reach << left)

    def rectify(self, node: Node, args: Any) -> Lowered:
        """Bounds are rounded to the operand's grid, which is fine where it is one of 32 bits."""
        units = self.operand(node, args[0])
        ends: tuple[float, float] = (0.0, 6.0) if TARGETS[node.target] is Operator.RELU6 else (0.0, math.inf)
        if "hardtanh" in str(node.target):
            ends = (*args[1:], -1.0, 1.0)[:2] if len(args) != 2 else (args[1], 1.0)
        kind, held = (torch.uint8, (0, units.highest)) if units.stored else (torch.int32, (LOWEST, HIGHEST))
        bounds = ((end / units.scale).round() + units.zero for end in ends)
        return Clamp(*(bound.clamp(*held).to(kind) for bound in bounds)), (args[0],), units

    def move(self, node: Node, args: Any) -> Lowered:
        """Entries stay what they are; only where they are changes."""
        units, target = self.known(node, args[0]), node.target
        if units is not None and units.scale.numel() > 1 and node.target not in UNMOVED:
            raise refusal(node, "its operand has a scale for each channel; quantize it before (Calibrated)")
        assert callable(target)
        return partial(target, **node.kwargs), args, units

    def write(self, node: Node, args: Any) -> Lowered:
        """A tensor that another of its shape was copied into is that one: so are results in place that are tapped."""
        target, source = args[:2]
        if target.meta["val"].shape != source.meta["val"].shape:
            raise refusal(node, "it repeats entries")
        return aten.clone.default, (source,), self.known(node, source)

    def pad(self, node: Node, args: Any) -> Lowered:
        units = self.stored(node, args[0])
        x, sides, *rest = args
        mode = rest.pop(0) if node.target is aten.pad.default and rest else "constant"
        if mode != "constant" or any(rest):
            raise refusal(node, "it does not pad with zeros")
        return partial(aten.constant_pad_nd.default, value=units.zero), (x, sides), units


def refusal(node: Node, reason: str) -> SelectionError:
    return SelectionError(f"{node.target} in {module_of(node) or 'the model'} cannot run on integers: {reason}")


Rule = Callable[[_Lowering, Node, Any], Lowered]
"""Takes a node and its arguments."""
RULES: Mapping[Operator, Rule] = {
    Operator.CONVOLVE: _Lowering.weigh,
    Operator.LINEAR: _Lowering.weigh,
    Operator.ADD: _Lowering.add,
    Operator.CAT: _Lowering.concatenate,
    Operator.MEAN: _Lowering.mean,
    Operator.POOL: _Lowering.pool,
    Operator.RELU: _Lowering.rectify,
    Operator.RELU6: _Lowering.rectify,
}


def _rule(node: Node) -> Rule | None:
    if node.target is QUANTIZED:
        return _Lowering.quantize
    if node.target in PADS:
        return _Lowering.pad
    if node.target is aten.copy_.default:
        return _Lowering.write
    if node.target in VIEWS | PARTS:
        return _Lowering.move
    operator = TARGETS.get(node.target)
    return None if operator is None else RULES.get(operator)
