"""The committed files hold what the documentation says of them, and are measured again where the data is there."""

from pathlib import Path

import pytest

from featherweight import file
from featherweight.core.task import Task
from featherweight.result import dense_size, mcnemar, verify
from featherweight.tasks import data_folder, find

FOLDER = Path(__file__).resolve().parents[1] / "evidence"

LIMITS = {
    "deep-compression-lenet300": ("mnist-lenet300", 1_066_440 / 40, 1.64, True),
    "deep-compression-lenet5": ("mnist-lenet5", 1_724_320 / 39, 0.80, True),
    "lenet5-small": ("mnist-lenet5", 17_200, 0.80, False),
    "lenet300-small": ("mnist-lenet300", 5_300, 1.80, False),
    "resnet20-w4a4": ("cifar10-resnet20", 125_000, 9.0, False),
    "resnet20-w2a2": ("cifar10-resnet20", 75_000, 11.5, False),
    "resnet20-ptq-small": ("cifar10-resnet20", 64_000, 9.27, False),
    "resnet20-ptq-lossless": ("cifar10-resnet20", 84_000, 8.57, True),
    "resnet56-channels-2.57x": ("cifar10-resnet56", 1_250_000, 6.9, True),
    "resnet56-channels-3.6x": ("cifar10-resnet56", 820_000, 7.5, False),
    "resnet20-w8a8": ("cifar10-resnet20", 290_000, 8.4, True),
    "resnet20-w4a8": ("cifar10-resnet20", 125_000, 8.6, True),
}
"""File -> task, bytes at most, test error in per cent at most, and whether it must not differ from its parent."""


MACS = {"resnet56-channels-2.57x": 125_485_696 / 2.57, "resnet56-channels-3.6x": 125_485_696 / 3.6}
"""File -> multiply-accumulates at most."""


def contents_of(name: str) -> tuple[Task, file.Contents]:
    data = (FOLDER / f"{name}.fwt").read_bytes()
    task = find(LIMITS[name][0])
    return task, file.decode(data, task.architecture())


def test_every_file_is_listed() -> None:
    assert {path.stem for path in FOLDER.glob("*.fwt")} == set(LIMITS)


@pytest.mark.parametrize("name", LIMITS)
def test_size_and_claims(name: str) -> None:
    task, contents = contents_of(name)
    _, size, error, like_parent = LIMITS[name]
    claims = contents.header.claims
    assert contents.header.number == task.number
    assert (FOLDER / f"{name}.fwt").stat().st_size <= size
    assert claims is not None and claims.samples == 10_000
    assert 100 * (1 - claims.total / claims.samples) <= error + 1e-9
    assert not like_parent or mcnemar(claims) >= 0.05


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in MACS else name for name in LIMITS]
)
def test_all_besides_the_streams_is_under_64_bytes_or_two_kilobytes_with_edits_or_activations(name: str) -> None:
    """Edits, channels that stay among them, and quantizers of activations with their places, are in the header."""
    _, contents = contents_of(name)
    streams = sum(sum(file.stream_bits(code).values()) for code in contents.codes.values()) / 8
    assert contents.size - streams < (2048 if contents.header.taps or contents.header.edits else 64)


@pytest.mark.parametrize("name", LIMITS)
def test_measured_again(name: str) -> None:
    task, contents = contents_of(name)
    needed = data_folder() / ("cifar-10-batches-py" if task.name.startswith("cifar10") else "MNIST/raw")
    if not needed.is_dir():
        pytest.skip(f"{needed} is not there")
    verified = verify(FOLDER / f"{name}.fwt", task)
    assert verified.ok
    if name in MACS:
        assert verified.measured.macs <= MACS[name]
    else:
        assert verified.measured.nonzero < verified.measured.parameters
    if not contents.header.edits:
        assert verified.measured.parameters * 4 == dense_size(task.architecture())
