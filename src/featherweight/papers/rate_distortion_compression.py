"""Rate distortion for model compression (Gao, Liu, Wang and Oh 2018)."""

from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.metrics.diagonal import Curvature
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.codebook import Codebook, Optimal
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.sparse import Fraction, Sparse

REFERENCE = Reference(
    "Rate Distortion For Model Compression: From Theory To Practice", "Gao, Liu, Wang and Oh", 2018, "1810.06401"
)
DEVIATIONS = (
    "the diagonal of the outputs' second moment is estimated by random projections of all outputs together",
    "weighted k-means is solved exactly, by dynamic programming",
    "off-diagonal terms are left out, and so is training between layers",
    "what is not quantized is stored in float16",
)
QUANTIZED = Codebook(6, Optimal())
"""Quantization: weighted k-means."""
PRUNED = Sparse(Fraction(0.5))
"""Pruning: the entries of least ``I_ii w_i²`` are zero."""


def recipe(task: str = "", *, scheme: Scheme = QUANTIZED) -> Recipe:
    """Every weight by ``scheme`` in the metric ``(w − v)ᵀ diag(E[∂f ∂fᵀ]) (w − v)``, and nothing learns."""
    stages = (
        Stage("compress", {WEIGHTS: scheme}, metric=Curvature()),
        Stage("side", {Sites(("*.bias",), optional=True): Float(Width.FLOAT16)}),
    )
    return Recipe("rate-distortion-compression", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "rate-distortion-compression",
        REFERENCE,
        "The least rate at which a network's outputs can be kept within a distortion is reached, for linear models, by "
        "codes that minimise the weights' error weighed by the outputs' second moment: so prune and quantize by that "
        "error instead of the plain one.",
        (
            Claim(
                "MNIST and CIFAR-10 networks",
                "more accurate than by magnitude and plain k-means at equal size",
                "memory",
            ),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
