"""ncnn, on the CPU: float32, and int8 where weights and inputs are."""

import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featherweight.core.errors import EngineError, reason_of
from featherweight.engines.engine import Arrays, Capabilities, Engine, Exported, Precision, Runner, Settings
from featherweight.engines.packages import needed

if TYPE_CHECKING:
    from torch import nn

    from featherweight.core.task import Example

PARAM, WEIGHTS = "model.param", "model.bin"
"""What ncnn's own loaders take, in the file."""
ADVICE = "export to .onnx, or leave out of the model what ncnn has no layer for"


@dataclass(frozen=True)
class Ncnn(Engine):
    """A sample at a time: ncnn's networks have no batch dimension, and pnnx takes it away.

    A file is a plain ``.zip``, nothing packed, of the ``model.param`` and ``model.bin`` that an app for ncnn loads
    (``unzip model.ncnn``): two files could not be written whole or not at all. Storing and computing in 16 bits, ncnn's
    own choice, is off.

    Layers of integer weights, a scale for each output channel, are int8 where their input is quantized too
    (:mod:`featherweight.engines.ncnn_integers`). ncnn's levels there are symmetric, −127 to 127: unsigned inputs lose
    one of eight bits, inputs below 128 levels and symmetric ones nothing but the level −128. Ties round away from zero.
    All other codes are decoded.
    """

    name: ClassVar[str] = "ncnn"
    suffix: ClassVar[str] = ".ncnn"
    extra: ClassVar[str | None] = "ncnn"
    capabilities: ClassVar[Capabilities] = Capabilities(
        integers=True, dynamic=False, nibbles=False, precisions=frozenset({Precision.FLOAT32}), recurrent=False
    )

    def export(self, model: "nn.Module", example: "Example", path: Path) -> Exported:
        """Write the network, after a process of its own has opened and run it on the example's first sample."""
        needed("ncnn", "ncnn")
        from featherweight.engines.ncnn_files import written

        return written(model, example, path)

    def open(self, path: Path, settings: Settings) -> Runner:
        self.check(settings)
        package = needed("ncnn", "ncnn")
        param, found = _unpacked(path)
        net = package.Net()
        net.opt.num_threads = settings.threads
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
            setattr(net.opt, f"use_{option}", False)
        with tempfile.TemporaryDirectory(prefix="featherweight-") as folder:  # the binding reads weights from files
            weights = Path(folder) / WEIGHTS
            weights.write_bytes(found)
            if net.load_param_mem(param) or net.load_model(str(weights)):
                raise EngineError(f"ncnn cannot open {path}; export it anew")
        return _Runner(net)

    def version(self) -> str:
        return str(needed("ncnn", "ncnn").__version__)


class _Runner(Runner):
    def __init__(self, net: Any) -> None:
        self.net, self.mat = net, needed("ncnn", "ncnn").Mat

    def run(self, inputs: Arrays) -> list["np.ndarray[Any, Any]"]:
        samples = [self._sample([each[i] for each in inputs]) for i in range(len(inputs[0]))]
        return [np.stack(each) for each in zip(*samples, strict=True)]

    def _sample(self, inputs: Arrays) -> list["np.ndarray[Any, Any]"]:
        extractor = self.net.create_extractor()
        names = self.net.input_names()
        if len(names) != len(inputs):
            raise EngineError(f"{len(inputs)} inputs for a network that takes {len(names)}")
        for name, each in zip(names, inputs, strict=True):
            extractor.input(name, self.mat(_taken(each)).clone())
        found = []
        for name in self.net.output_names():
            code, mat = extractor.extract(name)
            if code:
                raise EngineError(f"ncnn could not run the network (code {code} at {name}); {ADVICE}")
            found.append(np.array(mat))
        return found


def _taken(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """ncnn counts in int32."""
    kept = array if array.dtype == np.float32 else array.astype(np.int32)
    return np.ascontiguousarray(kept)


def _unpacked(path: Path) -> tuple[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(PARAM).decode(), archive.read(WEIGHTS)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise EngineError(f"{path} holds no {PARAM} and {WEIGHTS} ({reason_of(error)}); export it anew") from error
