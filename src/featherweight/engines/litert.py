"""LiteRT, once TensorFlow Lite, on the CPU, with XNNPACK's kernels where it has them."""

import os
import subprocess
import tempfile
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
    needed,
)
from featherweight.engines.process import SIGNALS
from featherweight.engines.program import quiet, reason_of

EXTRA = "litert"
PYTHON = "FEATHERWEIGHT_LITERT_PYTHON"
"""The environment variable that names the Python of the converter's environment."""
ADVICE = (
    f"the converter needs an environment of its own: python -m venv litert && litert/bin/pip install torch==2.13.0 "
    f"litert-torch==0.10.0, then {PYTHON}=litert/bin/python"
)
CHILD = Path(__file__).with_name("litert_child.py")
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
        return Exported(path, file.save(path, self._fixed(traced.exported, example)), False)

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
        return data if _same(whole, data, [x.numpy() for x in _tensors(inputs)]) else None

    def _fixed(self, exported: ExportedProgram, example: Example) -> bytes:
        return self._converted(exported, (example.args, example.kwargs))

    def _converted(self, exported: ExportedProgram, inputs: tuple[Any, Any]) -> bytes:
        from featherweight.engines.tflite import File, multiply_levels, take_floats

        with tempfile.TemporaryDirectory(prefix="featherweight-", ignore_cleanup_errors=True) as folder:
            source, target = Path(folder) / "program.pt2", Path(folder) / "model.tflite"
            exported.example_inputs = inputs
            with quiet():
                torch.export.save(exported, source)
            self._convert(source, target)
            made = File(target.read_bytes())
        take_floats(made)
        multiply_levels(made, dict(_weights(exported)))
        return made.packed()

    def _convert(self, source: Path, target: Path) -> None:
        """Run the child; ``EngineError`` with the end of what it wrote where no file comes of it."""
        python = self.python or os.environ.get(PYTHON)
        if not python:
            raise EngineError(f"no Python with LiteRT's converter is known; {ADVICE}")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        command = [str(python), "-I", str(CHILD), str(source), str(target)]  # -I: this folder's modules shadow none
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                env=environment,
                timeout=self.timeout,
                text=True,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            raise EngineError(f"LiteRT's converter took more than {self.timeout:g} s; export a smaller model") from None
        except OSError as error:
            raise EngineError(f"{python} cannot be run ({reason_of(error)}); {ADVICE}") from error
        if done.returncode or not target.exists() or not target.stat().st_size:
            raise EngineError(_complaint(done))


def _complaint(done: "subprocess.CompletedProcess[str]") -> str:
    """Why there is no file, with the operator that has no form in LiteRT where the converter names it."""
    last = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
    if done.returncode < 0:
        return f"LiteRT's converter ended by signal {SIGNALS.get(-done.returncode, -done.returncode)} ({last[:300]})"
    if "ModuleNotFoundError" in last:
        return f"LiteRT's converter is not there ({last[:300]}); {ADVICE}"
    if not done.returncode:
        return f"LiteRT's converter wrote no file ({last[:300]}); {ADVICE}"
    return (
        f"the model cannot be written for LiteRT ({last[:300]}); export it as .onnx or .pte, or leave out the module "
        "that this operator is in"
    )


def _inputs(exported: ExportedProgram, batch: int) -> tuple[Any, Any]:
    """Example inputs, again from the first, in a batch of this size."""

    def sized(x: Any) -> Any:
        return x[torch.arange(batch) % len(x)] if isinstance(x, Tensor) and x.ndim else x

    assert exported.example_inputs is not None
    args, kwargs = exported.example_inputs
    return tuple(map(sized, args)), {name: sized(x) for name, x in kwargs.items()}


def _tensors(inputs: tuple[Any, Any]) -> list[Tensor]:
    args, kwargs = inputs
    return [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]


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
    (expected, *found) = (_Runner(package.Interpreter(model_content=data, num_threads=1)) for data in (whole, free))
    wanted = expected.run(inputs)
    for count in (1, 3):
        try:
            outputs = found[0].run([x[:count] if x.ndim else x for x in inputs])
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
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: Arrays) -> list["np.ndarray[Any, Any]"]:
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
