"""LiteRT, once TensorFlow Lite, on the CPU, with XNNPACK's kernels where it has them."""

from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featherweight.core.errors import EngineError, reason_of
from featherweight.engines.engine import Arrays, Capabilities, Engine, Exported, Precision, Runner, Settings
from featherweight.engines.packages import needed

if TYPE_CHECKING:
    from torch import nn

    from featherweight.core.task import Example

EXTRA = "litert"


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
        integers=True, dynamic=False, nibbles=False, precisions=frozenset({Precision.FLOAT32}), recurrent=False
    )
    python: Path | None = None
    timeout: float = 1800.0
    """Seconds that a conversion may take."""

    def export(self, model: "nn.Module", example: "Example", path: Path) -> Exported:
        needed("ai_edge_litert.interpreter", EXTRA)
        from featherweight.engines.litert_converter import converted
        from featherweight.engines.litert_files import written

        return written(model, example, path, partial(converted, python=self.python, timeout=self.timeout))

    def open(self, path: Path, settings: Settings) -> Runner:
        self.check(settings)
        needed("ai_edge_litert.interpreter", EXTRA)
        try:
            return opened(model_path=str(path), num_threads=settings.threads)
        except Exception as error:
            raise EngineError(f"LiteRT cannot open {path} ({reason_of(error)}); export it anew") from error

    def version(self) -> str:
        needed("ai_edge_litert.interpreter", EXTRA)
        return version("ai-edge-litert")


def opened(**settings: Any) -> Runner:
    """A runner of LiteRT's interpreter with these settings of its own."""
    return _Runner(needed("ai_edge_litert.interpreter", EXTRA).Interpreter(**settings))


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
