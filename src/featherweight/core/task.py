"""A task: all that compression needs to know about a model and its data."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.core.errors import FeatherweightError, TaskError, reason_of
from featherweight.core.hooks import Seen

Batch = Any
"""``(inputs, targets)``, or inputs alone: one tensor, or a mapping of keyword arguments."""

Data = Iterable[Batch]
"""Batches that can be iterated again and again: a ``DataLoader``, a list, :class:`featherweight.tasks.data.Tensors`."""


def call(model: Callable[..., Any], batch: Batch) -> Any:
    """Run the model on a batch, or on the first part of a pair: a mapping gives keyword arguments, a tensor itself.

    ``TaskError`` where the model cannot run on it.
    """
    inputs = batch[0] if isinstance(batch, tuple | list) else batch
    try:
        return model(**inputs) if isinstance(inputs, dict) else model(inputs)
    except (Seen, FeatherweightError):
        raise
    except Exception as error:
        raise TaskError(
            f"the model cannot run on a batch of its data ({reason_of(error)}); batches are what the model takes, or "
            "pairs that begin with it"
        ) from error


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch with every tensor in it on ``device``."""
    return each_tensor(batch, lambda x: x.to(device, non_blocking=True))


def each_tensor(batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with ``function`` of every tensor in it, however it nests."""
    match batch:
        case Tensor():
            return function(batch)
        case dict():
            return {key: each_tensor(value, function) for key, value in batch.items()}
        case tuple() | list():
            return type(batch)(each_tensor(value, function) for value in batch)
        case _:
            return batch


def channels_last(batch: Batch) -> Batch:
    """The batch with all images, tensors of four dimensions, in channels-last order: the same numbers."""
    return each_tensor(batch, lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x)


def tensors_of(outputs: Any) -> list[Tensor]:
    """The floating tensors of a model's output, which may be nested."""
    match outputs:
        case Tensor():
            return [outputs] if outputs.is_floating_point() else []
        case dict():
            return [tensor for value in outputs.values() for tensor in tensors_of(value)]
        case tuple() | list():
            return [tensor for value in outputs for tensor in tensors_of(value)]
        case _:
            return []


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first tensor lies; the CPU for a model without one."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@dataclass(frozen=True)
class Example:
    """One example input of the model: what ``model(*args, **kwargs)`` takes, a batch of one or more."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def run(self, model: Callable[..., Any]) -> Any:
        return model(*self.args, **self.kwargs)


@dataclass(frozen=True)
class Quality:
    """How good outputs are: one score a sample, and what the mean of the scores is called.

    ``score(outputs, batch) -> Tensor[n]`` keeps samples apart, so that two models can be compared sample by sample.
    ``counts`` says that scores are 0 or 1, so that pairs of models can be held against each other by McNemar's test.
    ``value(mean)`` turns the mean score into the figure that people quote (percent right: ``100 * mean``).
    """

    name: str
    unit: str
    higher_is_better: bool
    score: Callable[[Any, Batch], Tensor]
    value: Callable[[float], float] = float
    counts: bool = False

    def drop(self, before: float, after: float) -> float:
        """The loss of quality, in the task's own unit; positive is worse."""
        return before - after if self.higher_is_better else after - before


def top1(outputs: Tensor, batch: Batch) -> Tensor:
    """1.0 where the largest logit is the target's. Ties and NaN count as wrong for all but the first index."""
    right: Tensor = outputs.argmax(dim=1) == batch[1]
    return right.float()


def percent(mean: float) -> float:
    return 100.0 * mean


ACCURACY = Quality("accuracy", "%", True, top1, percent, counts=True)


@dataclass(frozen=True)
class Task:
    """Model, data, loss and quality.

    name          what files and reports call it
    architecture  builds the module of the right class and shapes, in any state: files load onto it; needs no data
    model         the trained module that is to be compressed
    example       an example input
    evaluation    the data of the report; nothing is chosen on it
    selection     held-out data that the model has not seen: choices are made on it
    train         training data; ``None`` allows only what needs no training
    calibration   inputs for metrics and ranges; ``None`` takes ``train``
    loss          ``loss(outputs, batch) -> scalar``
    evaluate      ``evaluate(model) -> float`` in place of ``evaluation`` and ``selection``, higher is better
    chosen        a bool mask ``[samples]`` over the samples of ``evaluation``, in their order: true where ``selection``
                  shares the sample. Reports then give the quality on the rest, the honest figure, and on all, for
                  comparison with the literature; ``None`` where selection and evaluation share nothing
    unseen        whether the model has never seen ``evaluation`` and ``selection``; where it has, reports warn
    number        identifies a built-in task in a file; ``None`` for a user's
    source        where a user's task came from, ``file.py:function``

    Data are given as functions without arguments, so that a task is cheap to build and data is read when it is used.
    """

    name: str
    architecture: Callable[[], nn.Module]
    model: Callable[[], nn.Module]
    example: Callable[[], Example]
    evaluation: Callable[[], Data] | None = None
    selection: Callable[[], Data] | None = None
    train: Callable[[], Data] | None = None
    calibration: Callable[[], Data] | None = None
    loss: Callable[[Any, Batch], Tensor] | None = None
    quality: Quality = ACCURACY
    evaluate: Callable[[nn.Module], float] | None = None
    chosen: Callable[[], Tensor] | None = None
    unseen: bool = True
    number: int | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        for name in ("architecture", "model", "example"):
            given = getattr(self, name)
            if not callable(given) or isinstance(given, nn.Module):
                raise TaskError(f"task {self.name!r}: `{name}` must be a function without arguments that builds it")
        if self.train is not None and self.loss is None:
            raise TaskError(f"task {self.name!r} has training data but no `loss`; give loss(outputs, batch) -> scalar")

    def calibration_data(self) -> Data:
        source = self.calibration or self.train
        if source is None:
            raise TaskError(f"task {self.name!r} has neither calibration nor training data; give one of them")
        return source()


def calibration_batches(model: nn.Module, task: Task, count: int) -> Iterator[Batch]:
    """The first ``count`` batches to calibrate with, on the model's device; ``TaskError`` where there is none."""
    found = 0
    for batch in islice(iter(task.calibration_data()), count):
        found += 1
        yield moved(batch, device_of(model))
    if not found:
        raise TaskError(f"the calibration data of task {task.name!r} holds no batch")


@torch.no_grad()
def order_for(task: Task, *models: nn.Module) -> Callable[[Batch], Batch]:
    """What gives a batch in the order of memory that these models are fastest in: :func:`channels_last`, or as it is.

    Steps of training take about nine tenths of the time with channels last on CPUs. But a model may take images in
    the usual order alone (``x.view(-1, 400)`` of maps is an error in the other), and what it gives may be a map
    itself, whose order others rely on: each runs on the task's example once, before anything watches it.
    """
    example = task.example()
    inputs = (*example.args, *example.kwargs.values())
    if not any(isinstance(x, Tensor) and x.ndim == 4 for x in inputs):
        return _as_it_is
    for model in models:
        there = channels_last(moved((example.args, example.kwargs), device_of(model)))
        try:
            with evaluating(model):
                outputs = model(*there[0], **there[1])
        except Exception:  # whatever it is, a model that cannot run at all says so where it is run
            return _as_it_is
        if not all(x.is_contiguous() for x in tensors_of(outputs)):
            return _as_it_is
    return channels_last


def _as_it_is(batch: Batch) -> Batch:
    return batch


@torch.no_grad()
def scores(model: nn.Module, data: Data, quality: Quality) -> Tensor:
    """One score a sample, in the order of ``data``; the model's training mode is put back afterwards."""
    device, parts = device_of(model), []
    with evaluating(model):
        for batch in data:
            there = moved(batch, device)
            parts.append(quality.score(call(model, there), there).detach().cpu())
    if not parts:
        raise TaskError("the data holds no batch, so there is nothing to measure")
    return torch.cat(parts)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, every module put back to its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def measure(model: nn.Module, data: Data, quality: Quality) -> float:
    """The model's quality on ``data``, in the task's own unit."""
    return quality.value(scores(model, data, quality).double().mean().item())
