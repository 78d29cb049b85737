"""Tasks 11 and 12: models of the characters of tiny Shakespeare, a recurrent one and a transformer."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.architectures.characters import CharacterLSTM, CharacterTransformer
from featherweight.core.errors import DataError
from featherweight.core.task import Batch, Example, Quality, Task
from featherweight.tasks.data import Tensors, data_folder
from featherweight.tasks.text import shakespeare
from featherweight.tasks.training import Baseline, baseline

KINDS = 65
CONTEXT = 128
"""Characters of a window: each is judged with the ones before it in its window, and no others."""
CALIBRATION = 512
"""Windows, the first ones of the training part."""

LSTM = Baseline(epochs=20, batch_size=32, learning_rate=2e-3, weight_decay=0.01, seed=0, shift=0)
TRANSFORMER = Baseline(epochs=12, batch_size=32, learning_rate=1e-3, weight_decay=0.1, seed=0, shift=0)

Part = Literal["train", "selection", "evaluation"]


def _bits(outputs: Tensor, batch: Batch) -> Tensor:
    """The mean of ``-log2 p(character)`` over each window: ``[n]``."""
    nats = F.cross_entropy(outputs.flatten(0, 1), batch[1].flatten(), reduction="none")
    return nats.view(batch[1].shape).mean(dim=1) / math.log(2)


def loss(outputs: Tensor, batch: Batch) -> Tensor:
    """The mean cross entropy of logits ``[n, t, kinds]`` and characters ``[n, t]``, in nats."""
    return F.cross_entropy(outputs.flatten(0, 1), batch[1].flatten())


BITS = Quality("cross entropy", "bits per character", False, _bits)


def lstm() -> Task:
    """LSTM of two layers that predicts the next character of tiny Shakespeare.

    Trained on the first 85 % of the text, on windows of 128 characters that begin with an empty memory; 5 % are for
    selection, and the last 10 % for evaluation. The model is trained on first use and kept in the data folder.
    """
    return _task("shakespeare-lstm", 11, CharacterLSTM, LSTM)


def transformer() -> Task:
    """Transformer of twelve layers that predicts the next character of tiny Shakespeare.

    Data as for the LSTM. The model is trained on first use, in less than an hour on two cores, and kept in the data
    folder.
    """
    return _task("shakespeare-transformer", 12, CharacterTransformer, TRANSFORMER)


def _task(name: str, number: int, architecture: Callable[[], nn.Module], settings: Baseline) -> Task:
    train = partial(training_data, settings.batch_size)
    return Task(
        name=name,
        architecture=architecture,
        model=partial(baseline, name, architecture, train, settings, loss),
        example=_example,
        evaluation=partial(plain_data, "evaluation"),
        selection=partial(plain_data, "selection"),
        train=train,
        calibration=partial(plain_data, "train", CALIBRATION),
        loss=loss,
        quality=BITS,
        number=number,
    )


@dataclass(frozen=True, eq=False)
class Windows:
    """A text as batches ``(characters [n, length], characters behind them [n, length])``, again and again.

    Windows follow each other without a gap; what does not fill one is left out. With ``shuffle`` they come in a new
    order in every round, and begin at another place, both drawn from torch's global generator.
    """

    characters: Tensor
    length: int
    batch_size: int
    shuffle: bool = False

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise DataError(f"a text of {len(self.characters)} characters has no window of {self.length}; give more")

    @property
    def windows(self) -> int:
        """In a round: with ``shuffle``, so many wherever the first one begins."""
        return (len(self.characters) - (self.length if self.shuffle else 1)) // self.length

    def __len__(self) -> int:
        """Batches in a round."""
        return -(-self.windows // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        start = int(torch.randint(self.length, ())) if self.shuffle else 0
        end = start + self.windows * self.length
        inputs = self.characters[start:end].view(self.windows, self.length)
        targets = self.characters[start + 1 : end + 1].view(self.windows, self.length)
        return iter(Tensors(inputs, targets, self.batch_size, self.shuffle))


def training_data(batch_size: int) -> Windows:
    """The training part, other windows in every round."""
    return Windows(characters("train"), CONTEXT, batch_size, shuffle=True)


def plain_data(part: Part, windows: int | None = None) -> Windows:
    """The first ``windows`` of a part, or all, in the order of the text."""
    end = None if windows is None else windows * CONTEXT + 1
    return Windows(characters(part)[:end], CONTEXT, batch_size=64)


def characters(part: Part) -> Tensor:
    """The numbers 0 to 64 of a part's characters, in the order of their codes; read once a process."""
    every = _characters(data_folder())
    selection, evaluation = len(every) * 17 // 20, len(every) * 9 // 10
    bounds = {"train": (0, selection), "selection": (selection, evaluation), "evaluation": (evaluation, len(every))}
    first, last = bounds[part]
    return every[first:last]


@cache
def _characters(folder: Path) -> Tensor:
    codes = np.frombuffer(shakespeare().encode("ascii"), np.uint8)
    kinds, numbers = np.unique(codes, return_inverse=True)
    if len(kinds) != KINDS:
        raise DataError(f"the text in {folder} has {len(kinds)} kinds of characters, not {KINDS}: it is another one")
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


def _example() -> Example:
    return Example((torch.zeros(1, CONTEXT, dtype=torch.int64),))
