"""ONNX files for NVIDIA TensorRT. None was run by it here: it needs an NVIDIA GPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import nn

from featherweight.core.errors import EngineError
from featherweight.core.task import Example
from featherweight.engines.engine import Capabilities, Engine, Exported, Precision, Runner, Settings
from featherweight.engines.integers import Graph
from featherweight.engines.onnx import export_onnx
from featherweight.engines.packages import needed
from featherweight.engines.tensorrt_rules import WEIGHTED, violations

if TYPE_CHECKING:
    import onnx

HIGHEST, LOWEST = 127, -128
"""TensorRT's levels."""


@dataclass(frozen=True)
class TensorRt(Engine):
    """Writes ONNX files by TensorRT's rules (:mod:`featherweight.engines.tensorrt_rules`), and runs none.

    Activations are INT8 about zero there. Levels within −128 to 127 are written exactly: symmetric ones, and all of
    seven bits or fewer. Levels from 0 to 255, what eight bits give a rectifier's outputs, become 0 to 127 of about
    twice the step, and others as many as fit, so a bit of eight is lost: a student calibrated with seven has lost it
    before it was measured. Biases stay floats; weights of INT8 whose input is not quantized are decoded; ranges found
    at run time are refused.
    """

    name: ClassVar[str] = "tensorrt"
    suffix: ClassVar[str] = ".onnx"
    extra: ClassVar[str | None] = "onnx"
    capabilities: ClassVar[Capabilities] = Capabilities(
        integers=True, dynamic=False, nibbles=True, precisions=frozenset({Precision.FLOAT32}), recurrent=False
    )

    def export(self, model: nn.Module, example: Example, path: Path) -> Exported:
        return export_onnx(model, example, path, explicit)

    def open(self, path: Path, settings: Settings) -> Runner:
        raise EngineError(
            f"{self.name} is not run here: it needs an NVIDIA GPU. Build the file there with `{command(path)}`; "
            "what it computes, ONNX's reference evaluator shows, and ONNX Runtime with session.qdqisint8allowed of 1"
        )

    def version(self) -> str:
        return str(needed("onnx", "onnx").__version__)


def command(path: Path) -> str:
    """What builds an engine of a file: TensorRT 10 needs the last option, 11 takes it."""
    return f"trtexec --onnx={path} --saveEngine={path.with_suffix('.plan')} --stronglyTyped"


def explicit(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Make of the translations of our operators what TensorRT reads, in place; ``EngineError`` where that cannot be."""
    graph = Graph(model)
    dynamic = next((node for node in graph.graph.node if node.op_type == "DynamicQuantizeLinear"), None)
    if dynamic is not None:
        raise EngineError(
            f"TensorRT finds no ranges at run time ({dynamic.input[0]}); calibrate them, with int8 in place of dynamic"
        )
    for node in list(graph.graph.node):
        if node.op_type == "Gemm":
            graph.split_grouped(node)
    for node in list(graph.graph.node):
        if node.op_type == "Transpose":
            graph.transpose(node)
    for node in list(graph.graph.node):
        if node.op_type == "QuantizeLinear":
            _center(graph, node)
    for node in list(graph.graph.node):
        if node.op_type == "Conv":
            graph.pad_within(node)
        if node.op_type == "MatMul":
            graph.halve(node)
    for node in list(graph.graph.node):
        if node.op_type == "DequantizeLinear":
            _decode(graph, node)
    graph.drop_unused()
    found = violations(model)
    if found:
        raise EngineError(f"TensorRT would not take the model ({'; '.join(found[:3])}); export it for another engine")
    return model


def _center(graph: Graph, node: Any) -> None:
    """Levels about zero for an activation: the same step where they fit, else the least that covers its range."""
    zero, scale = graph.constant(node.input[2]), graph.constant(node.input[1])
    if zero is None or scale is None:
        return
    low, high = -int(zero), 255 - int(zero)
    clip = graph.makers.get(node.input[0])
    bounds = _bounds(graph, clip, float(scale))
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    wide = max(1.0, high / HIGHEST, low / LOWEST)
    step = np.float32(scale * np.float32(wide))
    name = f"{node.output[0]}.step"
    graph.add(name, np.array(step, np.float32))
    graph.add("int8.zero", np.array(0, np.int8))
    for each in (node, *(user for user in graph.graph.node if user.input[:1] == [node.output[0]])):
        if each is node or each.op_type == "DequantizeLinear":
            each.input[1:] = [name, "int8.zero"]
    edges = (low * float(scale), high * float(scale))
    _clip(graph, node, clip if bounds is not None else None, edges, float(step))


def _bounds(graph: Graph, clip: Any, scale: float) -> tuple[int, int] | None:
    """The levels that a Clip in front leaves: our translation has one where they are fewer than 256."""
    if clip is None or clip.op_type != "Clip" or len(clip.input) < 3:
        return None
    low, high = graph.constant(clip.input[1]), graph.constant(clip.input[2])
    return None if low is None or high is None else (round(float(low) / scale), round(float(high) / scale))


def _clip(graph: Graph, node: Any, clip: Any, edges: tuple[float, float], step: float) -> None:
    """Bound the input where INT8 does not end where the range does; below zero not behind Relu."""
    import onnx

    source = node.input[0] if clip is None else clip.input[0]
    low, high = edges
    maker = graph.makers.get(source)
    positive = maker is not None and maker.op_type == "Relu"
    if high >= (HIGHEST - 0.5) * step and (positive or low <= (LOWEST + 0.5) * step):
        node.input[0] = source
        return
    ends = zip(("low", "high"), edges, strict=True)
    names = [graph.add(f"{node.output[0]}.{end}", np.array(each, np.float32)) for end, each in ends]
    made = onnx.helper.make_node("Clip", [source, *names], [f"{node.output[0]}.bounded"], name=f"{node.output[0]}.clip")
    graph.insert(node, made)
    node.input[0] = made.output[0]


def _decode(graph: Graph, node: Any) -> None:
    """Weights of INT8 that meet floats, or that nothing multiplies, as floats: they would not be INT8 in TensorRT."""
    levels, scales = graph.constant(node.input[0]), graph.constant(node.input[1])
    if levels is None or scales is None or levels.dtype != np.int8:
        return
    users = [each for each in graph.graph.node if node.output[0] in each.input]
    if all(each.op_type in WEIGHTED and graph.quantizer(each.input[0]) is not None for each in users):
        return
    settings = {each.name: each.i for each in node.attribute}
    axis, block = settings.get("axis", 1), settings.get("block_size", 0)
    shape = [-1 if i == axis else 1 for i in range(levels.ndim)]
    wide = np.repeat(scales, block, axis) if block else scales.reshape(shape)
    name = graph.add(f"{node.output[0]}.numbers", levels.astype(np.float32) * wide)
    for each in users:
        each.input[:] = [name if given == node.output[0] else given for given in each.input]
