"""What is put right in a LiteRT file behind the converter: levels where it left numbers, and batches of any size."""

from collections.abc import Iterator, Mapping
from itertools import islice
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
        for graph in self.model.subgraphs:
            for operator in graph.operators:
                if self.is_a(kind, operator):
                    yield graph, operator

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

    def is_a(self, kind: str, operator: Any) -> bool:
        code = self.model.operatorCodes[operator.opcodeIndex].builtinCode
        return bool(code == getattr(schema.BuiltinOperator, kind))

    def drop_idle(self) -> None:
        """Remove operators whose results nothing takes."""
        for graph in self.model.subgraphs:
            wanted, kept = set(graph.outputs), []
            for operator in reversed(graph.operators):
                if wanted.intersection(operator.outputs):
                    wanted.update(operator.inputs)
                    kept.append(operator)
            graph.operators = kept[::-1]

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


TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
"""How dimensions are permuted that bring channels to the front, and behind the others."""


def pad_within(file: File) -> None:
    """Zeros around what a convolution takes in become the convolution's own, where its padding SAME means just these.

    Of levels the converter makes an operator for them, between two that move the channels forth and back.
    """
    makers = {id(graph): _makers(graph) for graph in file.model.subgraphs}
    for kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        for graph, convolution in file.operators(kind):
            settings = convolution.builtinOptions
            back, padding, forth = islice(_before(makers[id(graph)], convolution), 3)
            if not (_moves(file, graph, back, TO_LAST) and _moves(file, graph, forth, TO_FIRST)):
                continue
            zeros = file.constant(graph.tensors[padding.inputs[1]]) if file.is_a("PAD", padding) else None
            source = graph.tensors[forth.inputs[0]]
            if zeros is None or settings.padding != schema.Padding.VALID or not _alike(source, graph, convolution):
                continue
            height, width = graph.tensors[convolution.inputs[1]].shape[1:3]
            same = (
                *_same(source.shape[1], height, settings.strideH, settings.dilationHFactor),
                *_same(source.shape[2], width, settings.strideW, settings.dilationWFactor),
            )
            if zeros.tolist() == [0, 0, 0, 0, *same]:
                settings.padding = schema.Padding.SAME
                convolution.inputs = [forth.inputs[0], *convolution.inputs[1:]]
    file.drop_idle()


def _makers(graph: Any) -> dict[int, Any]:
    return {index: operator for operator in graph.operators for index in operator.outputs}


def _before(makers: Mapping[int, Any], operator: Any) -> Iterator[Any]:
    """What makes an operator's first input, what makes the first input of that, and so on; ``None`` in the end."""
    while True:
        operator = None if operator is None else makers.get(operator.inputs[0])
        yield operator


def _moves(file: File, graph: Any, operator: Any, order: list[int]) -> bool:
    """Whether an operator permutes dimensions in this way."""
    if operator is None or not file.is_a("TRANSPOSE", operator):
        return False
    found = file.constant(graph.tensors[operator.inputs[1]])
    return found is not None and found.tolist() == order


def _alike(source: Any, graph: Any, convolution: Any) -> bool:
    """Whether a tensor's levels mean what those do that a convolution takes in."""
    given = graph.tensors[convolution.inputs[0]]
    grids = [(each.quantization.scale, each.quantization.zeroPoint) for each in (source, given) if each.quantization]
    same = len(grids) == 2 and all(np.array_equal(a, b) for a, b in zip(*grids, strict=True))
    return source.type == given.type and (same or not grids)


def _same(size: int, taps: int, stride: int, dilation: int) -> tuple[int, int]:
    """The zeros before and behind a row of so many entries that SAME stands for."""
    total = max((-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


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
