"""Gates: a factor at every place where a channel is read. A gate of 0 is a channel that is cut, exactly."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.channels.scores import Groups, LabelScore
from featherweight.channels.slices import Slices, owner, read_by, slices
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.hooks import hooked
from featherweight.core.task import Batch, Task, calibration_batches, call, evaluating
from featherweight.costs.operations import CONVOLUTIONS
from featherweight.graph.labels import Labels
from featherweight.metrics.responses import batch_size
from featherweight.training.loop import seeded


@dataclass(frozen=True, eq=False)
class Port:
    """What a layer takes in of gated channels: ``channels`` [m] of its input, under the gates ``gates`` [m]."""

    layer: nn.Module
    channels: Tensor
    gates: Tensor

    def factors(self, gates: Tensor, x: Tensor) -> Tensor:
        """``gates`` [n or 1, gates] as factors that fit ``x``, whose other channels get 1."""
        linear = isinstance(self.layer, nn.Linear)
        width = x.shape[-1 if linear else 1]
        ones = torch.ones(len(gates), width, dtype=x.dtype, device=x.device)
        chosen = gates.to(x.device, x.dtype)[:, self.gates.to(x.device)]
        spread = ones.index_copy(1, self.channels.to(x.device), chosen)
        if len(spread) not in (1, len(x)):
            if len(x) % len(spread):
                raise SchemeError(f"{len(x)} rows of a layer's input are not of {len(spread)} samples")
            spread = spread.repeat_interleave(len(x) // len(spread), 0)
        inner = (1,) * (x.ndim - 2)
        return spread.reshape(len(spread), *inner, width) if linear else spread.reshape(len(spread), width, *inner)


class Gates:
    """One gate for every label of the groups that linear layers and convolutions alone read; others have none.

    ``numbers`` holds for every group the numbers of its gates, [labels], or ``None``.
    """

    def __init__(self, student: Compressed, labels: Labels, groups: Groups) -> None:
        self.student = student
        self.count = 0
        self.numbers: list[Tensor | None] = []
        self.ports: list[Port] = []
        for group in groups:
            parts = read_by(student, labels, group)
            if not parts or _read_otherwise(student, labels, group) or not _all_read(parts, len(group)):
                self.numbers.append(None)
                continue
            mine = torch.arange(self.count, self.count + len(group))
            self.numbers.append(mine)
            self.count += len(group)
            self.ports += [_port(owner(student, each.name), student, each, mine) for each in parts]

    def applied(self, gates: Tensor) -> AbstractContextManager[None]:
        """Within the block the student runs with these gates: [count], or [n, count] of one row for each sample."""
        rows = gates if gates.ndim == 2 else gates[None]

        return changed(self.ports, lambda port, x: x * port.factors(rows, x))

    def split(self, values: Tensor) -> list[Tensor | None]:
        """Values of all gates [..., count] as those of every group [..., labels]."""
        return [None if at is None else values[..., at] for at in self.numbers]


def changed(ports: Sequence[Port], function: Callable[[Port, Tensor], Tensor]) -> AbstractContextManager[None]:
    """Within the block every port's layer takes in what ``function`` makes of its input."""

    def hook(port: Port) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        return lambda module, args: (function(port, args[0]), *args[1:])

    return hooked(port.layer.register_forward_pre_hook(hook(port)) for port in ports)


def channels_behind(layer: nn.Module, x: Tensor) -> Tensor:
    """[..., channels]: what a linear layer or a convolution takes in or gives, behind samples and positions."""
    return x if isinstance(layer, nn.Linear) else x.movedim(1, -1)


def _port(layer: nn.Module, student: Compressed, each: Slices, gates: Tensor) -> Port:
    """A convolution of several groups has each index of its weight's second dimension once a group."""
    groups = layer.groups if isinstance(layer, CONVOLUTIONS) else 1
    width = student.parameter(each.name).shape[1]
    channels = torch.cat([each.indices + number * width for number in range(groups)])
    return Port(layer, channels, gates[each.numbers].repeat(groups))


def _all_read(parts: Sequence[Slices], count: int) -> bool:
    return len({number for each in parts for number in each.numbers.tolist()}) == count


def _read_otherwise(student: Compressed, labels: Labels, group: Sequence[int]) -> bool:
    """Whether a tensor of a recurrent or another layer carries the labels in a dimension that may read them."""
    known = (nn.Linear, *CONVOLUTIONS, nn.Embedding)
    others = [each for each in slices(labels, group) if not isinstance(owner(student, each.name), known)]
    return any(each.name in student.names and student.parameter(each.name).ndim > 1 for each in others)


def open_gates(*shape: int) -> Tensor:
    """Ones, in float64 on the CPU, whatever the model runs in and on."""
    return torch.ones(shape, dtype=torch.float64, device="cpu")


def total_loss(student: Compressed, task: Task, batch: Batch, temperature: float = 1.0) -> Tensor:
    """The sum over a batch's samples of the task's loss, which is a mean over them, of outputs over ``temperature``."""
    if task.loss is None:
        raise TaskError(f"this score of channels needs a loss, and task {task.name!r} has none; take one of norms")
    outputs = call(student, batch)
    if temperature != 1:
        if not isinstance(outputs, Tensor):
            raise SchemeError("a temperature divides the logits of a model with one tensor of outputs; take 1 here")
        outputs = outputs / temperature
    return task.loss(outputs, batch) * batch_size(batch)


