"""What an engine needs of a compressed model: integer weights and quantized activations as operators of ONNX.

While a model is traced, weights with integer codes are one operator (``featherweight::scaled``), and so is every
quantizer of activations (``featherweight::quantized``). They become DequantizeLinear and QuantizeLinear. Where ranges
are found at run time (``featherweight::dynamically_quantized``) they become DynamicQuantizeLinear and MatMulInteger.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import featherweight.activations.dynamic
import featherweight.activations.quantizers  # noqa: F401  # their operators are translated here
from featherweight.core.compressed import Compressed
from featherweight.core.processor import REDUCED
from featherweight.schemes.integers import integers

if TYPE_CHECKING:
    import onnx


@torch.library.custom_op("featherweight::scaled", mutates_args=())
def scaled(levels: Tensor, scales: Tensor, axis: int, group: int) -> Tensor:
    """``levels · scales``: a scale for each index of ``axis``, or for each ``group`` of entries along it."""
    return numbers(levels, scales, axis, group)


def numbers(levels: Tensor, scales: Tensor, axis: int, group: int) -> Tensor:
    """What :func:`scaled` computes, in operators of PyTorch."""
    x = levels.to(scales.dtype)
    if group:
        blocks = x.reshape(*levels.shape[:axis], -1, group, *levels.shape[axis + 1 :])
        return (blocks * scales.unsqueeze(axis + 1)).reshape(levels.shape)
    shape = [1] * levels.ndim
    shape[axis] = -1
    return x * scales.reshape(shape)


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


def deployed(student: Compressed, recurrent: bool = True) -> nn.Module:
    """A copy of the base module whose integer weights stay integers when it is traced; computes the same.

    Weights that several modules share keep decoded numbers, and so do those of recurrent layers if they shall not be
    ``recurrent`` integers.
    """
    model = copy.deepcopy(student.base).eval()
    for name, code in student.codes.items():
        found = integers(code)
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if found is None or len(student.names[name]) > 1 or (isinstance(module, nn.RNNBase) and not recurrent):
            continue
        parametrize.register_parametrization(module, leaf, Scaled(*found), unsafe=True)
        decoded = module.parametrizations.get_submodule(leaf)  # type: ignore[union-attr]
        decoded.original = nn.Parameter(torch.empty(0), requires_grad=False)  # else files would hold it, unused
    for module in model.modules():
        if isinstance(module, nn.RNNBase) and parametrize.is_parametrized(module):
            _read_weights_anew(module)
    return model


def _read_weights_anew(layer: nn.RNNBase) -> None:
    """PyTorch's recurrent layers compute with a list of their first weights, which knows of no parametrization."""

    def weights(self: nn.RNNBase) -> list[Tensor]:
        return [getattr(self, name) for name in self._flat_weights_names]

    def left(self: nn.RNNBase, given: list[Tensor]) -> None:
        """What PyTorch keeps in the list is not asked for."""

    kind = type(layer)
    layer.__class__ = type(kind.__name__, (kind,), {"_flat_weights": property(weights, left)})


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

    def write_dynamic(x: Any) -> Any:
        """``s q − s z`` and not DequantizeLinear: OpenVINO multiplies that with integer weights wrongly."""
        levels, scale, zero = op.DynamicQuantizeLinear(x)
        float32 = int(onnx.TensorProto.FLOAT)
        return op.Sub(op.Mul(op.Cast(levels, to=float32), scale), op.Mul(op.Cast(zero, to=float32), scale))

    return {
        torch.ops.featherweight.quantized.default: write_quantized,
        torch.ops.featherweight.dynamically_quantized.default: write_dynamic,
        torch.ops.featherweight.scaled.default: write_scaled,
    }


