"""Importance that runs backward through a network, from its final responses."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from featherweight.channels.gates import Gates, Port, changed, channels_behind
from featherweight.channels.scores import Groups, LabelScore
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.hooks import hooked
from featherweight.core.tap import FUNCTIONS, Operator
from featherweight.core.task import Task, calibration_batches, call, evaluating
from featherweight.costs.operations import CONVOLUTIONS
from featherweight.graph.labels import Labels


@dataclass(frozen=True)
class Propagated(LabelScore):
    """``s_l = |W_{l+1}|ᵀ s_{l+1}``: neuron importance score propagation.

    Yu et al. 2018, arXiv 1711.05908, section 3.3.
    ``s`` of the final responses, the inputs of the last linear layer or convolution, is their infinite feature
    selection (:func:`infinite_selection`) on ``batches`` of calibration data. From there one backward pass through the
    network with absolute weights, in which functions of each entry pass importance on, norms by ``|γ|/σ``, maxima to
    one entry, and sums to all, gives that of every channel, summed over positions and over all that read it.
    """

    batches: int = 4
    mixing: float = 0.5

    def scores(self, student: Compressed, labels: Labels, groups: Groups, task: Task) -> list[Tensor | None]:
        gates = Gates(student, labels, groups)
        if not gates.count:
            return [None for _ in groups]
        last = last_layer(student, task)
        final = infinite_selection(responses(student, last, task, self.batches), self.mixing)
        return gates.split(propagated(gates, last, final, task))


def last_layer(student: Compressed, task: Task) -> nn.Module:
    """The linear layer or convolution that is called last."""
    called: list[nn.Module] = []
    hooks = (
        module.register_forward_hook(lambda module, args, y: called.append(module))
        for module in student.base.modules()
        if isinstance(module, (nn.Linear, *CONVOLUTIONS))
    )
    with hooked(hooks), evaluating(student), torch.no_grad():
        task.example().run(student)
    if not called:
        raise SchemeError("the model calls no linear layer and no convolution, so that it has no final responses")
    return called[-1]


@torch.no_grad()
def responses(student: Compressed, layer: nn.Module, task: Task, count: int) -> Tensor:
    """What the layer takes in, [rows, features]: one row for each sample and position."""
    rows: list[Tensor] = []

    def see(module: nn.Module, args: tuple[Any, ...]) -> None:
        rows.append(channels_behind(module, args[0]).flatten(0, -2).double().cpu())

    with layer.register_forward_pre_hook(see), evaluating(student):
        for batch in calibration_batches(student, task, count):
            call(student, batch)
    return torch.cat(rows)


def infinite_selection(rows: Tensor, mixing: float = 0.5) -> Tensor:
    """Row sums of ``Σ_{l ≥ 1} (r A)^l = (I − r A)⁻¹ − I``: how much all paths through a feature are worth.

    ``A_ij = mixing · max(σ_i, σ_j) + (1 − mixing)(1 − |ρ_ij|)``, with deviations relative to the largest, and ``r`` at
    nine tenths of what converges (Roffo, Melzi and Cristani 2015, Infinite feature selection, equations 1 to 8; with
    Pearson's correlation for Spearman's).
    """
    centred = rows - rows.mean(0)
    deviation = centred.square().mean(0).sqrt()
    if not bool(deviation.max() > 0):
        raise TaskError("the final responses do not change over the calibration data; give data that differs")
    covariance = centred.T @ centred / len(rows)
    spread = deviation[:, None] * deviation
    rho = torch.where(spread > 0, covariance / spread.clamp(min=1e-300), 0.0).clamp(-1, 1)
    sizes = deviation / deviation.max()
    paths = mixing * torch.maximum(sizes[:, None], sizes) + (1 - mixing) * (1 - rho.abs())
    eye = torch.eye(len(paths), dtype=paths.dtype)
    rate = 0.9 / torch.linalg.eigvalsh(paths)[-1].clamp(min=1e-300)
    total: Tensor = (torch.linalg.inv(eye - rate * paths) - eye).sum(1)
    return total


def propagated(gates: Gates, last: nn.Module, final: Tensor, task: Task) -> Tensor:
    """The importance of every gate's channel, where the inputs of ``last`` have that of ``final`` [features]."""
    offsets = torch.zeros(gates.count, dtype=torch.float64, device="cpu", requires_grad=True)
    weighed: list[Tensor] = []

    def value(module: nn.Module, args: tuple[Any, ...]) -> None:
        x = channels_behind(module, args[0])
        weighed.append((x * final.to(x.device, x.dtype)).sum() / len(x))

    def shifted(port: Port, x: Tensor) -> Tensor:
        return x + (port.factors(1 + offsets[None], x) - 1)

    with evaluating(gates.student), torch.enable_grad(), changed(gates.ports, shifted):
        with last.register_forward_pre_hook(value), _Absolute():
            task.example().run(gates.student)
        (importance,) = torch.autograd.grad(weighed[-1], offsets)
    return importance.double().cpu()


class _Absolute(TorchFunctionMode):
    """Runs a network with absolute weights, without biases and without functions of each entry."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        match FUNCTIONS.get(func):
            case Operator.LINEAR | Operator.CONVOLVE:
                x, w, *rest = args
                return func(x, w.abs(), None, *rest[1:], **{key: v for key, v in kwargs.items() if key != "bias"})
            case Operator.RELU | Operator.RELU6 | Operator.ACTIVATE:
                return args[0]
            case Operator.NORMALIZE if func is F.batch_norm:
                return _scaled(*args, **kwargs)
        return func(*args, **kwargs)


def _scaled(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    scale = (var + eps).rsqrt() if weight is None else weight.abs() * (var + eps).rsqrt()
    return x * scale.reshape(1, -1, *(1,) * (x.ndim - 2))
