"""ONNX Runtime, on the CPU."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featherweight.core.errors import EngineError, reason_of
from featherweight.core.processor import saturates
from featherweight.engines.engine import Arrays, Capabilities, Engine, Exported, Precision, Runner, Settings
from featherweight.engines.packages import needed

if TYPE_CHECKING:
    from torch import nn

    from featherweight.core.task import Example

FATAL = 4
"""The severity below which ONNX Runtime logs nothing; what matters is raised."""
ROUNDING = "session.qdq_matmulnbits_accuracy_level"
"""What weights with a scale for each group are multiplied in: "1" is float32, "4", where it is not said, is int8."""

ROUNDED = "WeightBiasQuantization"
"""The optimizer that rounds floating-point weights between quantized activations to 8 bits."""


@dataclass(frozen=True)
class OnnxRuntime(Engine):
    """All graph optimizations, one thread pool of the threads that are asked for.

    ``exact``, for processors on which byte products saturate, and on them by default: weights of more than 7 bits are
    written so that their products are exact, and no faster than floats; and the engine makes no such integers itself.
    Its own setting for this, ``session.x64quantprecision``, makes graphs that it then refuses (1.32).
    """

    name: ClassVar[str] = "onnxruntime"
    suffix: ClassVar[str] = ".onnx"
    extra: ClassVar[str | None] = "onnxruntime"
    capabilities: ClassVar[Capabilities] = Capabilities(
        integers=True, dynamic=True, nibbles=True, precisions=frozenset({Precision.FLOAT32})
    )

    exact: bool = field(default_factory=saturates)

    def export(self, model: "nn.Module", example: "Example", path: Path) -> Exported:
        from featherweight.engines.integers import finish
        from featherweight.engines.onnx import export_onnx

        return export_onnx(model, example, path, partial(finish, exact=self.exact))

    def open(self, path: Path, settings: Settings) -> Runner:
        self.check(settings)
        package = needed("onnxruntime", "onnxruntime")
        options = package.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = package.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = FATAL
        options.add_session_config_entry(ROUNDING, "4" if settings.rounding else "1")
        try:
            session = package.InferenceSession(
                str(path),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=[ROUNDED] if self.exact else None,
            )
        except Exception as error:
            raise EngineError(f"ONNX Runtime cannot open {path} ({reason_of(error)}); export it anew") from error
        return _Runner(session)

    def version(self) -> str:
        return str(needed("onnxruntime", "onnxruntime").__version__)


class _Runner(Runner):
    def __init__(self, session: Any) -> None:
        self.session = session
        self.names = [each.name for each in session.get_inputs()]

    def run(self, inputs: Arrays) -> list["np.ndarray[Any, Any]"]:
        try:
            found: list[np.ndarray[Any, Any]] = self.session.run(None, dict(zip(self.names, inputs, strict=True)))
        except Exception as error:
            raise EngineError(f"ONNX Runtime could not run the model ({reason_of(error)})") from error
        return found
