"""ThiNet: a filter level pruning method (Luo, Wu and Lin 2017)."""

from featherweight.channels.reconstruction import Greedy
from featherweight.channels.standins import Rescaled
from featherweight.core.stage import Recipe, Reference
from featherweight.papers import layer_by_layer
from featherweight.papers.paper import Claim, Paper

REFERENCE = Reference(
    "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression", "Luo, Wu and Lin", 2017, "1707.06342"
)
DEVIATIONS = (
    "the expected error over all outputs and positions of the calibration inputs, instead of sampled ones",
    "of ResNets the first convolution of every block, and one training at the end, for the sake of time",
)


def recipe(task: str = "", *, share: float | None = None, each: int | None = None, epochs: int = 3) -> Recipe:
    """Cut ``share`` of every layer's channels and make up for it, with ``each`` epochs after a layer; then train."""
    between = (0 if task == "cifar10-resnet20" else 1) if each is None else each
    cuts = layer_by_layer.stages(task, Greedy(), Rescaled(), share, between, epochs)
    return Recipe("thinet", cuts, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "thinet",
        REFERENCE,
        "Remove the channels that the next layer misses least: greedily those whose contributions to its outputs sum "
        "to least. What stays is rescaled by least squares, layer by layer, front to back.",
        (
            Claim("VGG-16, ImageNet", "3.31x fewer operations, 68.34 % to 69.80 % top-1", "memory"),
            Claim("ResNet-50, ImageNet", "25.56M to 12.38M parameters, 72.88 % to 71.01 % top-1", "memory"),
        ),
        ("cifar10-resnet20", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet5",),
    )
