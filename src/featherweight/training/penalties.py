"""Penalties on the weights that an objective adds to the loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.core.compressed import Compressed
from featherweight.core.stage import Learn, Tap, Term


@dataclass(frozen=True)
class Pull(Term):
    """``½ Σ ‖w − decode(c)‖²`` over the *pulled* weights; ``weight`` is μ.

    The quadratic penalty of learning-compression algorithms (Carreira-Perpiñán 2017, arXiv 1707.01209, section 3): the
    loop's steps are the L step, the schedule's projections the C step.
    """

    def __call__(self, tap: Tap) -> Tensor:
        student = tap.student
        assert isinstance(student, Compressed)
        pulled = [name for name, mode in student.learning.items() if mode is Learn.PULLED]
        codes = student.codes
        errors = [(student.parameter(name) - codes[name].decode().detach()).square().sum() for name in pulled]
        return torch.stack(errors).sum() / 2 if errors else tap.outputs.new_zeros(())
