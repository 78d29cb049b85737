"""Tasks 2 to 4: LeNet-300-100 and LeNet-5 on MNIST, LeNet-5 on Fashion-MNIST."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.architectures.lenet import LeNet5, LeNet300
from featherweight.core.errors import DataError
from featherweight.core.task import Example, Task
from featherweight.tasks.augment import Shift
from featherweight.tasks.data import Tensors, data_folder
from featherweight.tasks.download import Published, fetch
from featherweight.tasks.idx import read_idx
from featherweight.tasks.training import Baseline, baseline, cross_entropy

Part = Literal["train", "selection", "evaluation"]
SELECTION = 5_000
"""Of the 60,000 training images, drawn with a fixed seed; the other 55,000 are for training."""
SPLIT_SEED = 0
CALIBRATION = 2_048
"""Training images, as they are, from which ranges and metrics are taken."""


@dataclass(frozen=True)
class DataSet:
    """A data set in MNIST's format: 60,000 + 10,000 grey images of 28 x 28 pixels in ten classes.

    inside           where the files are in the data folder
    mean, deviation  of all training pixels, scaled to 0 ... 1; inputs are ``(pixel / 255 - mean) / deviation``
    addresses        folders at the publishers
    md5              of the gzipped files: training images and labels, test images and labels
    """

    inside: str
    mean: float
    deviation: float
    addresses: tuple[str, ...]
    md5: tuple[str, str, str, str]


MNIST = DataSet(
    inside="MNIST/raw",
    mean=0.1307,
    deviation=0.3081,
    addresses=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    md5=(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)
"""LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998."""

FASHION = DataSet(
    inside="FashionMNIST/raw",
    mean=0.2860,
    deviation=0.3530,
    addresses=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    md5=(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
)
"""Xiao, Rasul, Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", 2017."""

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

LENET300 = Baseline(epochs=40, batch_size=128, learning_rate=1.5e-3, weight_decay=0.01, seed=0, shift=1)
LENET5 = Baseline(epochs=20, batch_size=128, learning_rate=1e-3, weight_decay=0.05, seed=0, shift=2)
FASHION_LENET5 = Baseline(epochs=12, batch_size=128, learning_rate=1e-3, weight_decay=0.05, seed=0, shift=1)


def mnist_lenet300() -> Task:
    """LeNet-300-100 on MNIST, trained with shifts of up to one pixel."""
    return _task("mnist-lenet300", 2, LeNet300, MNIST, LENET300)


def mnist_lenet5() -> Task:
    """LeNet-5 on MNIST, trained with shifts of up to two pixels."""
    return _task("mnist-lenet5", 3, LeNet5, MNIST, LENET5)


def fashion_lenet5() -> Task:
    """LeNet-5 on Fashion-MNIST, trained with shifts of up to one pixel."""
    return _task("fashion-lenet5", 4, LeNet5, FASHION, FASHION_LENET5)


def _task(name: str, number: int, architecture: Callable[[], nn.Module], data_set: DataSet, settings: Baseline) -> Task:
    train = partial(training_data, data_set, settings)
    return Task(
        name=name,
        architecture=architecture,
        model=partial(baseline, name, architecture, train, settings),
        example=_example,
        evaluation=partial(plain_data, data_set, "evaluation"),
        selection=partial(plain_data, data_set, "selection"),
        train=train,
        calibration=partial(plain_data, data_set, "train", CALIBRATION),
        loss=cross_entropy,
        number=number,
    )


def training_data(data_set: DataSet, settings: Baseline) -> Tensors:
    """The 55,000 training images in a new order every round, each shifted at random."""
    shift = Shift(int(settings.shift), (-data_set.mean / data_set.deviation,))
    inputs, targets = images(data_set, "train")
    return Tensors(inputs, targets, settings.batch_size, shuffle=True, augment=shift)


def plain_data(data_set: DataSet, part: Part, count: int | None = None) -> Tensors:
    """The first ``count`` images of a part, or all, as they are and in a fixed order."""
    inputs, targets = images(data_set, part)
    return Tensors(inputs[:count], targets[:count], batch_size=1_000)


def images(data_set: DataSet, part: Part) -> tuple[Tensor, Tensor]:
    """Inputs ``[n, 1, 28, 28]``, normalised, and class numbers ``[n]``; read once a process: do not write to them."""
    return _images(data_set, part, data_folder())


@cache
def _images(data_set: DataSet, part: Part, root: Path) -> tuple[Tensor, Tensor]:
    pixels, labels = _published(data_set, part == "evaluation", root)
    if part != "evaluation":
        # RandomState and not default_rng: its streams are frozen for good.
        order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
        chosen = order[:SELECTION] if part == "selection" else order[SELECTION:]
        pixels, labels = pixels[chosen], labels[chosen]
    inputs = torch.tensor(pixels, dtype=torch.float32, device="cpu").unsqueeze(1)
    inputs.div_(255).sub_(data_set.mean).div_(data_set.deviation)
    return inputs, torch.tensor(labels, dtype=torch.int64, device="cpu")


@cache
def _published(data_set: DataSet, test: bool, root: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels ``[n, 28, 28]`` and labels ``[n]`` as published, checked against each other."""
    first = 2 if test else 0
    pixels = read_idx(_file(data_set, first, root), 3)
    labels = read_idx(_file(data_set, first + 1, root), 1)
    count = 10_000 if test else 60_000
    if pixels.shape != (count, 28, 28) or labels.shape != (count,) or labels.max() > 9:
        raise DataError(
            f"{root / data_set.inside}: {FILES[first]} {pixels.shape} and {FILES[first + 1]} {labels.shape} are not "
            f"the published {count} images of 28 x 28 pixels with labels 0 to 9. Delete them to have them fetched again"
        )
    return pixels, labels


def _file(data_set: DataSet, index: int, root: Path) -> Path:
    """Where the file is, gzipped or not; fetched if it is missing."""
    name = FILES[index]
    for path in (root / data_set.inside / name, root / data_set.inside / f"{name}.gz"):
        if path.exists():
            return path
    addresses = tuple(f"{address}{name}.gz" for address in data_set.addresses)
    return fetch(Published(f"{name}.gz", addresses, data_set.md5[index]), root, data_set.inside)


def _example() -> Example:
    return Example((torch.zeros(1, 1, 28, 28),))
