"""Fixed-point bit widths in closed form from signal-to-noise ratios (Lin et al. 2016)."""

from featherweight.activations.least_squares import LeastSquares
from featherweight.activations.rules import Calibrated
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.graph.fold import FoldNorms
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.allocated import EqualNoise
from featherweight.schemes.floats import Float, Width

REFERENCE = Reference(
    "Fixed Point Quantization of Deep Convolutional Networks", "Lin, Talathi and Annapureddy", 2016, "1511.06393"
)
DEVIATIONS = (
    "the formulas are from memory of the paper, and 6.02 dB a bit are taken for every distribution",
    "steps are searched on the weights and on histograms of activations, not read from tables of Gaussian steps",
    "bits are allocated to weights alone, under a mean; activations have equal bits; no fine-tuning",
)


def recipe(task: str = "", *, mean: float = 5.0, activations: int = 8) -> Recipe:
    """Weights to ``mean`` bits on average, large layers to fewer, by equal marginal noise."""
    stage = Stage(
        "quantize",
        {WEIGHTS: EqualNoise(mean)},
        edit=FoldNorms(),
        tap=Calibrated(activations, LeastSquares(), batches=4),
    )
    side = Stage("side", {Sites(("*.bias",), optional=True): Float(Width.FLOAT16)})
    return Recipe("lin-fixed-point-sqnr", (stage, side), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "lin-fixed-point-sqnr",
        REFERENCE,
        "Relative noises of quantization add up along a network, 6 dB less for every bit; for a given size the least "
        "sum gives layers bits that differ by half the logarithm of the ratio of their sizes.",
        (
            Claim(
                "CIFAR-10 network",
                "more than 20 % smaller than with equal bit widths, without loss of accuracy",
                "abstract, as quoted by a search",
            ),
        ),
        ("digits", "cifar10-resnet20"),
        recipe,
        DEVIATIONS,
        ("cifar10-resnet20",),
    )
