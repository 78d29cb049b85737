"""AWQ: activation-aware weight quantization (Lin et al. 2023)."""

from featherweight.activations.smoothing import ActivationAware
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import Fit, PerChannel, PerGroup, Uniform

REFERENCE = Reference(
    "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
    "Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan and Han",
    2023,
    "2306.00978",
)
DEVIATIONS = (
    "scales move from norms to the layers that read them, and between layers with a rectifier or nothing between them; "
    "not through attention from values to outputs, and not through other activation functions",
    "the search holds the summed output error of the layers that read a channel against the float ones, not the output "
    "error of a block",
    "levels are symmetric, and their range is searched for least squared error of the weights, not of the outputs",
)


def recipe(task: str = "", *, bits: int = 4, group: int | None = None) -> Recipe:
    """Weights to ``bits`` bits, a scale an output or ``group`` entries, once channels that matter are large."""
    spread = PerChannel() if group is None else PerGroup(group)
    scheme = Uniform(bits, granularity=spread, fit=Fit.SEARCH)
    stages = (
        Stage("scale", repairs=(ActivationAware(scheme),)),
        Stage("quantize", {WEIGHTS: scheme}),
        Stage("side", {Sites(("*.bias",), optional=True): Float(Width.FLOAT16)}),
    )
    return Recipe("awq", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "awq",
        REFERENCE,
        "The few channels whose inputs are large matter most: make their weights larger before rounding, and their "
        "inputs smaller in what is before, by scales that are searched for the least output error. Nothing learns.",
        (
            Claim("language models", "protecting 1 % of the weights greatly reduces the error", "abstract"),
            Claim("TinyChat", "more than 3x faster than Hugging Face FP16 on desktop and mobile GPUs", "abstract"),
        ),
        ("mnist-lenet300", "shakespeare-transformer"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300",),
    )
