"""Product quantization (Jégou, Douze and Schmid 2011), of weights."""

from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.product import Product

REFERENCE = Reference(
    "Product quantization for nearest neighbor search",
    "Jégou, Douze and Schmid",
    2011,
    url="https://hal.inria.fr/inria-00514462/document",
)
DEVIATIONS = (
    "the vectors are what a network's weights hold, not descriptors of images; nothing is searched, and so there are "
    "neither tables of distances nor inverted lists",
    "vectors have 4 components and codebooks 32 entries, not 16 and 256: a weight matrix has hundreds of rows, not "
    "millions, and its codebooks are counted in the file",
)


def recipe(task: str = "", *, length: int = 4, size: int = 32, dimension: int = 0, shared: bool = False) -> Recipe:
    """Every ``length`` weights along ``dimension`` (0 outputs, 1 inputs) one of ``size`` vectors of their sub-space."""
    stage = Stage("product", {WEIGHTS: Product(length, size, dimension, shared)})
    return Recipe("product-quantization", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "product-quantization",
        REFERENCE,
        "Cut a vector into short ones, and replace each by the nearest in a codebook that k-means found for its place: "
        "m indices name size^m different vectors, with m · size short ones stored.",
        (Claim("SIFT descriptors, 1 million", "8 bytes in place of 128 components find near neighbours", "memory"),),
        ("mnist-lenet300", "digits"),
        recipe,
        DEVIATIONS,
    )
