"""Task 5, ``cifar10-resnet20``: a published ResNet-20 on CIFAR-10."""

import io
import tarfile
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from featherweight.architectures.resnet_cifar import ResNetCifar
from featherweight.core.errors import DataError
from featherweight.core.task import Example, Task
from featherweight.tasks.augment import Shift, ShiftAndFlip
from featherweight.tasks.batches import read_batch
from featherweight.tasks.data import VARIABLE, Tensors, data_folder
from featherweight.tasks.download import Published, fetch, write_atomically
from featherweight.tasks.training import cross_entropy

NAME = "cifar10-resnet20"
FOLDER = "cifar-10-batches-py"
WEIGHTS = "resnet20-12fca82f.th"
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
SELECTION = 5_000
"""Of the 50,000 training images, drawn with a fixed seed; the other 45,000 are for training."""
SPLIT_SEED = 0
CALIBRATION = 2_048
"""Training images, as they are, from which ranges and metrics are taken."""
BATCH_SIZE = 128

Part = Literal["train", "selection", "evaluation"]


def task() -> Task:
    """ResNet-20 of 269,722 parameters, 91.73 % right on the 10,000 test images.

    The weights are those of ``weights/resnet20-12fca82f.th`` in the data folder. They were trained on all 50,000
    training images, and so have seen the 5,000 that are kept for selection: accuracy on these is too high by several
    percent, and differences there are smaller than on new images. The test images are unseen.
    """
    return Task(
        name=NAME,
        architecture=partial(ResNetCifar, 20),
        model=published_model,
        example=_example,
        evaluation=partial(plain_data, "evaluation"),
        selection=partial(plain_data, "selection"),
        train=training_data,
        calibration=partial(plain_data, "train", CALIBRATION),
        loss=cross_entropy,
        number=5,
    )


def published_model() -> nn.Module:
    """ResNet-20 with the published weights, on the default device and in evaluation mode."""
    path = data_folder() / "weights" / WEIGHTS
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = ResNetCifar(20)
        model.load_state_dict(_state(path))
    return model.to(torch.get_default_device()).eval()


def training_data() -> Tensors:
    """The 45,000 training images in a new order every round, padded by 4, cropped and mirrored at random."""
    inputs, targets = images("train")
    black = tuple(-mean / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True))
    return Tensors(inputs, targets, BATCH_SIZE, shuffle=True, augment=ShiftAndFlip(Shift(4, black)))


def plain_data(part: Part, count: int | None = None) -> Tensors:
    """The first ``count`` images of a part, or all, as they are and in a fixed order."""
    inputs, targets = images(part)
    return Tensors(inputs[:count], targets[:count], batch_size=500)


def images(part: Part) -> tuple[Tensor, Tensor]:
    """Inputs ``[n, 3, 32, 32]``, normalised, and class numbers ``[n]``; read once a process: do not write to them.

    Which images are for selection goes by their place in the files.
    """
    return _images(part, data_folder() / FOLDER)


@cache
def _images(part: Part, folder: Path) -> tuple[Tensor, Tensor]:
    _fetch_missing(folder)
    names = (TEST_FILE,) if part == "evaluation" else TRAINING_FILES
    batches = [read_batch(folder / name) for name in names]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    if len(labels) != 10_000 * len(names):
        raise DataError(f"{folder}: {', '.join(names)} hold {len(labels)} images, not {10_000 * len(names)}")
    if part != "evaluation":
        # RandomState and not default_rng: its streams are frozen for good.
        order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
        chosen = order[:SELECTION] if part == "selection" else order[SELECTION:]
        pixels, labels = pixels[chosen], labels[chosen]
    inputs = torch.tensor(pixels, dtype=torch.float32, device="cpu").div_(255)
    inputs.sub_(_channels(MEAN)).div_(_channels(DEVIATION))
    return inputs, torch.tensor(labels, device="cpu")


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


def _state(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise DataError(
            f"the published weights {WEIGHTS} are not in {path.parent}. Put the file there, or set {VARIABLE} to the "
            "folder that has it in `weights`; it is the CIFAR-10 ResNet-20 of 269,722 parameters with option A "
            "shortcuts, a state dict whose names begin with `module.`"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    except Exception as error:  # torch.load raises many kinds for damaged files
        raise DataError(f"{path} is not the published file ({type(error).__name__}: {error})") from error


def _example() -> Example:
    return Example((torch.zeros(1, 3, 32, 32),))
