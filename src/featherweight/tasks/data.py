"""Where data lies, and batches of tensors."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from featherweight.core.errors import DataError

VARIABLE = "FEATHERWEIGHT_DATA"
"""The environment variable that names the data folder."""


def cache_folder() -> Path:
    """The user's folder for what programs can fetch or compute again, in the usual place of the platform."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def data_folder() -> Path:
    """The folder of data sets, published weights and trained baselines; it need not exist.

    ``FEATHERWEIGHT_DATA`` where it is set; otherwise ``featherweight`` in the user's cache folder.
    """
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else cache_folder() / "featherweight"


@dataclass(frozen=True, eq=False)
class Tensors:
    """A data set in memory: batches ``(inputs, targets)``, again and again.

    inputs      [samples, ...]
    targets     [samples], or any shape with as many rows
    batch_size  samples in a batch; the last batch of a round has the rest
    shuffle     a new order in every round
    augment     applied to each batch of inputs

    Order and augmentation draw from torch's global generator, so that the seed of the training loop decides both.
    """

    inputs: Tensor
    targets: Tensor
    batch_size: int = 256
    shuffle: bool = False
    augment: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise DataError(f"{len(self.inputs)} inputs but {len(self.targets)} targets; each sample has one of both")
        if self.batch_size < 1:
            raise DataError(f"a batch of {self.batch_size} samples; give a batch size of 1 or more")

    @property
    def samples(self) -> int:
        return len(self.inputs)

    def __len__(self) -> int:
        """Batches in a round."""
        return -(-self.samples // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(self.samples, device=self.inputs.device) if self.shuffle else None
        for start in range(0, self.samples, self.batch_size):
            end = start + self.batch_size
            chosen = slice(start, end) if order is None else order[start:end]
            inputs = self.inputs[chosen]
            yield (inputs if self.augment is None else self.augment(inputs)), self.targets[chosen]
