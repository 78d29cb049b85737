"""Quantized CNN: a unified approach (Cheng, Wu, Leng, Wang and Hu 2018), the journal version of Q-CNN."""

from dataclasses import replace

from featherweight.core.stage import Recipe, Reference
from featherweight.papers import q_cnn
from featherweight.papers.paper import Claim, Paper

REFERENCE = Reference(
    "Quantized CNN: A Unified Approach to Accelerate and Compress Convolutional Networks",
    "Cheng, Wu, Leng, Wang and Hu",
    2018,
    url="https://doi.org/10.1109/TNNLS.2017.2774288",
)
DEVIATIONS = (*q_cnn.DEVIATIONS, "the recipe is that of the conference version; the journal's text was not at hand")


LENGTHS = {"cifar10-resnet20": 2}
"""Components a sub-vector: fewer where layers have few rows."""


def recipe(task: str = "", *, length: int | None = None, size: int = 16) -> Recipe:
    """Q-CNN with error correction: sub-vectors of ``length`` inputs, each one of ``size``."""
    made = q_cnn.recipe(task, length=length or LENGTHS.get(task, 4), size=size)
    return replace(made, name="quantized-cnn-tnnls", reference=REFERENCE, deviations=DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "quantized-cnn-tnnls",
        REFERENCE,
        "Convolutions and dense layers alike: sub-spaces of the inputs with a codebook each, learned so that outputs "
        "stay, behind the layers that are quantized already.",
        (Claim("AlexNet, CNN-S and VGG-16, ImageNet", "15 to 20x smaller, loss under 1 % of top-5", "memory"),),
        ("cifar10-resnet20", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet5", "cifar10-resnet20"),
    )
