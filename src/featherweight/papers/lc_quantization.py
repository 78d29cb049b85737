"""Quantization by learning-compression (Carreira-Perpiñán and Idelbayev 2017)."""

from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Reference, Stage, Training, sgd
from featherweight.papers.lc_framework import REPOSITORY, learning_compression
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.codebook import Codebook, Optimal
from featherweight.schemes.floats import Float, Width

REFERENCE = Reference(
    "Model compression as constrained optimization, with application to neural nets. Part II: quantization",
    "Carreira-Perpiñán and Idelbayev",
    2017,
    "1707.04319",
)
DEVIATIONS = (
    "adaptive codebooks are found by dynamic programming, the global minimum, not by k-means from the last centroids",
    "the rates of the L steps fall by one cosine over the path; but for LeNet-300-100 they are Adam's",
    "centroids and biases learn at the end, with indices as they are; biases are stored in bfloat16",
)
PATHS = {"mnist-lenet300": Training(24, 0.1, sgd), "digits": Training(60, 2e-3)}
ONE_BIT = Codebook(2, Optimal())


def recipe(task: str = "", *, scheme: Scheme = ONE_BIT) -> Recipe:
    """One codebook of two values a layer: one bit a weight. ``scheme`` is any other set of values.

    The paper's others are ``Uniform(1)`` (binary with a scale), ``Ternary()`` (ternary with a scale),
    ``Logarithmic(magnitudes, scaled=True)`` (powers of two with a scale) and larger codebooks.
    """
    training = PATHS.get(task, Training(24, 2e-3))
    return Recipe(
        "lc-quantization",
        (
            learning_compression("path", {WEIGHTS: scheme}, training, mu=3.0, rounds=48, growth=1.2),
            Stage("fine", training=Training(4, 1e-3, seed=1)),
            Stage("side", {"*.bias": Float(Width.BFLOAT16)}),
        ),
        REFERENCE,
        DEVIATIONS,
    )


def paper() -> Paper:
    return Paper(
        "lc-quantization",
        REFERENCE,
        "Learn weights that a rising penalty with multipliers pulls to a few values, and choose those values and their "
        "owners anew each round: k-means for a codebook, closed forms for signs and ternary values with a scale.",
        (
            Claim(
                "LeNet-300-100, MNIST, one bit a weight", "test error 2.13 % to 2.56 %, about 30x smaller", REPOSITORY
            ),
            Claim("LeNet-5, MNIST, and VGG, CIFAR-10, one bit a weight", "near the reference", "memory"),
        ),
        ("mnist-lenet300", "digits"),
        recipe,
        DEVIATIONS,
    )
