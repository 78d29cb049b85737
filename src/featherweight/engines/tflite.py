"""What is put right in a LiteRT file behind the converter: levels where it left numbers, and batches of any size."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

Array = "np.ndarray[Any, Any]"


class File:
    """The tables of a flatbuffer (``schema.fbs`` of LiteRT), with what they hold."""

    def __init__(self, data: bytes) -> None:
        self.model = schema.ModelT.InitFromPackedBuf(data, 0)
        for buffer in self.model.buffers:
            if buffer.offset > 1:  # numbers may lie behind the tables, which :meth:`packed` moves
                buffer.data = np.frombuffer(data[buffer.offset : buffer.offset + buffer.size], np.uint8)
                buffer.offset = buffer.size = 0

    def packed(self) -> bytes:
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def operators(self, kind: str) -> Iterator[tuple[Any, Any]]:
        """Graphs, each with an operator of this kind."""
        code = getattr(schema.BuiltinOperator, kind)
        for graph in self.model.subgraphs:
            for operator in graph.operators:
                if self.model.operatorCodes[operator.opcodeIndex].builtinCode == code:
                    yield graph, operator

    def maker(self, graph: Any, tensor: int, kind: str) -> Any | None:
        """The operator that makes a tensor, if it is of this kind."""
        return next((each for of, each in self.operators(kind) if of is graph and tensor in each.outputs), None)

    def user(self, graph: Any, tensor: int, *kinds: str) -> Any | None:
        """The operator that takes a tensor, if it is one alone and of these kinds."""
        users = [each for each in graph.operators if tensor in each.inputs]
        able = [each for kind in kinds for of, each in self.operators(kind) if of is graph]
        return users[0] if len(users) == 1 and any(each is users[0] for each in able) else None

    def operator(self, kind: str, source: int, target: int) -> Any:
        """A new operator from one tensor to another."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = code.builtinCode, 1
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = len(self.model.operatorCodes), [source], [target]
        self.model.operatorCodes.append(code)
        return made

    def constant(self, tensor: Any, kind: Any = np.int32) -> "np.ndarray[Any, Any] | None":
        """The numbers of a tensor, where they are in the file."""
        data = self.model.buffers[tensor.buffer].data
        return None if data is None or not len(data) else np.frombuffer(bytes(data), kind)

    def put(self, tensor: Any, numbers: "np.ndarray[Any, Any]") -> None:
        """Give a tensor numbers of its own: others may share those that it has."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(numbers.tobytes(), np.uint8)
        tensor.buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)

    def drop_unused(self) -> None:
        """Empty the buffers that no tensor has any more."""
        used = {tensor.buffer for graph in self.model.subgraphs for tensor in graph.tensors}
        used |= {each.buffer for each in self.model.metadata or ()}
        for number, buffer in enumerate(self.model.buffers):
            if number not in used:
                buffer.data = None


def take_floats(file: File) -> None:
    """Inputs and outputs that the converter made levels of become floats, with an operator between."""
    signatures = file.model.signatureDefs or ()
    for number, graph in enumerate(file.model.subgraphs):
        graph.inputs, graph.outputs = list(graph.inputs), list(graph.outputs)
        for ends, kind in ((graph.inputs, "QUANTIZE"), (graph.outputs, "DEQUANTIZE")):
            for place, index in enumerate(ends):
                levels = graph.tensors[index]
                if levels.type != schema.TensorType.INT8 or levels.quantization is None:
                    continue
                made = schema.TensorT()
                made.type, made.shape, made.name = schema.TensorType.FLOAT32, levels.shape, levels.name
                made.shapeSignature, levels.name = levels.shapeSignature, levels.name + b".levels"
                ends[place] = len(graph.tensors)
                graph.tensors.append(made)
                pair = (ends[place], index) if kind == "QUANTIZE" else (index, ends[place])
                graph.operators.insert(0 if kind == "QUANTIZE" else len(graph.operators), file.operator(kind, *pair))
                for each in signatures:
                    for named in (*each.inputs, *each.outputs) if each.subgraphIndex == number else ():
                        named.tensorIndex = ends[place] if named.tensorIndex == index else named.tensorIndex


OUT, BACK = (0, 3, 1, 2), (0, 2, 3, 1)
"""Permutations from channels last, as kernels take images, to channels first, and back."""


def pad_within(file: File) -> None:
    """Zeros around levels are put there with channels last, and by the convolution itself where it can.

    The converter does so for floats, and leaves levels between two transpositions.
    """
    for graph, pad in list(file.operators("PAD")):
        before, after = file.maker(graph, pad.inputs[0], "TRANSPOSE"), file.user(graph, pad.outputs[0], "TRANSPOSE")
        amounts = file.constant(graph.tensors[pad.inputs[1]])
        if before is not None and after is not None and amounts is not None:
            turns = tuple(file.constant(graph.tensors[each.inputs[1]]) for each in (before, after))
            if all(turn is not None and tuple(turn) == wanted for turn, wanted in zip(turns, (OUT, BACK), strict=True)):
                amounts = np.ascontiguousarray(amounts.reshape(4, 2)[list(BACK)])
                shared = graph.tensors[pad.inputs[1]]  # by other operators, perhaps, which keep it
                graph.tensors.append(copy.copy(shared))
                file.put(graph.tensors[-1], amounts)
                pad.inputs, pad.outputs = [before.inputs[0], len(graph.tensors) - 1], after.outputs
                graph.operators.remove(after)
                if not any(before.outputs[0] in each.inputs for each in graph.operators):
                    graph.operators.remove(before)
        layer = file.user(graph, pad.outputs[0], "CONV_2D", "DEPTHWISE_CONV_2D")
        if layer is not None and amounts is not None and _is_same(graph, pad, layer, amounts.reshape(4, 2)):
            layer.inputs = [pad.inputs[0], *layer.inputs[1:]]
            layer.builtinOptions.padding = schema.Padding.SAME
            graph.operators.remove(pad)


def _is_same(graph: Any, pad: Any, layer: Any, amounts: "np.ndarray[Any, Any]") -> bool:
    """Whether these zeros are what ``SAME`` says: as many as ``⌈size / stride⌉`` results take, an odd one last."""
    given = layer.builtinOptions
    wanted = [[0, 0]]
    for axis, stride, dilation in (
        (1, given.strideH, given.dilationHFactor),
        (2, given.strideW, given.dilationWFactor),
    ):
        size, width = int(graph.tensors[pad.inputs[0]].shape[axis]), int(graph.tensors[layer.inputs[1]].shape[axis])
        total = max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        wanted.append([total // 2, total - total // 2])
    return bool(given.padding == schema.Padding.VALID) and amounts.tolist() == [*wanted, [0, 0]]


def multiply_levels(file: File, weights: Mapping[bytes, tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]]) -> None:
    """Linear layers between floats get their levels back, of which the converter made numbers.

    ``weights`` are numbers as bytes -> levels and a scale for each row. Kernels then multiply integers, with a range of
    each row of the input that is found as the model runs.
    """
    for graph, operator in file.operators("FULLY_CONNECTED"):
        source, weight = (graph.tensors[index] for index in operator.inputs[:2])
        numbers = file.constant(weight, np.float32)
        if {source.type, weight.type} != {schema.TensorType.FLOAT32} or numbers is None:
            continue
        found = weights.get(numbers.tobytes())
        if found is not None:
            levels, scales = found
            file.put(weight, levels)
            weight.type, weight.quantization = schema.TensorType.INT8, schema.QuantizationParametersT()
            weight.quantization.scale, weight.quantization.zeroPoint = scales, np.zeros(len(scales), np.int64)
            operator.builtinOptions.asymmetricQuantizeInputs = True
    file.drop_unused()


def free_batches(file: File, batch: int) -> None:
    """Where operators hold ``batch``, a size that means nothing else, as a number, it becomes free; the file says 1."""
    for graph, operator in file.operators("RESHAPE"):
        shape = file.constant(graph.tensors[operator.inputs[1]])
        if shape is not None and shape[0] % batch == 0 and -1 not in shape:
            shape = np.array([-1, *shape[1:]], np.int32)
            file.put(graph.tensors[operator.inputs[1]], shape)
            if operator.builtinOptions is not None:
                operator.builtinOptions.newShape = shape
    for graph, operator in file.operators("STRIDED_SLICE"):
        begin, end = (file.constant(graph.tensors[index]) for index in operator.inputs[1:3])
        if begin is not None and end is not None and (begin[0], end[0]) == (0, batch):
            operator.builtinOptions.beginMask |= 1
            operator.builtinOptions.endMask |= 1
    for graph, operator in file.operators("SLICE"):
        begin, size = (file.constant(graph.tensors[index]) for index in operator.inputs[1:3])
        if begin is not None and size is not None and (begin[0], size[0]) == (0, batch):
            file.put(graph.tensors[operator.inputs[2]], np.array([-1, *size[1:]], np.int32))
    for graph in file.model.subgraphs:
        for tensor in graph.tensors:
            sized = tensor.shape is not None and len(tensor.shape) and tensor.shape[0] % batch == 0
            if sized and file.constant(tensor, np.uint8) is None:
                tensor.shape = np.array([tensor.shape[0] // batch, *tensor.shape[1:]], np.int32)
        for tensor in (graph.tensors[index] for index in graph.inputs):
            if len(tensor.shape):
                tensor.shapeSignature = np.array([-1, *tensor.shape[1:]], np.int32)
    file.drop_unused()
