"""ncnn, on the CPU: float32, and int8 where weights and inputs are."""

import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from featherweight import file
from featherweight.core.errors import EngineError
from featherweight.core.task import Example
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
from featherweight.engines.ncnn_integers import floats, with_integers
from featherweight.engines.parity import parity
from featherweight.engines.pnnx import ADVICE, Network, network, prepare
from featherweight.engines.process import Worker
from featherweight.engines.program import program, quiet, reason_of

PARAM, WEIGHTS = "model.param", "model.bin"
"""What ncnn's own loaders take, in the file."""
FIRST = (1980, 1, 1, 0, 0, 0)
"""The date of what is in a file: the same model gives the same bytes."""
SAME = 1e-3
"""Of the largest output: how far a float network may be from its model for its file to be written."""


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
        integers=True, dynamic=False, nibbles=False, precisions=frozenset({Precision.FLOAT32})
    )

    def export(self, model: nn.Module, example: Example, path: Path) -> Exported:
        """Write the network, after a process of its own has opened and run it on the example's first sample."""
        needed("ncnn", "ncnn")
        first = _first(example)
        with quiet(), torch.no_grad():
            graph = program(model, first, any_batch=False).exported.module()
            layers = floats(graph)
            prepare(graph)
            reference = [y.numpy() for y in tree_leaves(first.run(graph)) if isinstance(y, Tensor)]
        made = network(graph, first)
        data = _packed(with_integers(made, layers) if layers else made)
        _check(data, arrays_of(first), reference, SAME if not layers else None)
        return Exported(path, file.save(path, data), any_batch=True)

    def open(self, path: Path, settings: Settings) -> Runner:
        self.check(settings)
        package = needed("ncnn", "ncnn")
        read = _unpacked(path)
        net = package.Net()
        net.opt.num_threads = settings.threads
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
            setattr(net.opt, f"use_{option}", False)
        with tempfile.TemporaryDirectory(prefix="featherweight-") as folder:  # the binding reads weights from files
            weights = Path(folder) / WEIGHTS
            weights.write_bytes(read.weights)
            if net.load_param_mem(read.param) or net.load_model(str(weights)):
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


def _first(example: Example) -> Example:
    def cut(value: Any) -> Any:
        return value[:1] if isinstance(value, Tensor) and value.ndim else value

    return Example(tuple(map(cut, example.args)), {key: cut(value) for key, value in example.kwargs.items()})


def _packed(made: Network) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(PARAM, FIRST), made.param)
        archive.writestr(zipfile.ZipInfo(WEIGHTS, FIRST), made.weights)
    return buffer.getvalue()


def _unpacked(path: Path) -> Network:
    try:
        with zipfile.ZipFile(path) as archive:
            return Network(archive.read(PARAM).decode(), archive.read(WEIGHTS))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise EngineError(f"{path} holds no {PARAM} and {WEIGHTS} ({reason_of(error)}); export it anew") from error


def _check(data: bytes, inputs: Arrays, reference: Sequence["np.ndarray[Any, Any]"], most: float | None) -> None:
    """Open and run a file in a process of its own: ncnn ends the process where it lacks a layer.

    ``EngineError`` for that, and for outputs of other shapes than the model's, or further off than ``most``.
    """
    with tempfile.TemporaryDirectory(prefix="featherweight-") as folder:
        path = Path(folder) / f"model{Ncnn.suffix}"
        path.write_bytes(data)
        try:
            with Worker() as worker:
                worker.open(Ncnn.name, path, Settings())
                worker.inputs([inputs])
                found = parity([reference], worker.run())
        except EngineError as error:
            raise EngineError(f"ncnn does not run what pnnx made ({error}); {ADVICE}") from error
    if most is not None and found.largest > most:
        raise EngineError(
            f"ncnn computes something else than the model, {found.largest:.2g} of the largest output away; {ADVICE}"
        )
