"""Structured pruning of deep convolutional neural networks (Anwar, Hwang and Sung 2017)."""

from featherweight.channels.particles import ParticleCut
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.uniform import Fit, Uniform

REFERENCE = Reference(
    "Structured Pruning of Deep Convolutional Neural Networks", "Anwar, Hwang and Sung", 2017, "1512.08571"
)
DEVIATIONS = (
    "feature maps alone: no kernels, and no strides within kernels",
    "particles are weighed on calibration data",
    "a few rounds of cuts and training to the whole share",
)


def recipe(task: str = "", *, share: float = 0.5, rounds: int = 3, epochs: int = 3, bits: int = 8) -> Recipe:
    """Cut ``share`` of all maps in rounds, each the best set that particles find; then fixed point, with training."""
    each = 1 - (1 - share) ** (1 / rounds)
    stages = [
        Stage(f"cut {number}", edit=ParticleCut(each, seed=number), training=Training(epochs, 1e-3))
        for number in range(1, rounds + 1)
    ]
    scheme = Uniform(bits, fit=Fit.POWER_OF_TWO)
    stages.append(Stage("quantize", {WEIGHTS: scheme}, learn=Learn.LATENT, training=Training(1, 2e-4)))
    return Recipe("structured-pruning-anwar", tuple(stages), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "structured-pruning-anwar",
        REFERENCE,
        "Look for the set of feature maps to remove with an evolutionary particle filter: each particle is a set, "
        "weighed by how many samples come out right without it. Retrain, and go on to fixed point.",
        (Claim("CIFAR-10", "60 to 70 % of the convolutions' parameters at 1 % more errors", "memory, unsure"),),
        ("mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
