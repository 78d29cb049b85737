"""Scores of channels from what is read of them: means, zeros, second moments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.channels.gates import Gates, Port, changed, channels_behind
from featherweight.channels.scores import Groups, LabelScore
from featherweight.channels.slices import Slices, owner, read_by, single
from featherweight.core.compressed import Compressed
from featherweight.core.errors import TaskError
from featherweight.core.hooks import hooked
from featherweight.core.task import Task, calibration_batches, call, evaluating
from featherweight.graph.labels import Labels

See = Callable[[Port, Tensor], None]
"""Takes a port and what stands there, [rows, m]: one column for each of the port's channels."""


@torch.no_grad()
def watch(gates: Gates, task: Task, count: int, see: See) -> None:
    """Run ``count`` calibration batches, and show ``see`` what every port takes in."""

    def shown(port: Port, x: Tensor) -> Tensor:
        see(port, columns(port, x))
        return x

    with evaluating(gates.student), changed(gates.ports, shown):
        for batch in calibration_batches(gates.student, task, count):
            call(gates.student, batch)


def columns(port: Port, x: Tensor) -> Tensor:
    """[rows, m]: the port's channels of a layer's input, a row for each sample and position."""
    return channels_behind(port.layer, x).flatten(0, -2)[:, port.channels.to(x.device)]


class Means:
    """The mean of a function of each gate's activations, over samples, positions and readers."""

    def __init__(self, gates: Gates, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.total = torch.zeros(gates.count, dtype=torch.float64)
        self.count = torch.zeros(gates.count, dtype=torch.float64)

    def see(self, port: Port, x: Tensor) -> None:
        self.total.index_add_(0, port.gates, self.function(x).double().sum(0).cpu())
        self.count.index_add_(0, port.gates, torch.full((len(port.gates),), float(len(x)), dtype=torch.float64))

    def means(self) -> Tensor:
        if not bool((self.count > 0).all()):
            raise TaskError("no calibration input reached a layer that reads channels; give data that uses it")
        return self.total / self.count


@dataclass(frozen=True)
class _MeanOf(LabelScore):
    batches: int = 4

    def scores(self, student: Compressed, labels: Labels, groups: Groups, task: Task) -> list[Tensor | None]:
        gates = Gates(student, labels, groups)
        means = Means(gates, self.function)
        watch(gates, task, self.batches, means.see)
        return gates.split(means.means()) if gates.count else [None for _ in groups]

    def function(self, x: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class ActivationMean(_MeanOf):
    """``E |z|`` of what is read of a channel: its mean activation, behind rectifiers.

    Molchanov et al. 2017, arXiv 1611.06440, section 2.2.
    """

    def function(self, x: Tensor) -> Tensor:
        return x.abs()


@dataclass(frozen=True)
class NonZeros(_MeanOf):
    """``1 − APoZ``: the share of what is read of a channel that is not zero (Hu et al. 2016, arXiv 1607.03250)."""

    def function(self, x: Tensor) -> Tensor:
        return (x != 0).double()


@dataclass(frozen=True, eq=False)
class Moments:
    """Of a group's channels, as one layer reads them: mean [labels] and covariance [labels, labels], in float64."""

    mean: Tensor
    covariance: Tensor

    @property
    def deviation(self) -> Tensor:
        """[labels]; 0 where the variance is rounding noise."""
        variance = self.covariance.diagonal()
        return torch.where(variance > 1e-10 * (variance + self.mean.square()), variance, 0.0).sqrt()

    @property
    def correlation(self) -> Tensor:
        """[labels, labels], with 0 where a channel never changes."""
        spread = self.deviation[:, None] * self.deviation
        return torch.where(spread > 0, self.covariance / spread.clamp(min=1e-300), 0.0).clamp(-1, 1)


@torch.no_grad()
def moments(student: Compressed, labels: Labels, groups: Groups, task: Task, count: int) -> list[Moments | None]:
    """First and second moments of every group's channels, as the first layer reads them that reads all.

    A layer behind a flattening reads several entries of each channel: each is a sample. ``None`` where none does.
    """
    found = [_first(student, labels, group) for group in groups]
    sums = [None if each is None else _Sums(each[0].name, each[1]) for each in found]
    hooks = (owner(student, each.name).register_forward_pre_hook(each.see) for each in sums if each is not None)
    with hooked(hooks), evaluating(student):
        for batch in calibration_batches(student, task, count):
            call(student, batch)
    return [None if each is None else each.moments() for each in sums]


class _Sums:
    """``Σ x`` and ``Σ x xᵀ`` of channels that a layer reads at the indices ``at`` [labels, k] of its input."""

    def __init__(self, name: str, at: Tensor) -> None:
        self.name, self.at, self.rows = name, at, 0
        self.first = torch.zeros(len(at), dtype=torch.float64)
        self.second = torch.zeros(len(at), len(at), dtype=torch.float64)

    def see(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        flat = columns(Port(layer, self.at.flatten(), self.at.flatten()), args[0])
        x = flat.reshape(-1, *self.at.shape).transpose(1, 2).reshape(-1, len(self.at)).double().cpu()
        self.rows += len(x)
        self.first += x.sum(0)
        self.second += x.T @ x

    def moments(self) -> Moments:
        if not self.rows:
            raise TaskError(f"no calibration input reached the layer of {self.name}; give data that uses it")
        mean = self.first / self.rows
        return Moments(mean, self.second / self.rows - mean[:, None] * mean)


def _first(student: Compressed, labels: Labels, group: list[int]) -> tuple[Slices, Tensor] | None:
    """The first layer of one group that reads all channels, and where [labels, k]."""
    for each in read_by(student, labels, group):
        at = each.square(len(group))
        if at is not None and single(student, each.name):
            return each, at
    return None