def finish(model: "onnx.ModelProto", exact: bool = False) -> "onnx.ModelProto":
    """Make integers of what engines want as integers: transposed weights, biases, half bytes. In place.

    ``exact`` is for processors that :func:`featherweight.core.processor.saturates` tells of.
    """
    graph = Graph(model)
    for node in list(model.graph.node):
        if node.op_type == "Gemm":
            graph.split_grouped(node)
    for node in list(model.graph.node):
        if node.op_type == "Transpose":
            graph.transpose(node)
    graph.share_ranges()
    for node in list(model.graph.node):
        if node.op_type == "Gather":
            graph.look_up(node)
        if node.op_type in RECURRENT:
            graph.order_gates(node)
    for node in list(model.graph.node):
        if node.op_type in ("MatMul", "Gemm"):
            graph.multiply_dynamically(node)
    for node in list(model.graph.node):
        if node.op_type == "Conv":
            graph.pad_within(node)
    for node in list(model.graph.node):
        if node.op_type in ("Conv", "Gemm"):
            graph.quantize_bias(node)
        if node.op_type in ("MatMul", "Gemm"):
            graph.add_zeros(node)
        if node.op_type == "MatMul":
            graph.halve(node)
        if exact and node.op_type in ("Conv", "Gemm", "MatMul", "MatMulInteger"):
            graph.unsign(node)
    graph.drop_unused()
    return model


def unsigned(model: "onnx.ModelProto") -> int:
    """How many weights :func:`finish` wrote unsigned."""
    return sum(each.name.endswith(UNSIGNED) for each in model.graph.initializer)


UNSIGNED = ".unsigned"
"""What ends the names of weights whose levels were moved by 128."""
MOVING = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity")
"""Operators of ONNX whose outputs are some of their inputs."""


