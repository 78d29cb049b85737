"""The idx format of MNIST and its relatives.

Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits". Big-endian: two zero bytes, one byte for the
type of the values (0x08: unsigned bytes, the only one here), one byte for the number of dimensions, four bytes for the
size of each dimension, then the values, last dimension fastest. Nothing follows.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featherweight.core.errors import DataError

UNSIGNED_BYTES = 0x08


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in an idx file of unsigned bytes, gzipped (by its first bytes, whatever its name) or not."""
    return parse_idx(_content(path), dimensions, path)


def parse_idx(content: bytes, dimensions: int, path: Path) -> NDArray[np.uint8]:
    """The array in ``content``; ``path`` is for the messages only."""
    magic = struct.pack(">HBB", 0, UNSIGNED_BYTES, dimensions)
    if content[:4] != magic:
        found = content[:4].hex() or "nothing"
        raise _damaged(path, f"begins with {found}; {magic.hex()} means unsigned bytes in {dimensions} dimensions")
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise _damaged(path, f"ends after {len(content)} bytes, inside its header of {start} bytes")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise _damaged(path, f"holds {len(content) - start} values where its header {shape} says {math.prod(shape)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"cannot be read ({error})") from error


def _damaged(path: Path, fact: str) -> DataError:
    return DataError(f"{path} is not a whole idx file: it {fact}. Delete it and it will be fetched again")
