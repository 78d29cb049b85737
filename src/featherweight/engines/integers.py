"""What an engine needs of a compressed model: integer weights and quantized activations as operators of ONNX.

While a model is traced, weights with integer codes are one operator (``featherweight::scaled``), and so is every
quantizer of activations (``featherweight::quantized``). They become DequantizeLinear and QuantizeLinear.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from featherweight.core.compressed import Compressed
from featherweight.schemes.integers import integers

if TYPE_CHECKING:
    import onnx


@torch.library.custom_op("featherweight::scaled", mutates_args=())
def scaled(levels: Tensor, scales: Tensor, axis: int, group: int) -> Tensor:
    """``levels · scales``: a scale for each index of ``axis``, or for each ``group`` of entries along it."""
    numbers = levels.to(scales.dtype)
    if group:
        blocks = numbers.reshape(*levels.shape[:axis], -1, group, *levels.shape[axis + 1 :])
        return (blocks * scales.unsqueeze(axis + 1)).reshape(levels.shape)
    shape = [1] * levels.ndim
    shape[axis] = -1
    return numbers * scales.reshape(shape)


@scaled.register_fake
def _(levels: Tensor, scales: Tensor, axis: int, group: int) -> Tensor:
    return torch.empty(levels.shape, dtype=scales.dtype)


class Scaled(nn.Module):
    """A parametrization that makes a weight of integers and scales."""

    def __init__(self, levels: Tensor, scales: Tensor, axis: int, group: int) -> None:
        super().__init__()
        self.register_buffer("levels", levels)
        self.register_buffer("scales", scales)
        self.axis, self.group = axis, group

    def forward(self, weight: Tensor) -> Tensor:
        whole: Tensor = scaled(self.levels, self.scales, self.axis, self.group)
        return whole


def deployed(student: Compressed) -> nn.Module:
    """A copy of the base module whose integer weights stay integers when it is traced; computes the same.

    Recurrent layers, and weights that several modules share, keep decoded numbers.
    """
    model = copy.deepcopy(student.base).eval()
    for name, code in student.codes.items():
        found = integers(code)
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if found is None or len(student.names[name]) > 1 or isinstance(module, nn.RNNBase):
            continue
        parametrize.register_parametrization(module, leaf, Scaled(*found), unsafe=True)
    return model


def translations() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """Our operators -> functions that write them in ONNX, for ``torch.onnx.export``."""
    import onnx
    from onnxscript import opset21

    op: Any = opset21

    def write_quantized(x: Any, scale: Any, lowest: int, highest: int) -> Any:
        zero = op.Constant(value=onnx.helper.make_tensor("zero", onnx.TensorProto.UINT8, [], [-lowest]))
        if highest - lowest < 255:  # the engine's integers saturate at eight bits
            bounds = (op.Mul(scale, op.Constant(value_float=float(each))) for each in (lowest, highest))
            x = op.Clip(x, *bounds)
        return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero), scale, zero)

    def write_scaled(levels: Any, scales: Any, axis: int, group: int) -> Any:
        if group:
            return op.DequantizeLinear(levels, scales, axis=axis, block_size=group)
        return op.DequantizeLinear(levels, scales, axis=axis)

    return {
        torch.ops.featherweight.quantized.default: write_quantized,
        torch.ops.featherweight.scaled.default: write_scaled,
    }


def finish(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Make integers of what engines want as integers: transposed weights, biases, half bytes. In place."""
    graph = Graph(model)
    for node in list(model.graph.node):
        if node.op_type == "Transpose":
            graph.transpose(node)
    for node in list(model.graph.node):
        if node.op_type in ("Conv", "Gemm"):
            graph.quantize_bias(node)
        if node.op_type == "MatMul":
            graph.halve(node)
    graph.drop_unused()
    return model


