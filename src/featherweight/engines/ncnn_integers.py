"""Integer layers of ncnn: weights of a byte, and inputs that the layer itself rounds.

ncnn's int8 layers compute ``Σ q_w q_x`` in int32 and return ``s_w s_x Σ + b`` as floats, with ``q_x = clamp(round(x /
s_x), −127, 127)``, one ``s_x`` a layer and one ``s_w`` an output channel (its sources: ``layer/convolution.cpp``,
``layer/innerproduct.cpp``, ``layer/x86/quantize_x86.cpp``; ``modelbin.cpp`` for the file). Before the converter sees a
model, :func:`floats` takes our operators out of it; afterwards :func:`with_integers` lays the integers in.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx

from featherweight.core.errors import EngineError
from featherweight.engines.integers import numbers
from featherweight.engines.pnnx import Network
from featherweight.engines.program import constant_of
from featherweight.engines.pytorch import DECOMPOSITIONS

LARGEST = 127
"""Of ncnn's levels, which lie symmetrically about zero."""
INT8 = 0x000D4B38
"""The mark before weights of a byte in a ``.bin``; zero stands before float32."""
CONVOLVE, MULTIPLY = torch.ops.aten.conv2d.default, torch.ops.aten.linear.default
SCALED, QUANTIZED = torch.ops.featherweight.scaled.default, torch.ops.featherweight.quantized.default
MOVING = (
    torch.ops.aten.max_pool2d.default,
    torch.ops.aten.flatten.using_ints,
    torch.ops.aten.view.default,
    torch.ops.aten.reshape.default,
    torch.ops.aten.dropout.default,
)
"""Operators whose outputs are some of their inputs."""
POSITIVE = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default, torch.ops.aten.relu6.default)
LAYERS = {"Convolution": (0, 5, 6, 2), "ConvolutionDepthWise": (0, 5, 6, 1), "InnerProduct": (0, 1, 2, 2)}
"""Type -> keys of a layer's outputs, whether it has a bias, and its weights; and the value of key 8 for integers."""


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """``levels`` int8 and ``scales`` of the weight's output channels, and the ``step`` of the input's levels."""

    levels: "np.ndarray[Any, Any]"
    scales: "np.ndarray[Any, Any]"
    step: float

    @property
    def numbers(self) -> bytes:
        """The weights as the converter writes them, and by which the layer is found again."""
        return numbers(torch.from_numpy(self.levels), torch.from_numpy(self.scales), 0, 0).numpy().tobytes()


def floats(model: fx.GraphModule) -> list[IntegerLayer]:
    """Replace our operators by those of PyTorch, in place, and give the layers that ncnn can compute as integers.

    In front of such a layer a quantizer becomes the bounds of its range, where the layer would not saturate there
    itself. So it does at joins, where eight bits are not rounded to: ncnn adds floats. Elsewhere it is computed as
    what it stands for.
    """
    layers = [_Layer(node, *found) for node in model.graph.nodes if (found := _integers(model, node)) is not None]
    integer = {layer.node for layer in layers}
    made = [IntegerLayer(each.levels.numpy(), each.scales.numpy(), each.range.step) for each in layers]
    for node in list(model.graph.nodes):
        if node.target is QUANTIZED:
            _replace_quantizer(model, node, integer)
    for node in list(model.graph.nodes):
        if node.target is SCALED:
            _decode(model, node)
        elif node.target in DECOMPOSITIONS:
            node.target = DECOMPOSITIONS[node.target]  # to be traced
    model.graph.eliminate_dead_code()
    model.recompile()
    return made


@dataclass(frozen=True)
class _Range:
    """A quantizer's levels ``lowest … highest`` of ``scale``."""

    scale: float
    lowest: int
    highest: int

    @property
    def step(self) -> float:
        """Of ncnn's levels over the same range but for its lowest level: the same where 127 are enough."""
        return self.scale * max(1.0, max(-self.lowest - 1, self.highest) / LARGEST)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.lowest * self.scale, self.highest * self.scale

    def saturates(self, positive: bool) -> bool:
        """Whether 127 of ncnn's levels end where these do; below, they need not for what is never negative."""
        most = LARGEST * self.step
        low, high = self.bounds
        return math.isclose(high, most, rel_tol=1e-6) and (positive or low <= -most * (1 - 1e-6))


@dataclass(frozen=True, eq=False)
class _Layer:
    node: fx.Node
    levels: Tensor
    scales: Tensor
    range: _Range


