"""Tasks 5 to 8: the published ResNet-20, 32, 44 and 56 on CIFAR-10."""

import io
import tarfile
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.architectures.resnet_cifar import ResNetCifar
from featherweight.core.errors import DataError
from featherweight.core.task import Example, Task
from featherweight.tasks.augment import Shift, ShiftAndFlip
from featherweight.tasks.batches import read_batch
from featherweight.tasks.data import VARIABLE, Tensors, data_folder
from featherweight.tasks.download import Published, fetch, write_atomically
from featherweight.tasks.training import cross_entropy

FOLDER = "cifar-10-batches-py"
WEIGHTS = {
    20: "resnet20-12fca82f.th",
    32: "resnet32-d509ac18.th",
    44: "resnet44-014dd654.th",
    56: "resnet56-4bfd9763.th",
}
"""Depth -> file in the folder ``weights`` of the data folder."""
ARCHIVE = Published(
    "cifar-10-python.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
    "c58f30108f718f92721af3b95e74349a",
)
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""By channel: inputs are ``(pixel / 255 - MEAN) / DEVIATION``, as the published weights expect."""

TRAINING_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILE = "test_batch"
SELECTION = 2_000
"""Of the 10,000 test images, drawn with a fixed seed: the published weights have seen every training image."""
SELECTION_SEED = 0
CALIBRATION = 2_048
"""Training images, the first ones as they are, from which ranges and metrics are taken."""
BATCH_SIZE = 128

Part = Literal["train", "calibration", "selection", "evaluation"]


def resnet20() -> Task:
    """ResNet-20 of 269,722 parameters on CIFAR-10, 91.73 % right on the 10,000 test images.

    The published weights were trained on all 50,000 training images, so these can train and calibrate, and tell nothing
    of new images. Choices are made on 2,000 of the test images; figures are given on the other 8,000, which decide
    nothing, and on all 10,000, as the literature has them.
    """
    return _task(20, 5)


def resnet32() -> Task:
    """ResNet-32 of 464,154 parameters on CIFAR-10; weights and images as for ResNet-20."""
    return _task(32, 6)


def resnet44() -> Task:
    """ResNet-44 of 658,586 parameters on CIFAR-10; weights and images as for ResNet-20."""
    return _task(44, 7)


def resnet56() -> Task:
    """ResNet-56 of 853,018 parameters on CIFAR-10, 93.39 % right on the 10,000 test images.

    Weights and images as for ResNet-20.
    """
    return _task(56, 8)


def _task(depth: int, number: int) -> Task:
    return Task(
        name=f"cifar10-resnet{depth}",
        architecture=partial(ResNetCifar, depth),
        model=partial(published_model, depth),
        example=_example,
        evaluation=partial(plain_data, "evaluation"),
        selection=partial(plain_data, "selection"),
        train=training_data,
        calibration=partial(plain_data, "calibration"),
        loss=cross_entropy,
        chosen=chosen,
        number=number,
    )


def published_model(depth: int) -> nn.Module:
    """The ResNet of this depth with the published weights, on the default device and in evaluation mode."""
    path = data_folder() / "weights" / WEIGHTS[depth]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = ResNetCifar(depth)
        _load(model, path, depth)
    return model.to(torch.get_default_device()).eval()


def training_data() -> Tensors:
    """The 50,000 training images in a new order every round, padded by 4, cropped and mirrored at random."""
    inputs, targets = images("train")
    black = tuple(-mean / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True))
    return Tensors(inputs, targets, BATCH_SIZE, shuffle=True, augment=ShiftAndFlip(Shift(4, black)))


def plain_data(part: Part) -> Tensors:
    """The images of a part as they are, in the order of the files."""
    return Tensors(*images(part), batch_size=500)


def chosen() -> Tensor:
    """``[10000]``, true at the test images that selection is made on."""
    # RandomState and not default_rng: its streams are frozen for good.
    order = np.random.RandomState(SELECTION_SEED).permutation(10_000)
    mask = torch.zeros(10_000, dtype=torch.bool, device="cpu")
    mask[torch.from_numpy(order[:SELECTION])] = True
    return mask


def images(part: Part) -> tuple[Tensor, Tensor]:
    """Inputs ``[n, 3, 32, 32]``, normalised, and class numbers ``[n]``; read once a process: do not write to them.

    Which images are for selection goes by their place in the file, and so does the order.
    """
    folder = data_folder() / FOLDER
    match part:
        case "train":
            return _images(TRAINING_FILES, folder)
        case "calibration":  # of the first file: no need to read the others
            inputs, targets = _images(TRAINING_FILES[:1], folder)
            return inputs[:CALIBRATION], targets[:CALIBRATION]
        case "selection":
            inputs, targets = _images((TEST_FILE,), folder)
            return inputs[chosen()], targets[chosen()]
        case "evaluation":
            return _images((TEST_FILE,), folder)


@cache
def _images(names: tuple[str, ...], folder: Path) -> tuple[Tensor, Tensor]:
    _fetch_missing(folder)
    batches = [_batch(folder / name) for name in names]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    inputs = torch.tensor(pixels, dtype=torch.float32, device="cpu").div_(255)
    inputs.sub_(_channels(MEAN)).div_(_channels(DEVIATION))
    return inputs, torch.tensor(labels, device="cpu")


def _batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pixels, labels = read_batch(path)
    if len(labels) != 10_000:
        raise DataError(
            f"{path} holds {len(labels)} images, not 10,000. Delete its folder and it will be fetched again"
        )
    return pixels, labels


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, device="cpu").view(-1, 1, 1)


def _fetch_missing(folder: Path) -> None:
    """Fetch the archive and take the batches out of it, if any of them is missing."""
    names = (*TRAINING_FILES, TEST_FILE)
    if all((folder / name).exists() for name in names):
        return
    archive = folder.parent / ARCHIVE.name
    if not archive.exists():
        fetch(ARCHIVE, folder.parent)
    try:
        with tarfile.open(archive) as tar:
            for name in names:
                # Never extractall: only these members, and where they go is decided here.
                member = tar.extractfile(f"{FOLDER}/{name}") or io.BytesIO()
                write_atomically(folder / name, member.read())
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        raise DataError(f"{archive} is damaged ({error}). Delete it and it will be fetched again") from error


def _load(model: nn.Module, path: Path, depth: int) -> None:
    if not path.exists():
        count = sum(parameter.numel() for parameter in model.parameters())
        raise DataError(
            f"the published weights {path.name} are not in {path.parent}. Put the file there, or set {VARIABLE} to the "
            f"folder that has it in `weights`; it is the CIFAR-10 ResNet-{depth} of {count:,} parameters with option A "
            "shortcuts, a state dict whose names begin with `module.`"
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    except Exception as error:  # torch.load raises many kinds for damaged files
        raise DataError(f"{path} is not the published file ({type(error).__name__}: {error})") from error


def _example() -> Example:
    return Example((torch.zeros(1, 3, 32, 32),))
