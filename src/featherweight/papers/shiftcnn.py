"""ShiftCNN: weights as sums of a few powers of two, without training (Gudovskiy and Rigazio 2017)."""

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.graph.fold import FoldNorms
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.logarithmic import ShiftSum

REFERENCE = Reference(
    "ShiftCNN: Generalized Low-Precision Architecture for Inference of Convolutional Neural Networks",
    "Gudovskiy and Rigazio",
    2017,
    "1706.02393",
)
DEVIATIONS = (
    "activations stay floats: the paper's 8-bit inputs, and its table of shifted inputs, are the engine's part",
    "on MNIST a term has 3 bits instead of 4",
    "linear layers are coded as convolutions are; biases are stored in bfloat16",
)


BITS = {"mnist-lenet5": 3, "mnist-lenet300": 3}
"""Where fewer than the paper's 4 bits a term are enough."""


def recipe(task: str = "", *, terms: int = 2, bits: int | None = None) -> Recipe:
    """Every weight the sum of ``terms`` powers of two, of ``bits`` bits each, under the layer's largest magnitude."""
    magnitudes = 2 ** ((bits or BITS.get(task, 4)) - 1) - 1
    stages = (
        Stage("shift", {WEIGHTS: ShiftSum(terms, magnitudes)}, edit=FoldNorms()),
        Stage("side", {Sites(("*.bias",), optional=True): Float(Width.BFLOAT16)}),
    )
    return Recipe("shiftcnn", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "shiftcnn",
        REFERENCE,
        "A weight is the sum of the nearest powers of two, one after the other, to what is left of it: a product is a "
        "few shifts, which a layer computes once for every input; nothing is trained.",
        (
            Claim("ImageNet networks, 2 terms of 4 bits", "less than 1 % accuracy drop without retraining", "abstract"),
            Claim("ResNet-50, ImageNet", "0.3 % top-1 drop", "memory, unsure"),
            Claim("FPGA convolution", "4x lower power than 8-bit fixed point", "abstract"),
        ),
        ("mnist-lenet5", "mnist-lenet300", "digits", "cifar10-resnet20"),
        recipe,
        DEVIATIONS,
    )
