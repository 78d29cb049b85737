"""Tasks 1 and 13: 8x8 digits that come with scikit-learn, so that they run anywhere at once; whole, and row by row."""

from collections.abc import Callable
from functools import cache, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from featherweight.architectures.digits import DigitsLSTM, DigitsNet
from featherweight.core.task import Example, Task
from featherweight.tasks.augment import Jitter
from featherweight.tasks.data import Tensors
from featherweight.tasks.training import Baseline, baseline, cross_entropy

NAME = "digits"
Part = Literal["train", "selection", "evaluation"]
SPLIT_SEED = 0
SETTINGS = Baseline(
    epochs=100, batch_size=64, learning_rate=4e-3, weight_decay=0.05, seed=0, shift=0.5, turn=10, zoom=0.1
)
"""Chosen by threefold cross-validation on the 1,198 digits outside the evaluation part."""
LSTM = Baseline(epochs=60, batch_size=64, learning_rate=6e-3, weight_decay=0.05, seed=0, shift=0.5, turn=10, zoom=0.1)
"""The best of four on the selection part."""
MEAN, DEVIATION = 4.884, 6.017
"""Of all pixels of the 1,797 digits, whose values are 0 to 16."""


def task() -> Task:
    """Digits of Alpaydin and Kaynak (UCI, 1998; the part that scikit-learn ships) and a network of 72,842 parameters.

    The 1,797 digits are split once and for all into 998 for training, 200 for selection and 599 for evaluation, each
    class in the same proportion. All parts hold digits of the same writers. No network and no download is needed.
    """
    return _task(NAME, 1, DigitsNet, SETTINGS)


def lstm() -> Task:
    """The same digits, read row by row by a recurrent network of 52,874 parameters: a task for such networks.

    Data as for ``digits``; no network and no download is needed.
    """
    return _task(f"{NAME}-lstm", 13, DigitsLSTM, LSTM)


def _task(name: str, number: int, architecture: Callable[[], nn.Module], settings: Baseline) -> Task:
    train = partial(_train, settings)
    return Task(
        name=name,
        architecture=architecture,
        model=partial(baseline, name, architecture, train, settings),
        example=_example,
        evaluation=partial(_data, "evaluation"),
        selection=partial(_data, "selection"),
        train=train,
        calibration=partial(_data, "train"),
        loss=cross_entropy,
        number=number,
    )


@cache
def digits(part: Part) -> tuple[Tensor, Tensor]:
    """Inputs ``[n, 1, 8, 8]``, normalised, and class numbers ``[n]``.

    The digits are shuffled with a fixed seed and then ordered by class; every third one is for evaluation, and of the
    others every sixth one for selection.
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # here: it takes a second to import

    images, labels = load_digits(return_X_y=True)
    # RandomState and not default_rng: its streams are frozen for good.
    shuffled = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    rank = np.arange(len(order))
    rest = order[rank % 3 != 2]
    rank = np.arange(len(rest))
    chosen = {"evaluation": order[2::3], "selection": rest[::6], "train": rest[rank % 6 != 0]}[part]
    inputs = torch.from_numpy((images[chosen].reshape(-1, 1, 8, 8) - MEAN) / DEVIATION).float()
    return inputs, torch.from_numpy(labels[chosen]).long()


def _data(part: Part) -> Tensors:
    return Tensors(*digits(part))


def _train(settings: Baseline) -> Tensors:
    """The 998 training digits in a new order every round, each turned, zoomed and shifted a little at random."""
    jitter = Jitter(settings.turn, settings.zoom, settings.shift, background=-MEAN / DEVIATION)
    return Tensors(*digits("train"), batch_size=settings.batch_size, shuffle=True, augment=jitter)


def _example() -> Example:
    return Example((torch.zeros(1, 1, 8, 8),))
