"""How ncnn's files are made: by pnnx, with integers put in behind it, and run once before they are written."""

import tempfile
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from featherweight import file
from featherweight.core.errors import EngineError
from featherweight.core.quiet import quiet
from featherweight.core.task import Example
from featherweight.engines.arrays import arrays_of
from featherweight.engines.engine import Arrays, Exported, Settings
from featherweight.engines.ncnn import ADVICE, PARAM, WEIGHTS, Ncnn
from featherweight.engines.ncnn_integers import floats, with_integers
from featherweight.engines.parity import parity
from featherweight.engines.pnnx import Network, network, prepare
from featherweight.engines.process import Worker
from featherweight.engines.program import program

FIRST = (1980, 1, 1, 0, 0, 0)
"""The date of what is in a file: the same model gives the same bytes."""
SAME = 1e-3
"""Of the largest output: how far a float network may be from its model for its file to be written."""


def written(model: nn.Module, example: Example, path: Path) -> Exported:
    """Write a model for a sample at a time, after a process of its own has run the file on the example's first."""
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
