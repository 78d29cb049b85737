"""What runs an exported model, by name. No engine is imported before it is used, and none's package."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

from featherweight.core.errors import EngineError, SelectionError
from featherweight.engines.engine import Engine

_HOMES = {
    "pytorch": ("pytorch", "Eager"),
    "pytorch-compiled": ("pytorch", "Compiled"),
    "onnxruntime": ("onnxruntime", "OnnxRuntime"),
    "openvino": ("openvino", "OpenVino"),
    "litert": ("litert", "LiteRT"),
    "executorch": ("executorch", "ExecuTorch"),
    "ncnn": ("ncnn", "Ncnn"),
    "tvm": ("tvm", "Tvm"),
    "tensorrt": ("tensorrt", "TensorRt"),
    "c": ("c", "C"),
}
"""Name -> module and class. A test holds the names against those of the classes."""


class _Engines(Mapping[str, Engine]):
    """Engines by name, each made when it is asked for: a process that runs one does not wait for PyTorch."""

    def __getitem__(self, name: str) -> Engine:
        return _made(*_HOMES[name])

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


@cache
def _made(module: str, kind: str) -> Engine:
    engine: Engine = getattr(import_module(f"featherweight.engines.{module}"), kind)()
    return engine


ENGINES: Mapping[str, Engine] = _Engines()


def find(name: str) -> Engine:
    """The engine of this name; ``SelectionError`` for an unknown one."""
    if name not in _HOMES:
        raise SelectionError(f"there is no engine {name!r}; there are {', '.join(ENGINES)}")
    return ENGINES[name]


def engine_for(path: Path) -> Engine:
    """The first engine whose files have this path's suffix; ``EngineError`` for a suffix of none."""
    for engine in ENGINES.values():
        if engine.suffix == path.suffix.lower():
            return engine
    known = ", ".join(sorted({each.suffix for each in ENGINES.values()}))
    raise EngineError(f"no engine's files end in {path.suffix!r} ({path}); end the name with one of {known}")
