"""TensorRT's rules for ONNX files with quantized weights and activations.

NVIDIA TensorRT 11.4 documentation, "Explicit Quantization" and the operators Quantize and Dequantize; the assertions
of its ONNX importer (``QuantDequantLinearHelper``) and its list of ONNX operators. All of them were read, none was run.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from featherweight.engines.integers import Graph

if TYPE_CHECKING:
    import onnx

Node = Any
UNREAD = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})
"""Operators of ONNX's other forms of quantization, which the importer does not take."""
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def violations(model: "onnx.ModelProto") -> list[str]:
    """What of a file TensorRT refuses or does not run as integers, each with the node's name; empty where all is well.

    - zero points are zero, of INT8 (or INT4, for weights): quantization is symmetric, and UINT8 is not read
    - scales are constants over zero: one number for an activation; for a weight one, or one for each output channel,
      or one for each block along one of the last two dimensions, which is what INT4 has
    - nothing of INT32 is dequantized: biases are floats
    - weights of INT8 meet a quantized input: only those of INT4 may meet floats
    - quantization is told by QuantizeLinear and DequantizeLinear alone
    """
    graph = Graph(model)
    return [
        f"{node.op_type} {node.name or node.output[0]!r}: {what}"
        for node in graph.graph.node
        for rule in RULES.get(node.op_type, ())
        for what in rule(graph, node)
    ] + [f"{each.op_type} {each.name!r}: is not read" for each in graph.graph.node if each.op_type in UNREAD]


def _zero(graph: Graph, node: Node) -> Iterator[str]:
    name = node.input[2] if len(node.input) > 2 else ""
    if not name:
        if node.op_type == "QuantizeLinear" and not _attribute(node, "output_dtype", 0):
            yield "no zero point means UINT8; give one of INT8"
        return
    values = graph.constant(name)
    if values is None:
        yield "the zero point is no constant"
    elif np.any(values.astype(np.float32)):
        yield "the zero point is not zero"
    elif values.dtype == np.uint8:
        yield "UINT8 is not read; give INT8"


def _scale(graph: Graph, node: Node) -> Iterator[str]:
    values = graph.constant(node.input[1])
    if values is None:
        yield "the scale is no constant"
    elif not np.all(values > 0):
        yield "a scale is not over zero"
    elif values.size > 1 and not _of_constant(graph, node):
        yield "an activation has more than one scale"


def _type(graph: Graph, node: Node) -> Iterator[str]:
    levels = graph.constant(node.input[0])
    if levels is None:
        return
    if levels.dtype == np.int32:
        yield "INT32 is not dequantized; biases are floats"
    block = _attribute(node, "block_size", 0)
    if block and _attribute(node, "axis", 1) % levels.ndim < levels.ndim - 2:
        yield "blocks lie along another than the last two dimensions"


def _weights(graph: Graph, node: Node) -> Iterator[str]:
    made = graph.dequantizer(node.input[1])
    levels = None if made is None else graph.constant(made.input[0])
    if made is None or levels is None:
        return
    scales = graph.constant(made.input[1])
    axis = _attribute(made, "axis", 1) % levels.ndim
    if scales is not None and scales.ndim == 1 and scales.size > 1 and axis != _outputs(node, levels.ndim):
        yield f"scales lie along dimension {axis} of the weight, not along its output channels"
    if levels.dtype == np.int8 and graph.quantizer(node.input[0]) is None:
        yield "weights of INT8 meet floats; quantize the input, or give the weights as floats"


def _outputs(node: Node, dimensions: int) -> int:
    """The dimension of a weight's output channels."""
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": dimensions - 1}[node.op_type]


def _of_constant(graph: Graph, node: Node) -> bool:
    return graph.constant(node.input[0]) is not None


def _attribute(node: Node, name: str, default: int) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), default)


Rule = Callable[[Graph, Node], Iterator[str]]
RULES: Mapping[str, tuple[Rule, ...]] = {
    "QuantizeLinear": (_zero, _scale),
    "DequantizeLinear": (_zero, _scale, _type),
    **dict.fromkeys(WEIGHTED, (_weights,)),
}
