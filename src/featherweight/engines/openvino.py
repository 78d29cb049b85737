"""OpenVINO, on the CPU."""

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featherweight.core.errors import EngineError, reason_of
from featherweight.core.processor import saturates
from featherweight.engines.engine import Arrays, Capabilities, Engine, Exported, Precision, Runner, Settings
from featherweight.engines.packages import needed

if TYPE_CHECKING:
    from torch import nn

    from featherweight.core.task import Example

HINTS = {Precision.FLOAT32: "f32", Precision.BFLOAT16: "bf16"}


def _imported() -> ModuleType:
    """The package, without its telemetry: that would start a process, and tell others that OpenVINO is used."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return needed("openvino", "openvino")


@dataclass(frozen=True)
class OpenVino(Engine):
    """Tuned for the latency of one request. Reads ONNX files.

    The precision is always given by name: left alone, OpenVINO computes in bfloat16 where the CPU has it. Files that
    are ``exact`` are as those of :class:`~featherweight.engines.onnxruntime.OnnxRuntime`.
    """

    name: ClassVar[str] = "openvino"
    suffix: ClassVar[str] = ".onnx"
    extra: ClassVar[str | None] = "openvino"
    capabilities: ClassVar[Capabilities] = Capabilities(
        integers=True, dynamic=False, nibbles=True, precisions=frozenset({Precision.FLOAT32, Precision.BFLOAT16})
    )

    exact: bool = field(default_factory=saturates)

    def export(self, model: "nn.Module", example: "Example", path: Path) -> Exported:
        from featherweight.engines.integers import finish
        from featherweight.engines.onnx import export_onnx

        return export_onnx(model, example, path, partial(finish, exact=self.exact))

    def open(self, path: Path, settings: Settings) -> Runner:
        self.check(settings)
        package = _imported()
        wanted: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[settings.precision],
            "INFERENCE_NUM_THREADS": settings.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if not settings.rounding:
            wanted["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
        try:
            compiled = package.Core().compile_model(str(path), "CPU", wanted)
        except Exception as error:
            raise EngineError(f"OpenVINO cannot open {path} ({reason_of(error)}); export it anew") from error
        return _Runner(compiled)

    def version(self) -> str:
        return str(_imported().__version__)


class _Runner(Runner):
    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.request = compiled.create_infer_request()

    def run(self, inputs: Arrays) -> list["np.ndarray[Any, Any]"]:
        try:
            found = self.request.infer(list(inputs), share_inputs=True)
        except Exception as error:
            raise EngineError(f"OpenVINO could not run the model ({reason_of(error)})") from error
        return [found[output] for output in self.compiled.outputs]
