"""Loss terms."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featherweight.core.stage import Objective, Tap, Term


@dataclass(frozen=True)
class TaskLoss(Term):
    """The task's own loss."""

    def __call__(self, tap: Tap) -> Tensor:
        return tap.loss(tap.outputs, tap.batch)


@dataclass(frozen=True)
class SoftTargets(Term):
    """``T² · KL(softmax(teacher / T) ‖ softmax(student / T))``, the mean over samples, in nats.

    Hinton, Vinyals and Dean (2015), arXiv 1503.02531, section 2: the factor T² keeps the gradient's scale as T changes.
    Outputs are logits with classes in dimension 1.
    """

    temperature: float = 4.0

    @property
    def needs_teacher(self) -> bool:
        return True

    def __call__(self, tap: Tap) -> Tensor:
        student = F.log_softmax(tap.outputs / self.temperature, dim=1)
        teacher = F.log_softmax(tap.teacher / self.temperature, dim=1)
        divergence: Tensor = (teacher.exp() * (teacher - student)).sum(1).mean()
        return self.temperature**2 * divergence


@dataclass(frozen=True)
class OutputError(Term):
    """``‖teacher − student‖² / ‖teacher‖²`` of the outputs: needs no labels."""

    @property
    def needs_teacher(self) -> bool:
        return True

    def __call__(self, tap: Tap) -> Tensor:
        error: Tensor = (tap.outputs - tap.teacher).square().sum()
        norm: Tensor = tap.teacher.square().sum()
        return error / norm.clamp(min=torch.finfo(error.dtype).tiny)


TASK_LOSS = Objective((TaskLoss(),))


def distillation(temperature: float = 4.0, share: float = 0.9) -> Objective:
    """``share`` of soft targets, the rest of the task's own loss."""
    return Objective((TaskLoss(1 - share), SoftTargets(share, temperature)))
