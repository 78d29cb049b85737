"""Loss terms."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featherweight.core.errors import TaskError
from featherweight.core.stage import Objective, Tap, Term
from featherweight.core.task import tensors_of


@dataclass(frozen=True)
class TaskLoss(Term):
    """The task's own loss."""

    def __call__(self, tap: Tap) -> Tensor:
        return tap.loss(tap.outputs, tap.batch)


@dataclass(frozen=True)
class SoftTargets(Term):
    """``T² · KL(softmax(teacher / T) ‖ softmax(student / T))``, the mean over samples, in nats.

    Hinton, Vinyals and Dean (2015), arXiv 1503.02531, section 2: the factor T² keeps the gradient's scale as T changes.
    Outputs are one tensor of logits with classes in dimension 1; ``TaskError`` for others.
    """

    temperature: float = 4.0

    @property
    def needs_teacher(self) -> bool:
        return True

    def __call__(self, tap: Tap) -> Tensor:
        if not isinstance(tap.outputs, Tensor) or tap.outputs.ndim < 2:
            raise TaskError("soft targets need outputs that are one tensor of logits [n, classes]; take OutputError")
        student = F.log_softmax(tap.outputs / self.temperature, dim=1)
        teacher = F.log_softmax(tap.teacher / self.temperature, dim=1)
        divergence: Tensor = (teacher.exp() * (teacher - student)).sum(1).mean()
        return self.temperature**2 * divergence


@dataclass(frozen=True)
class OutputError(Term):
    """``‖teacher − student‖² / ‖teacher‖²`` over all floating tensors of the outputs: needs no labels."""

    @property
    def needs_teacher(self) -> bool:
        return True

    def __call__(self, tap: Tap) -> Tensor:
        pairs = list(zip(tensors_of(tap.outputs), tensors_of(tap.teacher), strict=True))
        if not pairs:
            raise TaskError("the model's outputs hold no floating tensor to compare")
        error = torch.stack([(ours - theirs).square().sum() for ours, theirs in pairs]).sum()
        norm = torch.stack([theirs.square().sum() for _, theirs in pairs]).sum()
        return error / norm.clamp(min=torch.finfo(error.dtype).tiny)


@dataclass(frozen=True)
class SquaredError(Term):
    """``½ Σ ‖y − e_c‖²`` over samples: the outputs [n, classes] beside 1 for the right class and 0 for all others.

    ``TaskError`` where a batch is no pair of inputs and class numbers [n].
    """

    def __call__(self, tap: Tap) -> Tensor:
        labels = tap.batch[1] if isinstance(tap.batch, tuple | list) and len(tap.batch) == 2 else None
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim + 1 != tap.outputs.ndim:
            raise TaskError("a squared error to classes needs batches (inputs, class numbers [n]); take TaskLoss")
        wanted = F.one_hot(labels, tap.outputs.shape[-1]).to(tap.outputs.dtype)
        error: Tensor = (tap.outputs - wanted).square().sum() / 2
        return error


TASK_LOSS = Objective((TaskLoss(),))


def distillation(temperature: float = 4.0, share: float = 0.9) -> Objective:
    """``share`` of soft targets, the rest of the task's own loss."""
    return Objective((TaskLoss(1 - share), SoftTargets(share, temperature)))
