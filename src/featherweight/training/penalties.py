"""Penalties on the weights that an objective adds to the loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.core.compressed import Compressed
from featherweight.core.stage import Learn, Tap, Term


@dataclass(frozen=True)
class Pull(Term):
    """``½ Σ ‖w − decode(c)‖²`` over the *pulled* weights; ``weight`` is μ, or with ``rising`` what the target makes it.

    The quadratic penalty of learning-compression algorithms (Carreira-Perpiñán 2017, arXiv 1707.01209, section 3): the
    loop's steps are the L step, the schedule's projections the C step. ``rising`` multiplies μ by the schedule's target
    (:class:`featherweight.core.stage.Homotopy`): the homotopy from the loss alone to the constraint.
    """

    rising: bool = False

    def __call__(self, tap: Tap) -> Tensor:
        student = tap.student
        assert isinstance(student, Compressed)
        pulled = [name for name, mode in student.learning.items() if mode is Learn.PULLED]
        codes = student.codes
        errors = [(student.parameter(name) - codes[name].decode().detach()).square().sum() for name in pulled]
        share = tap.target if self.rising else 1.0
        return torch.stack(errors).sum() * share / 2 if errors else tap.outputs.new_zeros(())
