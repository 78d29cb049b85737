"""The full metric of linear and convolution layers: the second moment of their inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.metric import EUCLIDEAN, Full, Metric
from featherweight.core.stage import MetricRule
from featherweight.core.task import Task, call, evaluating, moved


@dataclass(frozen=True)
class InputMoment(MetricRule):
    """``H = E[x xᵀ]`` over the inputs ``x`` that a weight's rows meet, with the student as it stands.

    A linear layer's ``x`` is its input, a convolution's a patch of it (one group; others raise ``SchemeError``). Where
    it is not ``required``, weights whose inputs are not known, or that no calibration input reaches, get the Euclidean
    metric.
    """

    batches: int = 16
    required: bool = True

    @torch.no_grad()
    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Metric]:
        return {name: self._one(student, name, task) for name in names}

    def _one(self, student: Compressed, name: str, task: Task) -> Metric:
        owner, _, leaf = name.rpartition(".")
        layer = student.base.get_submodule(owner)
        if not self.required and not (has_patches(layer) and leaf == "weight"):
            return EUCLIDEAN
        columns = student.parameter(name)[0].numel()
        hessian = torch.zeros(columns, columns, dtype=torch.float64, device=student.device)
        count = 0

        def add(module: nn.Module, args: tuple[Any, ...]) -> None:
            nonlocal count
            x = patches(module, args[0]).double()
            hessian.addmm_(x.T, x)
            count += len(x)

        handle = layer.register_forward_pre_hook(add)
        try:
            with evaluating(student):
                for batch in islice(iter(task.calibration_data()), self.batches):
                    call(student, moved(batch, student.device))
        finally:
            handle.remove()
        if count == 0 and not self.required:
            return EUCLIDEAN
        if count == 0:
            raise TaskError(f"no calibration input reached the layer of {name}; give data that uses it")
        return Full(hessian / count)


def has_patches(layer: nn.Module) -> bool:
    """Whether :func:`patches` knows what the layer's weight is multiplied with."""
    plain = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear) or (plain and not isinstance(layer.padding, str))


def patches(layer: nn.Module, x: Tensor) -> Tensor:
    """The rows that the layer's weight, flattened to [out, columns], is multiplied with: [n, columns]."""
    match layer:
        case nn.Linear():
            return x.reshape(-1, x.shape[-1])
        case nn.Conv2d() if has_patches(layer) and not isinstance(layer.padding, str):
            unfolded = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
            return unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1])
        case _:
            raise SchemeError(
                f"the input moment of a {type(layer).__name__} like this is not known; leave its weight out"
            )