class Graph:
    """A model with its constants and the makers of its tensors by name."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        self.graph = model.graph
        self.constants = {each.name: each for each in self.graph.initializer}
        self.makers = {name: node for node in self.graph.node for name in node.output}

    def constant(self, name: str) -> "np.ndarray[Any, Any] | None":
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def add(self, name: str, values: "np.ndarray[Any, Any]") -> str:
        from onnx import numpy_helper

        self.constants[name] = numpy_helper.from_array(values, name)
        self.graph.initializer.append(self.constants[name])
        return name

    def dequantizer(self, name: str) -> "onnx.NodeProto | None":
        """The DequantizeLinear that makes this tensor."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def transpose(self, node: "onnx.NodeProto") -> None:
        """``Transpose(DequantizeLinear(W))`` of a matrix becomes ``DequantizeLinear(Wᵀ)``."""
        made = self.dequantizer(node.input[0])
        levels = None if made is None else self.constant(made.input[0])
        if made is None or levels is None or levels.ndim != 2:
            return
        scales = self.constant(made.input[1])
        assert scales is not None
        settings = {each.name: each.i for each in made.attribute}
        self.add(f"{made.input[0]}.transposed", np.ascontiguousarray(levels.T))
        self.add(f"{made.input[1]}.transposed", np.ascontiguousarray(scales.T))
        node.op_type = "DequantizeLinear"
        node.input[:] = [f"{made.input[0]}.transposed", f"{made.input[1]}.transposed"]
        del node.attribute[:]
        settings["axis"] = 1 - settings.get("axis", 1)
        node.attribute.extend(_attributes(settings))

    def quantize_bias(self, node: "onnx.NodeProto") -> None:
        """A bias becomes int32 in units of input scale times weight scale (Jacob et al. 2017, 1712.05877)."""
        x, w = (self.dequantizer(name) for name in node.input[:2])
        bias = self.constant(node.input[2]) if len(node.input) > 2 else None
        if x is None or w is None or bias is None:
            return
        input_scale, scales = self.constant(x.input[1]), self.constant(w.input[1])
        if input_scale is None or scales is None or scales.shape != bias.shape:
            return
        units = (input_scale.astype(np.float64) * scales).astype(np.float32)
        levels = np.rint(bias.astype(np.float64) / units)
        if np.abs(levels).max(initial=0) >= 2**31:
            return
        name = f"{node.input[2]}.{node.output[0]}"
        made = [self.add(f"{name}.levels", levels.astype(np.int32)), self.add(f"{name}.scales", units)]
        self._insert(node, made, f"{name}.dequantized", {"axis": 0})
        node.input[2] = f"{name}.dequantized"

    def halve(self, node: "onnx.NodeProto") -> None:
        """Weights of a linear layer that fit four bits, with a scale for each group, are stored as such."""
        import onnx

        made = self.dequantizer(node.input[1])
        levels = None if made is None else self.constant(made.input[0])
        if made is None or levels is None or levels.dtype != np.int8 or np.abs(levels).max(initial=0) > 7:
            return
        if not any(each.name == "block_size" and each.i for each in made.attribute):
            return
        name = f"{made.input[0]}.int4"
        packed = onnx.helper.make_tensor(name, onnx.TensorProto.INT4, levels.shape, levels.flatten().tolist())
        self.constants[name] = packed
        self.graph.initializer.append(packed)
        made.input[0] = name

    def _insert(self, before: "onnx.NodeProto", inputs: list[str], output: str, settings: dict[str, int]) -> None:
        import onnx

        node = onnx.helper.make_node("DequantizeLinear", inputs, [output], name=output)
        node.attribute.extend(_attributes(settings))
        self.graph.node.insert(list(self.graph.node).index(before), node)
        self.makers[output] = node

    def drop_unused(self) -> None:
        """Remove nodes and constants that nothing uses, and what the exporter notes about the source."""
        wanted = {each.name for each in self.graph.output}
        nodes = []
        for node in reversed(self.graph.node):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                nodes.append(node)
        constants = [each for each in self.graph.initializer if each.name in wanted]
        kept = [_plain(node) for node in reversed(nodes)]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(kept)
        self.graph.initializer.extend(constants)


def _plain(node: "onnx.NodeProto") -> "onnx.NodeProto":
    del node.metadata_props[:]
    node.doc_string = ""
    return node


def _attributes(settings: Mapping[str, int]) -> Iterator["onnx.AttributeProto"]:
    import onnx

    return (onnx.helper.make_attribute(name, value) for name, value in settings.items())
