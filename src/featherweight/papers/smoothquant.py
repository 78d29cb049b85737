"""SmoothQuant: eight-bit weights and activations, once outliers are moved into the weights (Xiao et al. 2022)."""

from featherweight.activations.rules import Calibrated
from featherweight.activations.smoothing import Smooth
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import PerTensor, Uniform

REFERENCE = Reference(
    "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
    "Xiao, Lin, Seznec, Wu, Demouth and Han",
    2022,
    "2211.10438",
)
DEVIATIONS = (
    "what linear layers and convolutions take in is quantized; products within attention stay float",
    "activations have one affine range a tensor, seen in the calibration data: the paper's static variant",
)


def recipe(task: str = "", *, bits: int = 8, alpha: float = 0.5) -> Recipe:
    """Weights and what they take in to ``bits`` bits, one scale a tensor for each, after smoothing by ``alpha``."""
    stages = (
        Stage("smooth", repairs=(Smooth(alpha),)),
        Stage("quantize", {WEIGHTS: Uniform(bits, granularity=PerTensor())}, tap=Calibrated(bits, batches=16)),
        Stage("side", {Sites(("*.bias",), optional=True): Float(Width.FLOAT16)}),
    )
    return Recipe("smoothquant", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "smoothquant",
        REFERENCE,
        "Activations of large language models have channels of outliers, and weights have none: divide the former and "
        "multiply the latter until both are as easy to quantize; then all matrix products run in eight bits.",
        (
            Claim(
                "language models up to 530B parameters",
                "up to 1.56x faster and half the memory with negligible loss of accuracy",
                "abstract",
            ),
        ),
        ("mnist-lenet300", "shakespeare-transformer"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300",),
    )
