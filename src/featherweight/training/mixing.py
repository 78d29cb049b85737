"""Batches of few samples, mixed anew."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from featherweight.core.errors import TaskError
from featherweight.core.task import Batch, Data, each_tensor


@dataclass(frozen=True, eq=False)
class Mixed:
    """The samples of ``data``, held in memory and handed out ``batch`` at a time in a new random order every round.

    Samples are the first dimension of every tensor of a batch. Batches of which no tensor can be joined with those of
    another, as when sequences have different lengths, stay as they are and only change their order. Orders draw from
    torch's global generator.
    """

    data: Data
    batch: int

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise TaskError(f"a batch of {self.batch} samples; give 1 or more")

    def __len__(self) -> int:
        parts = self._parts()
        return -(-_samples(parts[0]) // self.batch) if len(parts) == 1 else len(parts)

    def __iter__(self) -> Iterator[Batch]:
        parts = self._parts()
        if len(parts) != 1:
            yield from (parts[i] for i in torch.randperm(len(parts)).tolist())
            return
        for chosen in torch.randperm(_samples(parts[0])).split(self.batch):  # type: ignore[no-untyped-call]
            yield each_tensor(parts[0], partial(_taken, chosen=chosen))

    def _parts(self) -> list[Batch]:
        """All batches as one, where they can be joined."""
        batches = list(self.data)
        return batches if not batches or not _joinable(batches) else [_joined(batches)]


def _tensors(batch: Batch) -> list[Tensor]:
    match batch:
        case Tensor():
            return [batch]
        case dict():
            return [x for key in sorted(batch, key=str) for x in _tensors(batch[key])]
        case tuple() | list():
            return [x for each in batch for x in _tensors(each)]
        case _:
            return []


def _taken(x: Tensor, chosen: Tensor) -> Tensor:
    return x[chosen.to(x.device)]


def _samples(batch: Batch) -> int:
    return len(_tensors(batch)[0])


def _joinable(batches: list[Batch]) -> bool:
    each = [_tensors(batch) for batch in batches]
    if not each[0] or any(x.ndim == 0 for tensors in each for x in tensors):
        return False
    alike = all([x.shape[1:] for x in tensors] == [x.shape[1:] for x in each[0]] for tensors in each)
    return alike and all(len({len(x) for x in tensors}) == 1 for tensors in each)


def _joined(batches: list[Batch]) -> Batch:
    first = batches[0]
    match first:
        case Tensor():
            return torch.cat(batches)
        case dict():
            return {key: _joined([batch[key] for batch in batches]) for key in first}
        case tuple() | list():
            return type(first)(_joined([batch[i] for batch in batches]) for i in range(len(first)))
        case _:
            return first
