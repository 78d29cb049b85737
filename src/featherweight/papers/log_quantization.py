"""Convolutional networks with logarithmic data (Miyashita, Lee and Murmann 2016)."""

from featherweight.activations.logarithmic import LogActivations
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.logarithmic import Logarithmic, Rounding

REFERENCE = Reference(
    "Convolutional Neural Networks using Logarithmic Data Representation",
    "Miyashita, Lee and Murmann",
    2016,
    "1603.01025",
)
DEVIATIONS = (
    "written from memory of the paper; its full scale range is the largest magnitude of a layer's weights, and of the "
    "first calibration batch's activations",
    "training starts from the trained float network; Adam with a cosine schedule",
    "weights have 4 bits, as activations do; what the network takes in stays as it is",
    "biases are stored in bfloat16",
)
EPOCHS = {"mnist-lenet5": 8, "mnist-lenet300": 10, "digits": 20}
INNER = {"mnist-lenet5": ("conv2", "fc*"), "mnist-lenet300": ("fc[23]",), "digits": ("conv[23]", "fc*")}
"""Modules that do not take in the network's own input."""


def recipe(
    task: str = "", *, weights: int = 4, inputs: int = 4, gradients: int = 5, epochs: int | None = None
) -> Recipe:
    """Powers of two for weights, for what layers take in and, while training, for gradients."""
    stage = Stage(
        "logarithms",
        {WEIGHTS: Logarithmic(2 ** (weights - 1) - 1, rounding=Rounding.LOGARITHMIC)},
        tap=LogActivations(INNER.get(task, ("*",)), inputs, gradients=gradients),
        learn=Learn.LATENT,
        training=Training(epochs or EPOCHS.get(task, 20), 1e-3),
    )
    side = Stage("side", {Sites(("*.bias",), optional=True): Float(Width.BFLOAT16)})
    return Recipe("log-quantization", (stage, side), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "log-quantization",
        REFERENCE,
        "Round the logarithms of weights, activations and gradients to integers of a few bits: products become shifts, "
        "and few bits span many octaves.",
        (
            Claim("VGG-16, ImageNet", "3-bit activations: 89.2 % top-5, float 89.8 %, linear 83.0 %", "memory, unsure"),
            Claim("AlexNet, ImageNet", "3-bit activations: 76.9 % top-5, float 78.3 %", "memory, unsure"),
            Claim("CIFAR-10 network, trained", "5 bits: 93.8 %, float 94.1 %, linear 92.5 %", "memory, unsure"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
