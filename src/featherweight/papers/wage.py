"""WAGE: weights, activations, gradients and errors as integers of 2, 8, 8 and 8 bits (Wu et al. 2018)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featherweight.activations.learning_rules import SignedUnits, WithErrors
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Learn, Objective, Recipe, Reference, Stage, Training
from featherweight.graph.biases import Anew
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.fixed_point import FixedPoint
from featherweight.schemes.shifted import Shifted
from featherweight.training.objectives import SquaredError
from featherweight.training.optimizers import Clipped, Directions, OnGrid

REFERENCE = Reference(
    "Training and Inference with Integers in Deep Neural Networks", "Wu, Li, Chen and Shi", 2018, "1802.04680"
)
CODE = "the authors' published code, https://github.com/boluoweifenda/WAGE"
LOG = f"{CODE}, log/2017-10-23(lenet5 2888).txt"
DEVIATIONS = (
    f"formulas are from memory of the paper, checked against {CODE}; where the two may differ, they are the code's",
    "LeNet-5 of 20, 50 and 500 channels without a rectifier behind its convolutions; theirs has 32, 64 and 512 and one "
    "behind every layer. Clipping to [-1, 1) is the non-linearity of ours",
    "few epochs with a rate that falls by a cosine from 8, for 300 with steps of 8, 1 and 1/8; images are "
    "shifted at random, and normalised by mean and deviation, so that the first layer takes in integers of [-4, 4)",
    "the lowest level of activations is -1, which theirs leave out; rates and random numbers are float32, not 16 bits",
    "sums of products, and what lies between two quantizers, are float32, which holds their integers exactly where "
    "they stay below 2^24",
    "norms are not replaced: the recipe is for networks without them",
)
EPOCHS = {"mnist-lenet5": 10, "fashion-lenet5": 10, "digits": 60}
WIDER = {"mnist-lenet5": {"conv1": 4.0}, "fashion-lenet5": {"conv1": 4.0}, "digits": {"conv1": 2.0}}
"""The first layer, and the power of two below which what it takes in stays."""


@dataclass(frozen=True)
class Steps:
    """``w ← clip(w − Q_G(η g))``: a direction times the rate, rounded at random to the grid of the stored weights."""

    weights: Shifted
    bits: int

    def __call__(self, parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
        whole = Directions(descent, lambda w: self._grid(w).step)
        return Clipped(OnGrid(whole, self._grid), self.weights.bound)(parameters, lr)

    def _grid(self, w: Tensor) -> FixedPoint:
        return self.weights.finer(w, self.bits)


def descent(parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
    """Neither momentum nor decay."""
    return torch.optim.SGD(parameters, lr=lr)


def recipe(
    task: str = "",
    *,
    weights: int = 2,
    inputs: int = 8,
    gradients: int = 8,
    errors: int = 8,
    epochs: int | None = None,
    lr: float = 8.0,
) -> Recipe:
    """From first weights, without biases; ``gradients`` is also the width of the weights that are kept."""
    scheme = Shifted(weights)
    stage = Stage(
        "learn in integers",
        {WEIGHTS: scheme},
        edit=Anew(scheme.initial),
        tap=WithErrors(SignedUnits(bits=inputs, wider=WIDER.get(task, {})), bits=errors),
        learn=Learn.LATENT,
        training=Training(epochs or EPOCHS.get(task, 5), lr, Steps(scheme, gradients)),
        objective=Objective((SquaredError(),)),
    )
    return Recipe("wage", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "wage",
        REFERENCE,
        "Train in integers throughout: weights of 2 bits, seen through stored ones of 8; activations and errors of 8; "
        "updates rounded at random. Powers of two stand for all scales, and of errors only proportions count.",
        (
            Claim("MNIST, LeNet-5", "error 0.40 % (2-8-8-8 bits)", "(memory), unconfirmed"),
            Claim(
                "MNIST, LeNet-5",
                "error 0.76 % after 5 epochs, 0.68 % after 10, 0.57 % after 200, 0.51 % after 227 (the log's last)",
                LOG,
            ),
            Claim("SVHN, VGG-like network", "error 1.92 %", "(memory), unconfirmed"),
            Claim("CIFAR-10, VGG-like network", "error 6.78 %", "(memory), unconfirmed"),
        ),
        ("mnist-lenet5", "fashion-lenet5", "digits"),
        recipe,
        DEVIATIONS,
        ("digits", "mnist-lenet5"),
    )
