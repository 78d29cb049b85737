"""Scores of connections by how the activations at their two ends go together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import TaskError
from featherweight.core.hooks import hooked
from featherweight.core.metric import Metric, Scores
from featherweight.core.stage import MetricRule
from featherweight.core.task import Task, call, evaluating, moved
from featherweight.metrics.hessian import patches


@dataclass(frozen=True)
class Correlation(MetricRule):
    """``r_ki = E[(a_i − μ_i)(b_k − μ_k)] / (σ_i σ_k)`` of a layer's inputs ``a`` and outputs ``b``, as scores.

    Sun, Wang and Tang (2016, arXiv 1512.01891, section 3.3). A linear layer's scores are signed. A convolution's weight
    is met at every output location ``m``: its score is the mean of ``|r^m|``, each over the samples. Where an end never
    changes, ``r`` is 0. Outputs are the layer's own, before what follows it. Layers other than linear ones and
    convolutions of one group raise ``SchemeError``, layers that no calibration input reaches ``TaskError``.
    """

    batches: int = 16

    @torch.no_grad()
    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Metric]:
        sums = {name: _Moments() for name in names}
        hooks = (
            student.base.get_submodule(name.rpartition(".")[0]).register_forward_hook(moments.add)
            for name, moments in sums.items()
        )
        with hooked(hooks), evaluating(student):
            for batch in islice(iter(task.calibration_data()), self.batches):
                call(student, moved(batch, student.device))
        for name, moments in sums.items():
            if moments.count == 0:
                raise TaskError(f"no calibration input reached the layer of {name}; give data that uses it")
        return {name: Scores(moments.scores().reshape(student.parameter(name).shape)) for name, moments in sums.items()}


class _Moments:
    """First and second moments over samples, at each location ``l``: inputs ``i`` [l, i], outputs ``o`` [l, o]."""

    def __init__(self) -> None:
        self.count = 0
        self.signed = True
        nothing = torch.zeros((), dtype=torch.float64, device="cpu")
        self.of_both = nothing  # [l, o, i]
        self.of_inputs = nothing  # [2, l, i]: of the values, of their squares
        self.of_outputs = nothing  # [2, l, o]

    def add(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        rows = patches(layer, args[0]).double()
        convolution = not isinstance(layer, nn.Linear)
        y = output.double().flatten(2).transpose(1, 2) if convolution else output.double().flatten(0, -2)[:, None]
        x = rows.reshape(*y.shape[:2], -1)
        self.count += len(x)
        self.signed = not convolution
        self.of_both = self.of_both + torch.einsum("nlo,nli->loi", y, x)
        self.of_inputs = self.of_inputs + torch.stack([x.sum(0), x.square().sum(0)])
        self.of_outputs = self.of_outputs + torch.stack([y.sum(0), y.square().sum(0)])

    def scores(self) -> Tensor:
        """[o, i]"""
        (x, xx), (y, yy) = self.of_inputs / self.count, self.of_outputs / self.count
        covariance = self.of_both / self.count - y[:, :, None] * x[:, None, :]
        spread = _deviation(y, yy)[:, :, None] * _deviation(x, xx)[:, None, :]
        r = torch.where(spread > 0, covariance / spread, 0.0).clamp(-1, 1)
        return r[0] if self.signed else r.abs().mean(0)


def _deviation(mean: Tensor, square: Tensor) -> Tensor:
    """Zero where the variance is rounding noise."""
    variance = square - mean.square()
    return torch.where(variance > 1e-12 * square, variance, 0.0).sqrt()
