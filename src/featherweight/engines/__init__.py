"""What runs an exported model, by name. No engine's package is imported before it is used."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from featherweight.core.errors import EngineError, SelectionError
from featherweight.engines.c import C
from featherweight.engines.engine import Engine
from featherweight.engines.executorch import ExecuTorch
from featherweight.engines.litert import LiteRT
from featherweight.engines.ncnn import Ncnn
from featherweight.engines.onnxruntime import OnnxRuntime
from featherweight.engines.openvino import OpenVino
from featherweight.engines.pytorch import Compiled, Eager
from featherweight.engines.tensorrt import TensorRt
from featherweight.engines.tvm import Tvm

ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        each.name: each
        for each in (
            Eager(),
            Compiled(),
            OnnxRuntime(),
            OpenVino(),
            LiteRT(),
            ExecuTorch(),
            Ncnn(),
            Tvm(),
            TensorRt(),
            C(),
        )
    }  # fmt: skip
)


def find(name: str) -> Engine:
    """The engine of this name; ``SelectionError`` for an unknown one."""
    if name not in ENGINES:
        raise SelectionError(f"there is no engine {name!r}; there are {', '.join(ENGINES)}")
    return ENGINES[name]


def engine_for(path: Path) -> Engine:
    """The first engine whose files have this path's suffix; ``EngineError`` for a suffix of none."""
    for engine in ENGINES.values():
        if engine.suffix == path.suffix.lower():
            return engine
    known = ", ".join(sorted({each.suffix for each in ENGINES.values()}))
    raise EngineError(f"no engine's files end in {path.suffix!r} ({path}); end the name with one of {known}")
