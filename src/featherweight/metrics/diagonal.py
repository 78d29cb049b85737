"""Diagonal metrics: how much the outputs or the loss mind an error in each weight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featherweight.core.compressed import Compressed
from featherweight.core.errors import TaskError
from featherweight.core.metric import Diagonal, Metric
from featherweight.core.stage import MetricRule
from featherweight.core.task import Task, calibration_batches, call, evaluating, tensors_of
from featherweight.training.loop import seeded


@dataclass(frozen=True)
class Fisher(MetricRule):
    """The empirical Fisher information's diagonal, from labels: ``d = mean over batches of n (∂L/∂w)²``.

    ``L`` is the mean loss over a batch of ``n`` samples, so ``n`` times its squared gradient estimates the mean of the
    samples' squared gradients where they are independent and of mean zero (Amari 1998; used for pruning by Theis et
    al. 2018, arXiv 1801.05787). ``d (Δw)² / 2`` then approximates the rise of the loss per sample.
    """

    batches: int = 32

    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Metric]:
        if task.loss is None:
            raise TaskError(f"Fisher information needs a loss, and task {task.name!r} has none; use Curvature")
        loss = task.loss
        return _mean_square(
            student, names, task, self.batches, 1, lambda outputs, batch: loss(outputs, batch) * len(outputs) ** 0.5
        )


@dataclass(frozen=True)
class Curvature(MetricRule):
    """The Gauss-Newton diagonal of the squared output error, without labels: ``d = E[(∂(r·f(x))/∂w)²]``, r ~ N(0, I).

    For ``½‖f(x; w + Δw) − f(x; w)‖²`` the Gauss-Newton matrix is ``E[Jᵀ J]``; its diagonal is estimated by random
    projections ``r`` of the outputs (Hutchinson 1990; Martens, Sutskever and Swersky 2012, arXiv 1206.6464). One
    projection a batch and sum over the batch's samples, whose cross terms have mean zero.
    """

    batches: int = 32
    draws: int = 2
    seed: int = 0

    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Metric]:
        def projected(outputs: Any, batch: Any) -> Tensor:
            found = [each.float() for each in tensors_of(outputs)]
            if not found:
                raise TaskError(f"the model of task {task.name!r} has no floating-point output to measure")
            total = torch.stack([(each * torch.randn_like(each)).sum() for each in found]).sum()
            samples = len(found[0]) if found[0].ndim else 1
            scaled: Tensor = total / samples**0.5
            return scaled

        with seeded(self.seed, 0):
            return _mean_square(student, names, task, self.batches, self.draws, projected)


def _mean_square(
    student: Compressed,
    names: Sequence[str],
    task: Task,
    batches: int,
    draws: int,
    scalar: Callable[[Any, Any], Tensor],
) -> dict[str, Metric]:
    """``mean (∂ scalar/∂w)²`` over batches and draws, at the student's weights; floored at a millionth of its mean.

    The floor keeps weights that no sample reached comparable by magnitude.
    """
    leaves = {name: student.weight(name).detach().clone().requires_grad_() for name in names}
    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    count = 0
    with evaluating(student), torch.enable_grad():
        for there in calibration_batches(student, task, batches):
            for _ in range(draws):
                outputs = torch.func.functional_call(student.base, leaves, *arguments(there))
                value = scalar(outputs, there)
                count += 1
                if not value.requires_grad:
                    continue  # it depends on none of these weights
                gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
                for name, gradient in zip(leaves, gradients, strict=True):
                    if gradient is not None:
                        total[name] += gradient.square()
    means = {name: each / count for name, each in total.items()}
    return {name: Diagonal(mean + 1e-6 * mean.mean().clamp(min=1e-30)) for name, mean in means.items()}


def arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    captured: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    call(lambda *args, **kwargs: captured.append((args, kwargs)), batch)
    return captured[0]