def _integers(model: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor, _Range] | None:
    """Levels, scales and input range of a layer that both are integers of, with a scale for each output channel."""
    if node.target not in (CONVOLVE, MULTIPLY):
        return None
    source, weight = _source(node.args[0]), node.args[1]
    if source.target is not QUANTIZED or not isinstance(weight, fx.Node) or weight.target is not SCALED:
        return None
    levels, scales = constant_of(model, weight.args[0]), constant_of(model, weight.args[1])
    groups = node.args[6] if node.target is CONVOLVE and len(node.args) > 6 else 1
    if weight.args[2:] != (0, 0) or groups not in (1, len(scales)) or levels.abs().max() > LARGEST:
        return None
    return levels, scales, _range(model, source)


def _source(node: Any) -> fx.Node:
    """Where a tensor's numbers come from, through operators that only move them."""
    while node.target in MOVING:
        node = node.args[0]
    assert isinstance(node, fx.Node)
    return node


def _range(model: fx.GraphModule, node: fx.Node) -> _Range:
    scale, lowest, highest = cast(tuple[fx.Node, int, int], node.args[1:])
    return _Range(constant_of(model, scale).item(), lowest, highest)


def _replace_quantizer(model: fx.GraphModule, node: fx.Node, integer: set[fx.Node]) -> None:
    """Give each user of a quantizer what :func:`floats` says that it gets."""
    x, found = node.args[0], _range(model, node)
    assert isinstance(x, fx.Node)
    saturates = found.saturates(_source(x).target in POSITIVE)
    with model.graph.inserting_after(node):
        bounded = model.graph.call_function(torch.clamp, (x, *found.bounds))
        bounded.meta = node.meta
    for user in list(node.users):
        ends = _ends(user)
        if ends <= integer:
            user.replace_input_with(node, x if saturates else bounded)
        elif found.highest - found.lowest >= 255 and not any(end.target in (CONVOLVE, MULTIPLY) for end in ends):
            user.replace_input_with(node, bounded)


def _ends(user: fx.Node) -> set[fx.Node]:
    """A user, or the users of what it only moves."""
    if user.target not in MOVING:
        return {user}
    return {end for each in user.users for end in _ends(each)}


def _decode(model: fx.GraphModule, node: fx.Node) -> None:
    """Put a weight's numbers in the place of its integers."""
    levels, scales = (constant_of(model, each) for each in node.args[:2])
    model.register_buffer(f"{node.name}_numbers", numbers(levels, scales, *node.args[2:]))  # type: ignore[arg-type]
    with model.graph.inserting_before(node):
        node.replace_all_uses_with(model.graph.get_attr(f"{node.name}_numbers"))


def with_integers(made: Network, layers: Sequence[IntegerLayer]) -> Network:
    """Lay the integers of ``layers`` in the places of their weights.

    A ``.bin`` says of no weight whose it is, so it is read along the layers of the ``.param``. Where that does not end
    at its end, the network has weights in layers of other types; then an ``EngineError`` is raised.
    """
    waiting: dict[bytes, list[IntegerLayer]] = {}
    for layer in layers:
        waiting.setdefault(layer.numbers, []).append(layer)
    lines, parts, place = [], [], 0
    for line in made.param.splitlines():
        kind, *fields = line.split()
        lines.append(line)
        if kind not in LAYERS:
            continue
        outputs, bias, size, term = _sizes(kind, fields)
        weights, place = made.weights[place + 4 : place + 4 + 4 * size], place + 4 + 4 * size
        biases, place = made.weights[place : place + 4 * bias * outputs], place + 4 * bias * outputs
        found = waiting.get(weights, [])
        if found:
            lines[-1] = f"{line} 8={term}"
            parts.append(_laid(found.pop(0), biases))
        else:
            parts.append(bytes(4) + weights + biases)
    if place != len(made.weights) or any(waiting.values()):
        raise EngineError(
            "ncnn's converter put the integer weights where they are not found again; export to .onnx, or compress "
            "weights alone and export those"
        )
    return Network("\n".join(lines) + "\n", b"".join(parts))


def _sizes(kind: str, fields: Sequence[str]) -> tuple[int, int, int, int]:
    """Of a layer: outputs, whether it has a bias, weights, and the value that says integers."""
    keys = dict(field.split("=", 1) for field in fields if "=" in field)
    *wanted, term = LAYERS[kind]
    outputs, bias, size = (int(keys.get(str(key), 0)) for key in wanted)
    return outputs, bias, size, term


def _laid(layer: IntegerLayer, biases: bytes) -> bytes:
    """A layer's part of the ``.bin``: multiplied by its scales numbers become levels, so they are the inverse."""
    levels = layer.levels.tobytes()
    padding = bytes(-len(levels) % 4)
    scales = np.divide(1, layer.scales, out=np.zeros_like(layer.scales), where=layer.scales != 0)
    mark, step = struct.pack("<I", INT8), struct.pack("<f", 1 / layer.step)
    return b"".join((mark, levels, padding, biases, scales.tobytes(), step))
