"""BRECQ: post-training quantization by block reconstruction (Li et al. 2021)."""

from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.graph.fold import FoldNorms
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.uniform import Fit, PerChannel, Uniform
from featherweight.solvers.reconstruction import BlockReconstruction

REFERENCE = Reference(
    "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction",
    "Li, Gong, Tan, Yang, Hu, Zhang, Yu, Wang and Gu",
    2021,
    "2102.05426",
)
DEVIATIONS = (
    "512 calibration images and 800 steps of 32; the paper takes 1,024 and 20,000",
    "all outputs of a block count the same: weights by squared gradients (`fisher=True`, of labels drawn from the "
    "original's predictions) were measured to be worse here",
    "the weight of the regulariser is relative to the mean square of an output",
    "the first and the last layer have 8 bits, as in the paper; bits are not searched for layer by layer",
)
ENDS = {"cifar10-resnet20": ("conv1.weight", "linear.weight"), "mnist-lenet300": ("fc1.weight", "fc3.weight")}
"""The first and the last layer."""


def recipe(task: str = "", *, bits: int = 2, ends: int = 8, fisher: bool = False) -> Recipe:
    """Norms folded, and every weight to ``bits`` bits, those of the first and last layer to ``ends``, by blocks."""
    scheme, outer = (Uniform(width, granularity=PerChannel(), fit=Fit.SEARCH) for width in (bits, ends))
    schemes = dict.fromkeys(ENDS.get(task, ()), outer) | {WEIGHTS: scheme}
    stage = Stage("round", schemes, projector=BlockReconstruction(fisher=fisher), edit=FoldNorms())
    return Recipe("brecq", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "brecq",
        REFERENCE,
        "Learn the rounding of all layers of a block together, so that the block's output changes least where the loss "
        "minds: a block is where layers depend on each other most and a few samples do not yet overfit.",
        (
            Claim("ResNet and MobileNetV2, ImageNet", "4-bit quantization comparable with training", "abstract"),
            Claim("any network", "2-bit weights after training for the first time; 240 times faster", "abstract"),
        ),
        ("cifar10-resnet20", "digits"),
        recipe,
        DEVIATIONS,
    )
