"""Deep learning with limited numerical precision: fixed point with stochastic rounding (Gupta et al. 2015)."""

from collections.abc import Iterable
from typing import Any

import torch

from featherweight.activations.fixed_point import LimitedPrecisions
from featherweight.core.site import Sites
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.fixed_point import FixedPoint, Rounding
from featherweight.training.optimizers import OnGrid

REFERENCE = Reference(
    "Deep Learning with Limited Numerical Precision",
    "Gupta, Agrawal, Gopalakrishnan and Narayanan",
    2015,
    "1502.02551",
)
DEVIATIONS = (
    "written from memory of the paper: figures were not read again",
    "training goes on from trained float weights, rounded to the grid; no float copy is kept. That nearest rounding "
    "stalls shows from random weights, as the paper starts",
    "on small tasks the grid of the weights is coarser than the paper's, to make the file smaller",
    "momentum of 0.9 with a cosine schedule and the tasks' own batches and networks",
    "layer outputs are <6, 10>, gradients and the velocity <1, 15>: the same word, the point where it is needed",
    "sums are accumulated in float32 and rounded once; the loss and the update of the velocity are float32 in between",
    "activations are rounded while learning alone: the file holds the weights' grid, and runs with float activations",
    "the FPGA prototype is left out",
)
FRACTION = {"mnist-lenet300": 6, "mnist-lenet5": 8, "digits": 8}
"""Bits behind the point of weights and biases: those of a 16-bit word are 14."""

EPOCHS = {"mnist-lenet300": 4, "mnist-lenet5": 2, "digits": 20}
WORD = 16


def momentum(parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
    """Momentum 0.9."""
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def recipe(
    task: str = "",
    *,
    fraction: int | None = None,
    rounding: Rounding = Rounding.STOCHASTIC,
    epochs: int | None = None,
    lr: float = 0.02,
) -> Recipe:
    """All parameters on the grid ``<2, fraction>`` after every step, and all products rounded to 16 bits."""
    weights = FixedPoint(2, FRACTION.get(task, WORD - 2) if fraction is None else fraction)
    fine = FixedPoint(1, WORD - 1)
    stage = Stage(
        "learn in fixed point",
        {Sites(): weights},
        tap=LimitedPrecisions(grid=FixedPoint(6, WORD - 6), gradients=fine, rounding=rounding),
        learn=Learn.FREE,
        training=Training(
            epochs or EPOCHS.get(task, 4), lr, OnGrid(momentum, weights, rounding, gradients=fine, moments=fine)
        ),
    )
    return Recipe("limited-numerical-precision", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "limited-numerical-precision",
        REFERENCE,
        "Train in 16-bit fixed point throughout: products are accumulated wide and rounded once, up or down by chance, "
        "so that updates far below the step still count on average.",
        (
            Claim(
                "MNIST, convolutional network",
                "error 0.77 % in float, 0.83 % with 14 and 0.90 % with 12 bits behind the point",
                "(memory), unconfirmed",
            ),
            Claim(
                "CIFAR-10, convolutional network",
                "error 24.6 % in float, 25.4 % with 14 and 28.8 % with 12 bits behind the point",
                "(memory), unconfirmed",
            ),
            Claim("MNIST and CIFAR-10", "rounding to nearest fails at 16 bits", "(memory), unconfirmed"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
