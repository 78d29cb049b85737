"""CIFAR-10's batch files: every spelling is read, and nothing in them is ever run."""

import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featherweight.core.errors import DataError
from featherweight.tasks.batches import read_batch

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
LABELS = [3, 0, 9, 1]


def stored(folder: Path, content: bytes) -> Path:
    path = folder / "data_batch_1"
    path.write_bytes(content)
    return path


def told(folder: Path, content: bytes) -> str:
    path = stored(folder, content)
    with pytest.raises(DataError) as caught:
        read_batch(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def old_text(content: bytes) -> bytes:
    """A ``str`` of Python 2, as an instruction of the pickle machine."""
    return b"T" + struct.pack("<i", len(content)) + content


def python2_batch() -> bytes:
    """What Python 2 wrote into the published files: numpy 1 names, protocol 2, text as bytes."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + old_text(b"b") + b"tR"
        b"(K\x01K\x04M\x00\x0c\x86"
        b"cnumpy\ndtype\n(" + old_text(b"u1") + b"K\x00K\x01tR"
        b"(K\x03" + old_text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89" + old_text(PIXELS.tobytes()) + b"tb"
    )
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in LABELS) + b"e"
    label = old_text(b"batch_label") + old_text(b"training batch 1 of 5")
    return b"\x80\x02}(" + label + old_text(b"data") + array + old_text(b"labels") + labels + b"u."


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("keys", [("data", "labels"), (b"data", b"labels")])
def test_text_and_bytes_keys_in_every_protocol(tmp_path: Path, protocol: int, keys: tuple[Any, Any]) -> None:
    batch = dict(zip(keys, (PIXELS, LABELS), strict=True))
    pixels, labels = read_batch(stored(tmp_path, pickle.dumps(batch, protocol)))
    np.testing.assert_array_equal(pixels, PIXELS.reshape(4, 3, 32, 32))
    assert labels.tolist() == LABELS and labels.dtype == np.int64


def test_the_spelling_of_python_2(tmp_path: Path) -> None:
    pickletools.optimize(python2_batch())  # it is a well-formed pickle
    pixels, labels = read_batch(stored(tmp_path, python2_batch()))
    np.testing.assert_array_equal(pixels.reshape(4, 3072), PIXELS)
    assert labels.tolist() == LABELS


class Runs:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def touched(path: str) -> None:
    Path(path).touch()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickles_do_not_run(tmp_path: Path, protocol: int) -> None:
    import os

    trace = tmp_path / "trace"
    for hostile in (
        Runs(os.system, f"touch {trace}"),
        Runs(eval, f"open({str(trace)!r}, 'w')"),
        Runs(touched, str(trace)),
        Runs(getattr, "text", "upper"),
        Runs(np.load, str(trace)),
    ):
        batch = {"data": PIXELS, "labels": LABELS, "extra": hostile}
        assert "which no batch needs" in told(tmp_path, pickle.dumps(batch, protocol))
        assert not trace.exists()


def test_attributes_reached_through_dots_are_refused(tmp_path: Path) -> None:
    content = b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93."
    assert "numpy.ndarray.__init__, which no batch needs" in told(tmp_path, content)


@pytest.mark.parametrize("name", [b"numpy\nndarray", b"numpy\ndtype", b"_codecs\nencode"])
def test_the_readers_own_classes_cannot_be_changed(tmp_path: Path, name: bytes) -> None:
    """A pickle's BUILD on a class would set the attributes of that class for good."""
    content = b"\x80\x02c" + name + b"\n}X\x04\x00\x00\x00codeX\x01\x00\x00\x00xsb."
    told(tmp_path, content)
    np.testing.assert_array_equal(read_batch(stored(tmp_path, python2_batch()))[0].reshape(4, 3072), PIXELS)


@pytest.mark.parametrize(
    ("batch", "cause"),
    [
        ([PIXELS, LABELS], "holds list, not a dict"),
        ({"labels": LABELS}, "no array `data`"),
        ({"data": PIXELS, "labels": "3091"}, "no list `labels`"),
        ({"data": PIXELS.astype(np.float32), "labels": LABELS}, "'f4'"),
        ({"data": np.array([None, []], dtype=object), "labels": LABELS}, "not consist of bytes"),
        ({"data": PIXELS[:, :-1], "labels": LABELS}, "shape"),
        ({"data": PIXELS, "labels": LABELS[:3]}, "3 labels need"),
        ({"data": np.asfortranarray(PIXELS), "labels": LABELS}, "column by column"),
        ({"data": PIXELS, "labels": [0, 1, 2, 10]}, "numbers 0 to 9"),
        ({"data": PIXELS, "labels": [0, 1, 2, -1]}, "numbers 0 to 9"),
        ({"data": PIXELS, "labels": [0, 1, 2, 0.5]}, "numbers 0 to 9"),
        ({"data": PIXELS[:0], "labels": []}, "numbers 0 to 9"),
    ],
)
def test_wrong_content_is_told(tmp_path: Path, batch: Any, cause: str) -> None:
    assert cause in told(tmp_path, pickle.dumps(batch, 4))


def test_a_shape_of_more_than_there_is(tmp_path: Path) -> None:
    content = python2_batch().replace(b"K\x04M\x00\x0c\x86", b"J\xff\xff\xff\x7fM\x00\x0c\x86")
    assert "no batch of CIFAR-10" in told(tmp_path, content)


def test_truncations_are_told(tmp_path: Path) -> None:
    content = python2_batch()
    for length in [*range(0, 300, 7), *range(len(content) - 60, len(content))]:
        told(tmp_path, content[:length])


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="FileNotFoundError"):
        read_batch(tmp_path / "absent")
