"""AdaRound: learned rounding after training (Nagel et al. 2020)."""

from featherweight.core.site import WEIGHTS
from featherweight.core.stage import MetricRule, Recipe, Reference, Stage
from featherweight.graph.fold import FoldNorms
from featherweight.metrics.hessian import InputMoment
from featherweight.metrics.responses import RectifiedResponses
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.uniform import Fit, PerChannel, Uniform
from featherweight.solvers.rounding import AdaRound

REFERENCE = Reference(
    "Up or Down? Adaptive Rounding for Post-Training Quantization",
    "Nagel, Amjad, van Baalen, Louizos and Blankevoort",
    2020,
    "2004.10568",
)
DEVIATIONS = (
    "after the descent, single entries are moved while that lowers the error",
    "the error of a layer's outputs is taken from the second moment of its inputs, behind layers that are rounded "
    "already, so that each of 2,000 steps sees all samples; the paper takes 10,000 steps of 32 images",
    "outputs are compared before the activation function, and to those that the unrounded layer gives for the same "
    "inputs; `asymmetric=True` compares them after a rectifier, to the original's, by sampled rows, as the paper does",
    "the weight of the regulariser is relative to the mean square of an output",
    "scales are one a channel; the paper's are one a layer",
)


def recipe(task: str = "", *, bits: int = 4, asymmetric: bool = False) -> Recipe:
    """Norms folded, and every weight to ``bits`` bits with learned rounding, layer by layer.

    To nearest where a weight's inputs are not known.
    """
    metric: MetricRule = RectifiedResponses(batches=4) if asymmetric else InputMoment(batches=4, required=False)
    scheme = Uniform(bits, granularity=PerChannel(), fit=Fit.SEARCH)
    stage = Stage("round", {WEIGHTS: scheme}, metric=metric, projector=AdaRound(required=False), edit=FoldNorms())
    return Recipe("adaround", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "adaround",
        REFERENCE,
        "Rounding to nearest is not the best rounding: learn for every weight whether it goes up or down, so that the "
        "layer's output changes least, by a relaxation that a regulariser pushes to 0 or 1.",
        (
            Claim("ResNet-18 and ResNet-50, ImageNet", "4-bit weights within 1 % of float accuracy", "abstract"),
            Claim("any network", "no fine-tuning; a small amount of unlabelled data", "abstract"),
        ),
        ("cifar10-resnet20", "mnist-lenet300", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300", "cifar10-resnet20"),
    )
