"""Compressing deep convolutional networks using vector quantization (Gong, Liu, Yang and Bourdev 2014)."""

from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.plus import Plus
from featherweight.schemes.product import Product
from featherweight.schemes.uniform import Uniform

REFERENCE = Reference(
    "Compressing Deep Convolutional Networks using Vector Quantization",
    "Gong, Liu, Yang and Bourdev",
    2014,
    "1412.6115",
)
DEVIATIONS = (
    "k-means starts from k-means++; centroids are stored in float16, and indices coded with their frequencies",
    "what is not quantized is stored in float16",
    "segments have 4 weights, and codebooks 16 vectors: our layers have a tenth of the paper's rows, and a codebook of "
    "256 vectors for each segment would hold more numbers than the layer",
)
SEGMENTS = Product(4, 16)
"""Product quantization: rows cut into segments, a codebook for each. The method that the paper finds best."""
KMEANS = Codebook(8)
"""Scalar k-means: log2 k bits a weight."""
RESIDUAL = Plus(Product(None, 32), Product(None, 32))
"""Residual quantization: whole rows, then what is left of them."""
SIGNS = Uniform(1)
"""Binarization."""

DENSE = Sites(("fc*.weight",))
"""The fully connected layers of the tasks below."""
TASKS = ("mnist-lenet5", "mnist-lenet300", "digits")


def recipe(task: str = "", *, scheme: Scheme = SEGMENTS) -> Recipe:
    """The fully connected layers by ``scheme``, all else in float16, and nothing learns.

    Of a model whose layers are not known, all weights and only weights.
    """
    stages: tuple[Stage, ...] = (Stage("quantize", {WEIGHTS: scheme}),)
    if task in TASKS:
        rest = Sites(("*",), exclude=DENSE.include)
        stages = (Stage("quantize", {DENSE: scheme}), Stage("rest", {rest: Float(Width.FLOAT16)}))
    return Recipe("vector-quantization-cnn", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "vector-quantization-cnn",
        REFERENCE,
        "Most weights of a convolutional network lie in its fully connected layers: cut their rows into segments, "
        "cluster the segments at each place by k-means, and store codebooks and indices, without any training.",
        (Claim("ImageNet network", "16 to 24x smaller with a loss of 1 % of accuracy", "memory"),),
        TASKS,
        recipe,
        DEVIATIONS,
    )
