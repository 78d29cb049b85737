"""Learning in several processes, each with its part of every batch (``torchrun``).

Where the caller has begun a process group (``torch.distributed.init_process_group``), every process runs the same
recipe. The first decides on changes of structure and writes checkpoints; in the training loop each takes its own
samples of every batch, and gradients are averaged before every step, so that the students stay equal. Batch
normalisation sees a process's own part, and running statistics are averaged after every epoch. Without a group nothing
here does anything.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from featherweight.core.errors import TaskError
from featherweight.core.task import Batch, each_tensor

T = TypeVar("T")


def processes() -> int:
    """How many processes learn together; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first() -> bool:
    """Whether this process is the one that writes files; it is without a group."""
    return processes() == 1 or dist.get_rank() == 0


def from_first(decide: Callable[[], T]) -> T:
    """What the first process decides, for all: measured times, say, differ from process to process."""
    if processes() == 1:
        return decide()
    told = [decide() if first() else None]
    dist.broadcast_object_list(told, src=0)
    return cast(T, told[0])


def part(batch: Batch) -> tuple[Batch, float]:
    """This process's samples of a batch, and their number beside an equal share: what its loss is multiplied by.

    Samples lie in the first dimension of the batch's first tensor, and of all others that are as long.
    """
    count = processes()
    if count == 1:
        return batch, 1.0
    samples = _samples(batch)
    if samples < count:
        raise TaskError(f"a batch of {samples} samples for {count} processes; give larger batches or fewer processes")
    mine = torch.arange(samples).tensor_split(count)[dist.get_rank()]
    start, end = int(mine[0]), int(mine[-1]) + 1

    def cut(x: Tensor) -> Tensor:
        return x[start:end] if x.ndim and len(x) == samples else x

    return each_tensor(batch, cut), len(mine) * count / samples


def _samples(batch: Batch) -> int:
    lengths: list[int] = []

    def note(x: Tensor) -> Tensor:
        lengths.append(len(x) if x.ndim else 0)
        return x

    each_tensor(batch, note)
    if not lengths:
        raise TaskError("a batch without tensors cannot be parted between processes; learn in one process")
    return lengths[0]


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Put the mean over all processes into every gradient."""
    if processes() > 1:
        _average([p.grad for p in parameters if p.grad is not None])


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Put the mean over all processes into every floating buffer: running statistics of parts of the batches."""
    if processes() > 1:
        _average([buffer for buffer in model.buffers() if buffer.is_floating_point()])


@torch.no_grad()
def agree(model: nn.Module) -> None:
    """Give every process the first one's parameters and buffers."""
    if processes() > 1:
        for tensor in chain(model.parameters(), model.buffers()):
            dist.broadcast(tensor.data, src=0)


def _average(tensors: list[Tensor]) -> None:
    """One sum of all tensors laid end to end: many small ones would each wait for the slowest process."""
    if not tensors:
        return
    whole = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(whole)
    whole /= processes()
    for tensor, mean in zip(tensors, torch.split(whole, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view(tensor.shape))
