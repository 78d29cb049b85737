"""GPTQ: post-training quantization by a column sweep (Frantar et al. 2022)."""

from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.metrics.hessian import InputMoment
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.uniform import Fit, PerChannel, Uniform
from featherweight.solvers.sweep import ColumnSweep

REFERENCE = Reference(
    "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    "Frantar, Ashkboos, Hoefler and Alistarh",
    2022,
    "2210.17323",
)
DEVIATIONS = (
    "scales per output channel are searched for least squares before the sweep and kept during it",
    "layers are measured one at a time behind compressed ones, without lazy blocks",
)


def recipe(task: str = "", *, bits: int = 3) -> Recipe:
    """Every weight to ``bits`` bits in the metric of its inputs, layer by layer.

    To nearest where a weight's inputs are not known.
    """
    scheme = Uniform(bits, granularity=PerChannel(), fit=Fit.SEARCH)
    stage = Stage("sweep", {WEIGHTS: scheme}, InputMoment(required=False), ColumnSweep(required=False))
    return Recipe("gptq", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "gptq",
        REFERENCE,
        "Quantize a layer's weight column by column; after each, move the columns to come so that the layer's output "
        "changes least, by the inverse of the inputs' second moment.",
        (Claim("GPT models of 175B parameters", "3 or 4 bits a weight in about four GPU hours", "abstract"),),
        ("digits", "cifar10-resnet20"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300", "cifar10-resnet20"),
    )
