"""Fetching what is missing, without a network: the answers come from the tests."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featherweight.architectures import ResNetCifar
from featherweight.core.errors import DataError
from featherweight.tasks import cifar, mnist
from featherweight.tasks.download import Published, fetch, write_atomically


class Web:
    """Addresses and their content; whatever has none is out of reach."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.asked: list[str] = []


class Answer(io.BytesIO):
    headers: Message


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    web = Web()

    def urlopen(address: str, timeout: float) -> Answer:
        web.asked.append(address)
        if address not in web.content:
            raise OSError("no route to host")
        answer = Answer(web.content[address])
        answer.headers = Message()
        answer.headers["Content-Length"] = str(len(web.content[address]))
        return answer

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    yield web


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


FILE = Published("file", ("https://one.example/file", "https://two.example/file"), md5(b"content"))


def test_the_first_address_with_the_right_content_wins(web: Web, tmp_path: Path) -> None:
    web.content = {"https://one.example/file": b"a changed file", "https://two.example/file": b"content"}
    assert fetch(FILE, tmp_path, "deep/folder").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "deep" / "folder").iterdir()] == ["file"]


def test_without_any_network_the_error_says_what_to_do(web: Web, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch(FILE, tmp_path)
    for part in ("file", str(tmp_path), "FEATHERWEIGHT_DATA", "no route to host", *FILE.addresses):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_content_is_never_left_in_place(web: Web, tmp_path: Path) -> None:
    web.content = dict.fromkeys(FILE.addresses, b"half a fi")
    with pytest.raises(DataError, match="MD5"):
        fetch(FILE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_survives_a_failure_in_writing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, None)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def idx(array: Any) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_mnist(count: int) -> tuple[bytes, bytes]:
    labels = np.arange(count, dtype=np.uint8) % 10
    pixels = np.broadcast_to(labels[:, None, None], (count, 28, 28))
    return idx(pixels), idx(labels)


def test_mnist_is_fetched_from_its_publishers_when_missing(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    packed = [gzip.compress(content, 1) for content in small_mnist(10_000)]
    address = "https://publisher.example/"
    data_set = mnist.DataSet("Small/raw", 0.5, 2.0, (address,), ("", "", md5(packed[0]), md5(packed[1])))
    for name, content in zip(mnist.FILES[2:], packed, strict=True):
        web.content[f"{address}{name}.gz"] = content
    inputs, targets = mnist.images(data_set, "evaluation")
    assert inputs.shape == (10_000, 1, 28, 28) and targets[:11].tolist() == [*range(10), 0]
    assert inputs[3].unique().tolist() == pytest.approx([(3 / 255 - 0.5) / 2.0])
    web.asked.clear()
    assert mnist.images(data_set, "evaluation")[0] is inputs
    assert web.asked == []


def test_mnist_of_another_size_is_refused(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    for name, content in zip(mnist.FILES[:2], small_mnist(20), strict=True):
        write_atomically(tmp_path / "MNIST" / "raw" / name, content)
    with pytest.raises(DataError, match="not the published 60000 images"):
        mnist.images(mnist.MNIST, "train")


def test_missing_mnist_names_folder_file_and_variable(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        mnist.mnist_lenet5().evaluation()  # type: ignore[misc]
    for part in ("t10k-images-idx3-ubyte.gz", str(tmp_path / "MNIST" / "raw"), "FEATHERWEIGHT_DATA", "ossci-datasets"):
        assert part in str(caught.value)


def test_the_splits_of_mnist_share_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    number = np.arange(60_000)
    pixels = np.zeros((60_000, 28, 28), np.uint8)
    pixels[:, 0, 0], pixels[:, 0, 1] = number % 256, number // 256
    for name, array in zip(mnist.FILES[:2], (pixels, (number % 10).astype(np.uint8)), strict=True):
        write_atomically(tmp_path / "Split" / "raw" / name, idx(array))
    data_set = mnist.DataSet("Split/raw", 0.0, 1.0, (), ("", "", "", ""))
    seen: list[int] = []
    for part, count in (("train", 55_000), ("selection", 5_000)):
        inputs, targets = mnist.images(data_set, part)  # type: ignore[arg-type]
        low, high = (inputs[:, 0, 0, column].mul(255).round().long() for column in (0, 1))
        numbers = (low + 256 * high).tolist()
        assert len(numbers) == count and (targets == (low + 256 * high) % 10).all()
        seen += numbers
    assert sorted(seen) == number.tolist()
    mnist._images.cache_clear()  # 180 MB
    mnist._published.cache_clear()


def cifar_archive(names: tuple[str, ...], count: int = 10_000) -> bytes:
    batch = {b"data": np.zeros((count, 3072), np.uint8), b"labels": [1] * count}
    content = pickle.dumps(batch, 2)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for name in names:
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def cifar_web(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    archive = cifar_archive((*cifar.TRAINING_FILES, cifar.TEST_FILE, "../../outside"))
    published = Published(cifar.ARCHIVE.name, cifar.ARCHIVE.addresses, md5(archive))
    monkeypatch.setattr(cifar, "ARCHIVE", published)
    web.content = {published.addresses[0]: archive}
    return web


def test_cifar_is_fetched_and_only_its_batches_are_taken_out(cifar_web: Web, tmp_path: Path) -> None:
    inputs, targets = cifar.images("evaluation")
    assert inputs.shape == (10_000, 3, 32, 32) and targets.eq(1).all()
    expected = [-mean / deviation for mean, deviation in zip(cifar.MEAN, cifar.DEVIATION, strict=True)]
    assert inputs[0, :, 0, 0].tolist() == pytest.approx(expected)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {cifar.ARCHIVE.name, *cifar.TRAINING_FILES, cifar.TEST_FILE}
    assert not (tmp_path.parent / "outside").exists()
    cifar._images.cache_clear()


def test_a_damaged_archive_is_told(cifar_web: Web, tmp_path: Path) -> None:
    (tmp_path / cifar.ARCHIVE.name).write_bytes(b"not an archive")
    with pytest.raises(DataError, match="is damaged"):
        cifar.images("evaluation")
    (tmp_path / cifar.ARCHIVE.name).write_bytes(cifar_archive(("data_batch_1",), 1))
    with pytest.raises(DataError, match="data_batch_2.* not found"):
        cifar.images("evaluation")


def test_missing_or_damaged_weights_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    for make, name, count in (
        (cifar.resnet20, "resnet20-12fca82f.th", "269,722"),
        (cifar.resnet32, "resnet32-d509ac18.th", "464,154"),
        (cifar.resnet44, "resnet44-014dd654.th", "658,586"),
        (cifar.resnet56, "resnet56-4bfd9763.th", "853,018"),
    ):
        with pytest.raises(DataError) as caught:
            make().model()
        for part in (name, count, str(tmp_path / "weights"), "FEATHERWEIGHT_DATA"):
            assert part in str(caught.value)
    write_atomically(tmp_path / "weights" / cifar.WEIGHTS[20], b"damaged")
    with pytest.raises(DataError, match="not the published file"):
        cifar.resnet20().model()


def test_weights_of_another_depth_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    saved = io.BytesIO()
    torch.save({"state_dict": ResNetCifar(8).state_dict()}, saved)
    write_atomically(tmp_path / "weights" / cifar.WEIGHTS[32], saved.getvalue())
    with pytest.raises(DataError, match="not the published file"):
        cifar.resnet32().model()
