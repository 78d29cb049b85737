"""Bits by an analysis of how rounding errors propagate to the outputs (Holt and Hwang 1993)."""

from featherweight.activations.noise import WithinNoiseTaps
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.graph.fold import FoldNorms
from featherweight.metrics.noise import NoiseGain, relative_noise
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.allocated import WithinNoise
from featherweight.schemes.floats import Float, Width

REFERENCE = Reference(
    "Finite Precision Error Analysis of Neural Network Hardware Implementations",
    "Holt and Hwang",
    1993,
    url="https://doi.org/10.1109/12.210171",
)
DEVIATIONS = (
    "written from the abstract and the authors' announcement of the report, not from the formulas of the paper",
    "retrieval alone: no back-propagation, no weight update, no jamming, no tables of nonlinear functions",
    "derivatives are measured, by random projections of the outputs, instead of derived operator by operator",
    "integers times scales, one a channel or a tensor, not one fixed point for all; sums are exact",
    "one width for all weights, one for all activations, each with half of the noise; biases in float16",
    "a weight's error is no noise, but one draw for all samples, and is predicted as the mean of draws: within 2.3 dB "
    "of what is measured at 4 to 8 bits, activations within 2.5, both within 1.8 (benchmarks/noise.py, two networks)",
    "errors are of rounding; truncation, with its mean, is in the model (metrics/noise.py) and in the benchmark alone",
)


def recipe(task: str = "", *, snr: float = 20.0) -> Recipe:
    """The fewest bits of weights and of activations at which outputs ``snr`` dB above the noise are predicted."""
    half = relative_noise(snr) / 2
    stage = Stage(
        "quantize", {WEIGHTS: WithinNoise(half)}, NoiseGain(), edit=FoldNorms(), tap=WithinNoiseTaps(half)
    )  # fmt: skip
    side = Stage("side", {Sites(("*.bias",), optional=True): Float(Width.FLOAT16)})
    return Recipe("finite-precision-error-analysis", (stage, side), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "finite-precision-error-analysis",
        REFERENCE,
        "An error of rounding is noise of known variance and mean; to first order it reaches the outputs through "
        "derivatives, independent errors add up, and the bits that are needed follow.",
        (
            Claim(
                "multilayer perceptron",
                "simulations match the theoretical prediction quite well; no figure read",
                "announcement by the authors, Connectionists list, January 1991",
            ),
            Claim(
                "multilayer perceptron",
                "about 8 bits for retrieval, 14 to 16 for learning",
                "(memory), unconfirmed",
            ),
        ),
        ("mnist-lenet300", "cifar10-resnet20"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300",),
    )
