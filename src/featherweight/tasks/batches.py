"""The batch files of CIFAR-10 (Krizhevsky, "Learning multiple layers of features from tiny images", 2009).

A batch is a Python pickle of a dict: ``data``, an array of unsigned bytes ``[n, 3072]`` (1,024 red, 1,024 green and
1,024 blue values, row by row), and ``labels``, a list of ``n`` numbers 0 to 9. Python 2 wrote the published files, so
that their keys arrive as bytes.

A pickle is a program. This reader runs none: the only names that it resolves are those by which numpy spells an array,
and even these lead to the small classes below that can do nothing but hold bytes.
"""

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.core.errors import DataError

PIXELS = 3 * 32 * 32


def read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``[n, 3, 32, 32]`` and class numbers ``[n]`` of one batch file."""
    try:
        return _parse(path.read_bytes())
    except Exception as error:  # hostile bytes can make the pickle machine raise anything
        raise DataError(
            f"{path} is no batch of CIFAR-10 ({type(error).__name__}: {error}). "
            f"Delete the folder {path.parent} and it will be fetched again"
        ) from error


def _parse(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = _Reader(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(batch, dict):
        raise ValueError(f"it holds {type(batch).__name__}, not a dict")
    # Text keys and bytes keys alike.
    entries = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
    if not isinstance(entries.get("data"), _Array) or not isinstance(entries.get("labels"), list):
        raise ValueError(f"it has no array `data` and no list `labels`, but {sorted(map(str, entries))}")
    pixels = entries["data"].array()
    labels = np.array(entries["labels"])
    if pixels.shape != (len(labels), PIXELS):
        raise ValueError(f"`data` has shape {pixels.shape}; {len(labels)} labels need {(len(labels), PIXELS)}")
    if labels.ndim != 1 or labels.dtype.kind != "i" or labels.min() < 0 or labels.max() > 9:
        raise ValueError("`labels` has something else than the numbers 0 to 9")
    return pixels.reshape(-1, 3, 32, 32), labels.astype(np.int64)


# Each class has __setstate__: without one, a pickle's BUILD instruction would set attributes of the class itself.


class _Name:
    """Stands for ``numpy.ndarray``, which is only named and never called."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a name has no state")


class _Kind:
    """Stands for ``numpy.dtype``: the letter and size of the values' type."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and such: means nothing for single bytes."""

    def check(self) -> None:
        if self.code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of type {self.code!r}; pixels are unsigned bytes, 'u1'")


class _Array:
    """Stands for an array: its shape and its bytes."""

    def __init__(self, *_: Any) -> None:
        """``_reconstruct(ndarray, (0,), b"b")``: what the array is comes with its state."""

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, columns_first, content = state
        if columns_first:
            raise pickle.UnpicklingError("the array is stored column by column")
        self.fill(content, kind, shape)

    def fill(self, content: Any, kind: Any, shape: Any) -> None:
        if not (isinstance(content, bytes | bytearray) and isinstance(kind, _Kind) and isinstance(shape, tuple)):
            raise pickle.UnpicklingError("the array does not consist of bytes, a type and a shape")
        kind.check()
        self.content, self.shape = bytes(content), shape

    def array(self) -> NDArray[np.uint8]:
        if math.prod(self.shape) != len(self.content):
            raise ValueError(f"`data` of shape {self.shape} has {len(self.content)} bytes")
        return np.frombuffer(self.content, np.uint8).reshape(self.shape)


class _Buffer(_Array):
    """Stands for ``_frombuffer``, the spelling of pickle protocol 5."""

    def __init__(self, content: Any, kind: Any, shape: Any, order: Any) -> None:
        if order != "C":
            raise pickle.UnpicklingError("the array is stored column by column")
        self.fill(content, kind, shape)


class _Latin1:
    """Stands for ``_codecs.encode``, by which Python 3 writes bytes into old protocols."""

    def __new__(cls, text: Any, encoding: Any) -> Any:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("bytes that are not spelled as Latin-1")
        return text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("bytes have no state")


_NAMES: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Name,
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): _Array,  # numpy 1
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # numpy 2
    ("numpy.core.numeric", "_frombuffer"): _Buffer,
    ("numpy._core.numeric", "_frombuffer"): _Buffer,
    ("_codecs", "encode"): _Latin1,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _NAMES.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs")
        return found
