"""The idx reader, on files that the tests write."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from featherweight.core.errors import DataError
from featherweight.tasks.idx import read_idx

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
IDX = struct.pack(">HBBIII", 0, 8, 3, 2, 3, 4) + VALUES.tobytes()


def stored(folder: Path, content: bytes) -> Path:
    path = folder / "some-images-idx3-ubyte"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [IDX, gzip.compress(IDX, mtime=0)])
def test_values_and_shape(tmp_path: Path, content: bytes) -> None:
    array = read_idx(stored(tmp_path, content), 3)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, VALUES)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "begins with nothing"),
        (b"\0\0\x08\x01" + IDX[4:], "begins with 00000801; 00000803 means unsigned bytes in 3 dimensions"),
        (b"\0\0\x0d\x03" + IDX[4:], "begins with 00000d03"),
        (IDX[:10], "inside its header of 16 bytes"),
        (IDX[:-1], r"holds 23 values where its header \(2, 3, 4\) says 24"),
        (IDX + b"\0", "holds 25 values"),
        (struct.pack(">HBBIII", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "holds 0 values"),
        (gzip.compress(IDX, mtime=0)[:-9], "cannot be read"),
        (gzip.compress(IDX, mtime=0)[:-8] + b"\0" * 8, "cannot be read"),
        (b"\x1f\x8b no gzip at all", "cannot be read"),
    ],
)
def test_damage_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    path = stored(tmp_path, content)
    with pytest.raises(DataError, match=told) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    for packed in (IDX, gzip.compress(IDX, mtime=0)):
        for length in range(len(packed)):
            with pytest.raises(DataError):
                read_idx(stored(tmp_path, packed[:length]), 3)
