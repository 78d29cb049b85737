"""Ternary weight networks (Li, Zhang and Liu 2016)."""

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.ternary import ThresholdTernary

REFERENCE = Reference("Ternary Weight Networks", "Li, Zhang and Liu", 2016, "1605.04711")
DEVIATIONS = (
    "the network starts from its trained float weights, and is the one of the task: no batch norm, no wider LeNet-5",
    "Adam with a cosine schedule and the baseline's own augmentation, instead of SGD with steps",
    "biases are stored in bfloat16",
)
EPOCHS = {"mnist-lenet5": 12, "mnist-lenet300": 20, "digits": 20}


def recipe(task: str = "", *, share: float = 0.7, epochs: int | None = None) -> Recipe:
    """All weights to −s, 0 and s, one ``s`` a layer, behind float weights that learn."""
    ternary = Stage(
        "ternary",
        {WEIGHTS: ThresholdTernary(share)},
        learn=Learn.LATENT,
        training=Training(epochs or EPOCHS.get(task, 20), 1e-3),
    )
    side = Stage("side", {Sites(("*.bias",), optional=True): Float(Width.BFLOAT16)})
    return Recipe("ternary-weight-networks", (ternary, side), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "ternary-weight-networks",
        REFERENCE,
        "Weights are minus, zero or plus one scale a layer: zero below 0.7 times the mean magnitude, the scale the "
        "mean of the others; both follow the float weights, which learn straight through.",
        (
            Claim("LeNet-5, MNIST", "99.35 % (signs 99.05 %, float 99.41 %)", "memory"),
            Claim("VGG-7, CIFAR-10", "92.56 % (signs 90.18 %, float 92.88 %)", "memory"),
            Claim("ResNet-18B, ImageNet", "61.8 % top-1 (signs 57.5 %, float 65.4 %); 16x smaller", "memory"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
