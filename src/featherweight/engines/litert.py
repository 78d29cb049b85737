"""LiteRT, once TensorFlow Lite, on the CPU, with XNNPACK's kernels where it has them."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from featherweight import file
from featherweight.core.errors import EngineError
from featherweight.core.task import Example
from featherweight.engines.decomposed import Kernels, aten, decomposed, standard
from featherweight.engines.engine import (
    Arrays,
    Capabilities,
    Engine,
    Exported,
    Precision,
    Runner,
    Settings,
    arrays_of,
    needed,
)
from featherweight.engines.litert_converter import converted
from featherweight.engines.program import reason_of

EXTRA = "litert"
BATCH = 37
"""Files are converted for this batch, which no other size of a network is likely to be a multiple of."""
CLOSE = 1e-4
"""Of the largest output: what kernels may give else for batches of another size, since they sum in another order."""
KERNELS = Kernels(folded=False, unquantized=aten.linear.default)


@dataclass(frozen=True)
class LiteRT(Engine):
    """Files are made by ``litert-torch``, in another environment, whose Python is ``python``.

    By default that is what the environment variable FEATHERWEIGHT_LITERT_PYTHON says. Running them needs the extra
    alone. Integers that a model takes are cast to the 32 bits that its file has; a text's length is the example's.
    """

    name: ClassVar[str] = "litert"
    suffix: ClassVar[str] = ".tflite"
    extra: ClassVar[str | None] = EXTRA
    capabilities: ClassVar[Capabilities] = Capabilities(
        integers=True, dynamic=False, nibbles=False, precisions=frozenset({Precision.FLOAT32})
    )
    python: Path | None = None
    timeout: float = 1800.0
    """Seconds that a conversion may take."""

    def export(self, model: nn.Module, example: Example, path: Path) -> Exported:
        needed("ai_edge_litert.interpreter", EXTRA)
        traced = decomposed(model, example, KERNELS)
        if traced.any_batch:
            data = self._free(traced.exported)
            if data is not None:
                return Exported(path, file.save(path, data), True)
        return Exported(path, file.save(path, self._converted(traced.exported, (example.args, example.kwargs))), False)

    def open(self, path: Path, settings: Settings) -> Runner:
        self.check(settings)
        package = needed("ai_edge_litert.interpreter", EXTRA)
        try:
            return _Runner(package.Interpreter(model_path=str(path), num_threads=settings.threads))
        except Exception as error:
            raise EngineError(f"LiteRT cannot open {path} ({reason_of(error)}); export it anew") from error

    def version(self) -> str:
        needed("ai_edge_litert.interpreter", EXTRA)
        return version("ai-edge-litert")

    def _free(self, exported: ExportedProgram) -> bytes | None:
        """A file for batches of any size; ``None`` where the model holds on to one."""
        from featherweight.engines.tflite import File, free_batches

        inputs = _inputs(exported, BATCH)
        made = File(self._converted(exported, inputs))
        whole = made.packed()
        free_batches(made, BATCH)
        data = made.packed()
        return data if _same(whole, data, arrays_of(Example(*inputs))) else None

    def _converted(self, exported: ExportedProgram, inputs: tuple[Any, Any]) -> bytes:
        from featherweight.engines.tflite import File, multiply_levels, pad_within, take_floats

        exported.example_inputs = inputs
        made = File(converted(exported, self.python, self.timeout))
        take_floats(made)
        pad_within(made)
        multiply_levels(made, dict(_weights(exported)))
        return made.packed()


def _inputs(exported: ExportedProgram, batch: int) -> tuple[Any, Any]:
    """Inputs like the example's in a batch of this size, no sample like another: whatever mixes them shows."""
    source = torch.Generator().manual_seed(0)

    def sized(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.ndim:
            return x
        rows = [x[k % len(x)] for k in range(batch)]
        if x.is_floating_point():
            return torch.stack([row + torch.randn(row.shape, generator=source) for row in rows])
        return torch.stack([row.roll(k) for k, row in enumerate(rows)])

    assert exported.example_inputs is not None
    args, kwargs = exported.example_inputs
    return tuple(map(sized, args)), {name: sized(x) for name, x in kwargs.items()}


def _weights(
    exported: ExportedProgram,
) -> Iterator[tuple[bytes, tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]]]:
    """Numbers of weights with a scale for each row, as bytes -> levels and scales."""
    tensors = {**exported.state_dict, **exported.constants}
    signature = exported.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    for node in exported.graph.nodes:
        if node.target == standard.quantize_per_channel.default:
            weight, scales = (tensors[names[each.name]].detach() for each in node.args[:2])
            if weight.ndim == 2:
                levels = (weight / scales[:, None]).round().to(torch.int8)
                yield (levels * scales[:, None]).numpy().tobytes(), (levels.numpy(), scales.numpy())


def _same(whole: bytes, free: bytes, inputs: Arrays) -> bool:
    """Whether a file for batches of any size gives for a few samples what one for a fixed size does."""
    package = needed("ai_edge_litert.interpreter", EXTRA)
    expected, found = (_Runner(package.Interpreter(model_content=data, num_threads=1)) for data in (whole, free))
    wanted = expected.run(inputs)
    for count in (1, 3):
        try:
            outputs = found.run([x[:count] if x.ndim else x for x in inputs])
        except EngineError:
            return False
        for y, full in zip(outputs, wanted, strict=True):
            if y.shape != full[:count].shape or np.abs(y - full[:count]).max() > CLOSE * np.abs(full).max():
                return False
    return True


class _Runner(Runner):
    """Tensors are set out for the sizes of the last inputs; those of other sizes cost a new layout."""

    def __init__(self, interpreter: Any) -> None:
        self.interpreter = interpreter
        self.inputs = [(each["index"], each["dtype"]) for each in interpreter.get_input_details()]
        self.outputs = [each["index"] for each in interpreter.get_output_details()]
        self.sizes = [tuple(map(int, each["shape"][1:])) for each in interpreter.get_input_details()]
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: Arrays) -> list["np.ndarray[Any, Any]"]:
        for x, sizes in zip(inputs, self.sizes, strict=False):
            if x.shape[1:] != sizes:
                raise EngineError(
                    f"an input of {x.shape} for a file whose samples are of {sizes}: lengths are fixed in LiteRT; "
                    "export with an example of this size, or .onnx or .pte"
                )
        try:
            self._lay_out([x.shape for x in inputs])
            for (index, kind), x in zip(self.inputs, inputs, strict=True):
                self.interpreter.set_tensor(index, x if x.dtype == kind else x.astype(kind))
            self.interpreter.invoke()
            return [self.interpreter.get_tensor(index) for index in self.outputs]
        except Exception as error:
            raise EngineError(f"LiteRT could not run the model ({reason_of(error)})") from error

    def _lay_out(self, shapes: list[tuple[int, ...]]) -> None:
        if shapes != self.shapes:
            for (index, _), shape in zip(self.inputs, shapes, strict=True):
                self.interpreter.resize_tensor_input(index, shape)
            self.interpreter.allocate_tensors()
            self.shapes = shapes