RECURRENT = ("GRU", "LSTM")


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
        """A constant of this name; what has it already is the same, since names are made of what made it."""
        from onnx import numpy_helper

        if name in self.constants:
            return name
        self.constants[name] = numpy_helper.from_array(values, name)
        self.graph.initializer.append(self.constants[name])
        return name

    def dequantizer(self, name: str) -> "onnx.NodeProto | None":
        """The DequantizeLinear that makes this tensor."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def quantizer(self, name: str) -> "onnx.NodeProto | None":
        """The DequantizeLinear that this tensor's numbers come from, through operators that only move them."""
        node = self.makers.get(name)
        while node is not None and node.op_type in MOVING:
            node = self.makers.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def split_grouped(self, node: "onnx.NodeProto") -> None:
        """``x Wᵀ + b`` by a weight with a scale for each group becomes ``MatMul(x, Wᵀ) − (−b)``.

        ONNX Runtime computes with such weights in ``MatMul`` alone, by ``[in, out]`` matrices grouped along the first,
        and would make ``Gemm`` of ``MatMul`` and ``Add`` again.
        """
        import onnx

        made = self.dequantizer(node.input[1])
        settings = {each.name: each for each in node.attribute}
        if made is None or not _grouped(made) or not settings["transB"].i or settings["transA"].i:
            return
        x, weight, output = node.input[0], node.input[1], node.output[0]
        bias = self.constant(node.input[2]) if len(node.input) > 2 else None
        if bias is None and len(node.input) > 2:
            return
        product = output if bias is None else f"{output}.product"
        replaced = [
            onnx.helper.make_node(
                "Transpose", [weight], [f"{weight}.{output}"], name=f"{weight}.{output}", perm=[1, 0]
            ),
            onnx.helper.make_node("MatMul", [x, f"{weight}.{output}"], [product], name=product),
        ]
        if bias is not None:
            negative = self.add(f"{node.input[2]}.negative", -bias)
            replaced.append(onnx.helper.make_node("Sub", [product, negative], [output], name=output))
        self._replace(node, replaced)

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

    def dynamic(self, name: str) -> "onnx.NodeProto | None":
        """The DynamicQuantizeLinear whose numbers this tensor holds."""
        for kind in ("Sub", "Mul", "Cast", "DynamicQuantizeLinear"):
            node = self.makers.get(name)
            if node is None or node.op_type != kind:
                return None
            name = node.input[0]
        return node

    def share_ranges(self) -> None:
        """A tensor that several layers take is quantized once."""
        first: dict[str, onnx.NodeProto] = {}
        again: dict[str, str] = {}
        for node in self.graph.node:
            if node.op_type == "DynamicQuantizeLinear":
                kept = first.setdefault(node.input[0], node)
                again |= dict(zip(node.output, kept.output, strict=True))
        for node in self.graph.node:
            node.input[:] = [again.get(name, name) for name in node.input]

    def multiply_dynamically(self, node: "onnx.NodeProto") -> None:
        """``x̂ Ŵ + b`` of a range found at run time becomes ``MatMulInteger(q, W, z) · (s_x s_w) + b``.

        ONNX Runtime runs that as one operator (DynamicQuantizeMatMul, or MatMulIntegerToFloat where layers share the
        input). The weight has one scale for each column; where it does not, both are multiplied as floats.
        """
        import onnx

        source, made = self.dynamic(node.input[0]), self.dequantizer(node.input[1])
        settings = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if source is None or made is None or set(settings.values()) - {0, 1} or settings.get("transA"):
            return
        if settings.get("alpha", 1) != 1 or settings.get("beta", 1) != 1:
            return
        levels, scales = self.constant(made.input[0]), self.constant(made.input[1])
        axis = next((each.i for each in made.attribute if each.name == "axis"), 1)
        turned = bool(settings.get("transB"))
        if levels is None or scales is None or levels.ndim != 2 or scales.ndim != 1 or axis != 1 - turned:
            return
        weight, name = made.input[0], node.output[0]
        if turned:
            weight = self.add(f"{weight}.transposed", np.ascontiguousarray(levels.T))
        bias = list(node.input[2:3])
        steps = [
            ("MatMulInteger", [source.output[0], weight, source.output[2]], "sums"),
            ("Cast", [f"{name}.sums"], "numbers"),
            ("Mul", [source.output[1], made.input[1]], "units"),
            ("Mul", [f"{name}.numbers", f"{name}.units"], "product"),
            *[("Add", [f"{name}.product", *bias], "") for _ in bias],
        ]
        replaced = [onnx.helper.make_node(kind, x, [f"{name}.{y}"], name=f"{name}.{y}") for kind, x, y in steps]
        replaced[1].attribute.append(onnx.helper.make_attribute("to", int(onnx.TensorProto.FLOAT)))
        replaced[-1].output[0] = name
        self._replace(node, replaced)

    def look_up(self, node: "onnx.NodeProto") -> None:
        """``Gather(s · q, rows)`` of an embedding becomes ``Gather(s, rows) · Gather(q, rows)``.

        ONNX Runtime would make floats of the whole table in every run, to take a few rows. Levels of four bits with a
        scale for each group lie two in a byte, those of the group's first half in its lower half.
        """
        import onnx

        made = self.dequantizer(node.input[0])
        levels = None if made is None else self.constant(made.input[0])
        scales = None if made is None else self.constant(made.input[1])
        settings = {} if made is None else {each.name: each.i for each in made.attribute}
        if made is None or levels is None or scales is None or levels.dtype != np.int8 or levels.ndim != 2:
            return
        group = settings.get("block_size", 0)
        if any(each.name == "axis" and each.i for each in node.attribute) or settings.get("axis", 1) != int(group > 0):
            return
        rows, name, table = node.input[1], node.output[0], made.input[0]
        groups = levels.reshape(len(levels), -1, group or levels.shape[1])
        steps: list[tuple[str, list[str], str, dict[str, Any]]]
        if group and group % 2 == 0 and np.abs(levels).max(initial=0) <= 7:
            steps = self._unpacked(table, groups, rows, name)
        else:
            steps = [("Gather", [self.add(f"{table}.groups", groups), rows], "levels", {})]
            steps.append(("Cast", [f"{name}.levels"], "numbers", {"to": int(onnx.TensorProto.FLOAT)}))
        width = self.add(f"{table}.width", np.array([levels.shape[1]]))
        steps += [
            ("Gather", [self.add(f"{made.input[1]}.groups", scales.reshape(len(levels), -1, 1)), rows], "scales", {}),
            ("Mul", [f"{name}.numbers", f"{name}.scales"], "scaled", {}),
            ("Shape", [rows], "rows", {}),
            ("Concat", [f"{name}.rows", width], "shape", {"axis": 0}),
            ("Reshape", [f"{name}.scaled", f"{name}.shape"], "", {}),
        ]
        replaced = [
            onnx.helper.make_node(kind, x, [f"{name}.{y}" if y else name], name=f"{name}.{y}", **given)
            for kind, x, y, given in steps
        ]
        self._replace(node, replaced)

    def _unpacked(
        self, table: str, groups: "np.ndarray[Any, Any]", rows: str, name: str
    ) -> list[tuple[str, list[str], str, dict[str, Any]]]:
        """The steps from two levels a byte to numbers: operator, inputs, what the output is called, attributes."""
        import onnx

        above = (groups + 8).astype(np.uint8)
        half = groups.shape[2] // 2
        packed = self.add(f"{table}.bytes", above[..., :half] | above[..., half:] << 4)
        sixteenth, sixteen, eight = (
            self.add(f"nibble.{label}", np.array(value, np.float32))
            for label, value in (("sixteenth", 1 / 16), ("sixteen", 16), ("eight", 8))
        )
        # Exact in floats; OpenVINO shifts and masks bytes wrongly.
        return [
            ("Gather", [packed, rows], "bytes", {}),
            ("Cast", [f"{name}.bytes"], "both", {"to": int(onnx.TensorProto.FLOAT)}),
            ("Mul", [f"{name}.both", sixteenth], "sixteenths", {}),
            ("Floor", [f"{name}.sixteenths"], "upper", {}),
            ("Mul", [f"{name}.upper", sixteen], "above", {}),
            ("Sub", [f"{name}.both", f"{name}.above"], "lower", {}),
            ("Concat", [f"{name}.lower", f"{name}.upper"], "levels", {"axis": -1}),
            ("Sub", [f"{name}.levels", eight], "numbers", {}),
        ]

    def order_gates(self, node: "onnx.NodeProto") -> None:
        """A recurrent layer's weights, whose gates ONNX has in another order, are put in it as integers.

        The exporter takes the gates apart and puts them together in the graph, which every run would do again. They
        become ``(−q)(−s)`` and not DequantizeLinear: OpenVINO keeps what it sees to be dequantized as it is, and then
        refuses the layer, whose weights have to be constants. Both engines work this out when they open the file.
        """
        import onnx

        for at in (1, 2):
            found = self._ordered(node.input[at])
            if found is None:
                continue
            levels, scales = found
            name, groups = f"{node.output[0]}.{at}", scales.shape[-1]
            grouped = levels.reshape(*levels.shape[:-1], groups, -1)
            constants = [
                self.add(f"{name}.levels", np.ascontiguousarray(grouped)),
                self.add(f"{name}.scales", -scales[..., None]),
                self.add(f"{name}.shape", np.array(levels.shape)),
            ]
            steps = [
                ("Cast", [constants[0]], f"{name}.numbers"),
                ("Neg", [f"{name}.numbers"], f"{name}.negative"),
                ("Mul", [f"{name}.negative", constants[1]], f"{name}.scaled"),
                ("Reshape", [f"{name}.scaled", constants[2]], name),
            ]
            made = [onnx.helper.make_node(kind, inputs, [output], name=output) for kind, inputs, output in steps]
            made[0].attribute.append(onnx.helper.make_attribute("to", int(onnx.TensorProto.FLOAT)))
            for each in made:
                self.insert(node, each)
            node.input[at] = name

    def _ordered(self, name: str) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None":
        """The levels of matrices and the scales of their rows' groups, the rows moved as in the graph.

        ``None`` where the tensor is none that is made of such matrices by moving rows.
        """
        node = self.makers.get(name)
        if node is None:
            return None
        settings = {each.name: each.i for each in node.attribute}
        if node.op_type == "DequantizeLinear":
            levels, scales = self.constant(node.input[0]), self.constant(node.input[1])
            by_rows = settings.get("axis", 1) == int(settings.get("block_size", 0) > 0)
            if levels is None or scales is None or levels.ndim != 2 or not by_rows:
                return None
            return levels, scales.reshape(len(levels), -1)
        joins = node.op_type == "Concat"
        parts = [self._ordered(each) for each in (node.input if joins else node.input[:1])]
        found = [each for each in parts if each is not None]
        given = [] if joins else [self.constant(each) for each in node.input[1:]]
        known = [each for each in given if each is not None]
        if len(found) < len(parts) or len(known) < len(given):
            return None
        levels, scales = found[0]
        if joins and settings["axis"] == 0:
            return np.concatenate([each for each, _ in found]), np.concatenate([each for _, each in found])
        if node.op_type == "Unsqueeze" and known[0] == [0]:
            return levels[None], scales[None]
        if node.op_type == "Slice" and len(known) == 3 and known[2] == [0]:
            start, end = (int(each.item()) for each in known[:2])
            return levels[start:end], scales[start:end]
        return None

    def pad_within(self, node: "onnx.NodeProto") -> None:
        """Zeros put around the quantized input of a convolution become its own padding: zero is a level, exactly."""
        dequantize = self.dequantizer(node.input[0])
        quantize = None if dequantize is None else self.makers.get(dequantize.input[0])
        pad = None if quantize is None else self.makers.get(quantize.input[0])
        if dequantize is None or quantize is None or pad is None or pad.op_type != "Pad":
            return
        chain = (pad.output[0], quantize.output[0], dequantize.output[0])
        if any(sum(list(other.input).count(name) for other in self.graph.node) != 1 for name in chain):
            return
        amounts = self.constant(pad.input[1])
        value = self.constant(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(())
        modes = [each.s for each in pad.attribute if each.name == "mode"]
        attributes = {each.name: each for each in node.attribute}
        if amounts is None or value is None or np.any(value) or modes not in ([], [b"constant"]) or len(pad.input) > 3:
            return
        halves = amounts.reshape(2, -1)
        automatic = attributes.get("auto_pad")
        if halves[:, :2].any() or (amounts < 0).any() or (automatic is not None and automatic.s != b"NOTSET"):
            return
        own = list(attributes["pads"].ints) if "pads" in attributes else [0] * (2 * (halves.shape[1] - 2))
        total = [int(a + b) for a, b in zip(own, halves[:, 2:].reshape(-1), strict=True)]
        kept = [each for each in node.attribute if each.name != "pads"]
        del node.attribute[:]
        node.attribute.extend([*kept, _ints("pads", total)])
        quantize.input[0] = pad.input[0]

    def quantize_bias(self, node: "onnx.NodeProto") -> None:
        """A bias becomes int32 in units of input scale times weight scale (Jacob et al. 2017, 1712.05877)."""
        x, w = self.quantizer(node.input[0]), self.dequantizer(node.input[1])
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

    def add_zeros(self, node: "onnx.NodeProto") -> None:
        """Zero points of zero, which say nothing: without them ONNX Runtime dequantizes and multiplies in floats."""
        x, w = self.quantizer(node.input[0]), self.dequantizer(node.input[1])
        if x is None or w is None or len(w.input) > 2 or _grouped(w):
            return
        levels, scales = self.constant(w.input[0]), self.constant(w.input[1])
        if levels is not None and scales is not None:
            w.input.append(self.add(f"{w.input[1]}.zeros", np.zeros(scales.shape, levels.dtype)))

    def halve(self, node: "onnx.NodeProto") -> None:
        """Weights of a linear layer that fit four bits, with a scale for each group, are stored as such."""
        import onnx

        made = self.dequantizer(node.input[1])
        levels = None if made is None else self.constant(made.input[0])
        if made is None or levels is None or levels.dtype != np.int8 or np.abs(levels).max(initial=0) > 7:
            return
        if not _grouped(made):
            return
        name = f"{made.input[0]}.int4"
        if name not in self.constants:  # layers with the same levels share one constant
            packed = onnx.helper.make_tensor(name, onnx.TensorProto.INT4, levels.shape, _nibbles(levels), raw=True)
            self.constants[name] = packed
            self.graph.initializer.append(packed)
        made.input[0] = name

    def unsign(self, node: "onnx.NodeProto") -> None:
        """Levels beyond ``±REDUCED`` move by 128, and so does their zero: unsigned bytes are multiplied in 32 bits.

        That is exact and no faster than floats, where signed ones would saturate.
        """
        if node.op_type == "MatMulInteger":
            self._move(node, 1, "middle", ())
            return
        made = self.dequantizer(node.input[1])
        scales = None if made is None or _grouped(made) else self.constant(made.input[1])
        if made is not None and scales is not None and self.quantizer(node.input[0]) is not None:
            self._move(made, 0, f"{made.input[1]}.middle", scales.shape)

    def _move(self, node: "onnx.NodeProto", at: int, middle: str, shape: tuple[int, ...]) -> None:
        """Of levels that an operator takes as input ``at``, and their zeros two behind it, in this shape."""
        levels = self.constant(node.input[at])
        if levels is None or levels.dtype != np.int8:
            return
        wide = levels.astype(np.int16)
        if np.abs(wide).max(initial=0) <= REDUCED:
            return
        node.input[at] = self.add(f"{node.input[at]}{UNSIGNED}", (wide + 128).astype(np.uint8))
        del node.input[at + 2 :]
        node.input.append(self.add(middle, np.full(shape, 128, np.uint8)))

    def _replace(self, node: "onnx.NodeProto", by: "list[onnx.NodeProto]") -> None:
        place = list(self.graph.node).index(node)
        del self.graph.node[place]
        for each in reversed(by):
            self.graph.node.insert(place, each)
        self.makers |= {name: each for each in self.graph.node for name in each.output}

    def _insert(self, before: "onnx.NodeProto", inputs: list[str], output: str, settings: dict[str, int]) -> None:
        import onnx

        node = onnx.helper.make_node("DequantizeLinear", inputs, [output], name=output)
        node.attribute.extend(_attributes(settings))
        self.insert(before, node)

    def insert(self, before: "onnx.NodeProto", node: "onnx.NodeProto") -> None:
        """Put a node with one output in front of another."""
        self.graph.node.insert(list(self.graph.node).index(before), node)
        self.makers[node.output[0]] = node

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


def _nibbles(levels: "np.ndarray[Any, Any]") -> bytes:
    """Two levels a byte, the first in the lower half, in two's complement."""
    flat = levels.astype(np.uint8).ravel() & 15
    pairs = np.append(flat, np.zeros(len(flat) % 2, np.uint8)).reshape(-1, 2)
    packed: np.ndarray[Any, Any] = pairs[:, 0] | pairs[:, 1] << 4
    return packed.tobytes()


def _grouped(node: "onnx.NodeProto") -> bool:
    """Whether a DequantizeLinear has a scale for each group along an axis."""
    return any(each.name == "block_size" and each.i for each in node.attribute)


def _plain(node: "onnx.NodeProto") -> "onnx.NodeProto":
    del node.metadata_props[:]
    node.doc_string = ""
    return node


def _ints(name: str, values: list[int]) -> "onnx.AttributeProto":
    import onnx

    return onnx.helper.make_attribute(name, values)


def _attributes(settings: Mapping[str, int]) -> Iterator["onnx.AttributeProto"]:
    import onnx

    return (onnx.helper.make_attribute(name, value) for name, value in settings.items())