def slopes(gates: Gates, task: Task, count: int, temperature: float = 1.0) -> Iterator[Tensor]:
    """``∂L_n/∂g``, [n, gates] in float64, of the loss of every sample, batch by batch, at gates of 1."""
    student = gates.student
    with evaluating(student), torch.enable_grad():
        for batch in calibration_batches(student, task, count):
            ones = open_gates(batch_size(batch), gates.count).requires_grad_()
            with gates.applied(ones):
                loss = total_loss(student, task, batch, temperature)
            (gradient,) = torch.autograd.grad(loss, ones)
            yield gradient.double().cpu()


class Taken(Enum):
    """What is averaged over samples of ``∂L_n/∂g``, the first-order change of the loss as a channel goes."""

    ABSOLUTE = "absolute"
    SQUARED = "squared"
    SIGNED = "signed"  # −∂L/∂g, the first-order rise of the loss itself: below 0 where the loss would fall

    def of(self, slopes: Tensor) -> Tensor:
        match self:
            case Taken.ABSOLUTE:
                return slopes.abs()
            case Taken.SQUARED:
                return slopes.square()
            case Taken.SIGNED:
                return -slopes


@dataclass(frozen=True)
class GateScore(LabelScore):
    """A score from the change of the loss with gates. Groups that no gate can close have no curve.

    ``temperature`` divides the outputs: a network that is sure of the calibration data has a loss near 0 that says
    little of what a channel is for, and changes all at once where channels go.
    """

    batches: int = 4
    temperature: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise SchemeError(f"a temperature of {self.temperature}; give one above 0")

    def scores(self, student: Compressed, labels: Labels, groups: Groups, task: Task) -> list[Tensor | None]:
        gates = Gates(student, labels, groups)
        return gates.split(self.of_gates(gates, task)) if gates.count else [None for _ in groups]

    def of_gates(self, gates: Gates, task: Task) -> Tensor:
        """[gates]"""
        raise NotImplementedError


@dataclass(frozen=True)
class Taylor(GateScore):
    """``E_n |∂L_n/∂g|``, with ``∂L/∂g = Σ z · ∂L/∂z`` over a channel's activations ``z``: first-order Taylor expansion.

    Molchanov et al. (2017, arXiv 1611.06440, section 2.2), the sum over positions where they take the mean: with all
    groups in one unit it is a change of the loss. ``Taken.SQUARED`` is that of Molchanov et al. (2019, arXiv
    1906.10771, equation 8), for gates.
    """

    taken: Taken = Taken.ABSOLUTE

    def of_gates(self, gates: Gates, task: Task) -> Tensor:
        return torch.cat([self.taken.of(each) for each in slopes(gates, task, self.batches, self.temperature)]).mean(0)


@dataclass(frozen=True)
class GateFisher(GateScore):
    """``½ E_n (∂L_n/∂g)²``: the rise of the loss as a channel goes, its curvature the empirical Fisher information.

    Theis et al. 2018, arXiv 1801.05787, equation 6.
    """

    def of_gates(self, gates: Gates, task: Task) -> Tensor:
        return torch.cat([each.square() / 2 for each in slopes(gates, task, self.batches, self.temperature)]).mean(0)


@dataclass(frozen=True)
class GateHessian(GateScore):
    """``½ ∂²L/∂g²``, or with ``slope`` ``−∂L/∂g + ½ ∂²L/∂g²``: the rise of the loss to the second order.

    The Hessian's diagonal as ``E[v ∘ Hv]`` over ``draws`` of random signs ``v`` (Bekas, Kokiopoulou and Saad 2007),
    exact where gates do not interact.
    """

    slope: bool = False
    draws: int = 8
    seed: int = 0

    def of_gates(self, gates: Gates, task: Task) -> Tensor:
        student = gates.student
        total = torch.zeros(gates.count, dtype=torch.float64)
        samples = 0
        with evaluating(student), torch.enable_grad(), seeded(self.seed, 0):
            for batch in calibration_batches(student, task, self.batches):
                ones = open_gates(gates.count).requires_grad_()
                with gates.applied(ones):
                    loss = total_loss(student, task, batch, self.temperature)
                (gradient,) = torch.autograd.grad(loss, ones, create_graph=True)
                samples += batch_size(batch)
                for _ in range(self.draws):
                    signs = torch.randint(2, ones.shape, device=ones.device).to(ones.dtype) * 2 - 1
                    (product,) = torch.autograd.grad(gradient, ones, signs, retain_graph=True)
                    total += (signs * product).double().cpu() / (2 * self.draws)
                if self.slope:
                    total -= gradient.detach().double().cpu()
        return total / samples


@dataclass(frozen=True)
class Ablation(GateScore):
    """The rise of the mean loss when the channel alone is taken out: one run of the calibration data for each.

    The oracle that other scores approximate (Mozer and Smolensky 1989; Suzuki, Horiba and Sugie 2001, section 2).
    """

    batches: int = 1

    @torch.no_grad()
    def of_gates(self, gates: Gates, task: Task) -> Tensor:
        whole = self._loss(gates, task, open_gates(gates.count))
        rises = []
        for number in range(gates.count):
            closed = open_gates(gates.count)
            closed[number] = 0
            rises.append(self._loss(gates, task, closed) - whole)
        return torch.tensor(rises, dtype=torch.float64)

    def _loss(self, gates: Gates, task: Task, values: Tensor) -> float:
        return mean_loss(gates, task, values, self.batches, self.temperature)


@torch.no_grad()
def mean_loss(gates: Gates, task: Task, values: Tensor, count: int, temperature: float = 1.0) -> float:
    """The mean loss on ``count`` calibration batches with these gates [gates]."""
    total, samples = 0.0, 0
    with evaluating(gates.student), gates.applied(values):
        for batch in calibration_batches(gates.student, task, count):
            total += float(total_loss(gates.student, task, batch, temperature))
            samples += batch_size(batch)
    return total / samples
