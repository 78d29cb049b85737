"""A compressed model, written for an engine."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize

from featherweight.core.compressed import Compressed
from featherweight.core.errors import EngineError
from featherweight.core.task import Example
from featherweight.engines import engine_for
from featherweight.engines.engine import Engine, Exported


@dataclass(frozen=True)
class Export:
    """A compressed model's file.

    ``integers`` are the coded weights that it holds as integers, ``numbers`` those that it holds decoded.
    """

    engine: Engine
    file: Exported
    integers: tuple[str, ...]
    numbers: tuple[str, ...]


def export(student: Compressed, example: Example, path: str | PathLike[str], engine: Engine | None = None) -> Export:
    """Write the student's model for ``engine``, by default the first that reads files with the path's suffix.

    Weights with symmetric uniform codes, dense or sparse, stay integers, and so do quantized activations; all other
    codes are decoded. ``EngineError`` for a student that is still learning, a suffix that is not the engine's, and
    what the engine cannot take.
    """
    path = Path(path)
    engine = engine or engine_for(path)
    if path.suffix.lower() != engine.suffix:
        raise EngineError(f"files of {engine.name} end in {engine.suffix}, and {path} does not; rename it")
    if student.learning:
        raise EngineError("the model still learns; call settle() on it before it is exported")
    model = engine.prepared(student)
    kept = {name for name in student.codes if model is student or parametrize.is_parametrized(*_owner(model, name))}
    coded = [name for name, code in student.codes.items() if len(code.shape) > 1]
    wide = {p.dtype for p in student.base.parameters() if p.is_floating_point()} - {torch.float32}
    if wide and (kept or student.sites):
        kinds = ", ".join(sorted(map(str, wide)))
        raise EngineError(f"engines quantize float32 alone, and the model is in {kinds}; compress model.float()")
    written = engine.export(model, example, path)
    return Export(engine, written, tuple(n for n in coded if n in kept), tuple(n for n in coded if n not in kept))


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, leaf = name.rpartition(".")
    return model.get_submodule(owner), leaf
