"""Channel pruning for accelerating very deep neural networks (He, Zhang and Sun 2017)."""

from featherweight.channels.reconstruction import Lasso
from featherweight.channels.standins import LeastSquares
from featherweight.core.stage import Recipe, Reference
from featherweight.papers import layer_by_layer
from featherweight.papers.paper import Claim, Paper

REFERENCE = Reference(
    "Channel Pruning for Accelerating Very Deep Neural Networks", "He, Zhang and Sun", 2017, "1707.06168"
)
DEVIATIONS = (
    "the channels' factors and the least squares are solved once, not in turns",
    "least squares are on the inputs as the layers before have left them, to what the layer makes of these",
    "of ResNets the first convolution of every block, whose outputs no residual addition shares",
)


def recipe(task: str = "", *, share: float | None = None, each: int = 0, epochs: int = 3) -> Recipe:
    """Cut ``share`` of every layer's channels and make up for it, with ``each`` epochs after a layer; then train."""
    cuts = layer_by_layer.stages(task, Lasso(), LeastSquares(), share, each, epochs)
    return Recipe("channel-pruning-lasso", cuts, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "channel-pruning-lasso",
        REFERENCE,
        "Choose the channels of a layer's input by the LASSO on their contributions to its output, then fit its "
        "weights to the output by least squares, layer by layer, front to back.",
        (
            Claim("ResNet-56, CIFAR-10", "2x faster in operations, 92.8 % to 91.8 %", "memory"),
            Claim("VGG-16, ImageNet", "5x faster in operations, top-5 error 1.7 % higher", "memory"),
        ),
        ("cifar10-resnet20", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet5",),
    )
