"""Statistical model compression for small-footprint natural language understanding (Strimel et al. 2018)."""

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.codebook import Codebook, Lloyd, Start
from featherweight.schemes.floats import Float, Width

REFERENCE = Reference(
    "Statistical Model Compression for Small-Footprint Natural Language Understanding",
    "Strimel, Sathyendra and Peshterliev",
    2018,
    "1807.07520",
)
DEVIATIONS = (
    "no perfect hash: a network finds its parameters by position and stores no features, so half of the method has "
    "nothing to do; its models are linear, ours are not",
    "the values of each tensor start from quantiles and are moved by k-means",
    "vectors are stored in float16",
)


def recipe(task: str = "", *, size: int = 16) -> Recipe:
    """Every weight one of ``size`` values of its tensor, 4 bits for 16; vectors in float16. Nothing learns."""
    stages = (
        Stage("quantize", {WEIGHTS: Codebook(size, Lloyd(Start.DENSITY))}),
        Stage("side", {Sites(("*bias*",), optional=True): Float(Width.FLOAT16)}),
    )
    return Recipe("statistical-nlu-compression", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "statistical-nlu-compression",
        REFERENCE,
        "Quantize the weights of a linear language model, and find them by a minimal perfect hash of its features, "
        "which need not be stored then.",
        (
            Claim(
                "a large natural-language understanding system", "14 times less memory with little effect", "abstract"
            ),
        ),
        ("mnist-lenet300", "shakespeare-lstm", "digits"),
        recipe,
        DEVIATIONS,
    )
