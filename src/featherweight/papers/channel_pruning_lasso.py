"""Channel pruning for accelerating very deep neural networks (He, Zhang and Sun 2017)."""

from featherweight.channels.reconstruction import Lasso
from featherweight.channels.rules import CutShare, MadeUp
from featherweight.channels.scores import Only
from featherweight.channels.standins import LeastSquares
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper

REFERENCE = Reference(
    "Channel Pruning for Accelerating Very Deep Neural Networks", "He, Zhang and Sun", 2017, "1707.06168"
)
DEVIATIONS = (
    "the channels' factors and the least squares are solved once, not in turns",
    "least squares are on the inputs as the layers before have left them, to what the layer makes of these",
    "of ResNets the first convolution of every block, whose outputs no residual addition shares",
)
BLOCKS = tuple(f"layer{stage}.{block}.conv1.weight" for stage in (1, 2, 3) for block in range(3))
"""Of ResNet-20: what the blocks have inside; the channels that residual additions share are spared."""
LAYERS = {
    "digits": ("conv1.weight", "conv2.weight", "conv3.weight", "fc1.weight"),
    "mnist-lenet5": ("conv1.weight", "conv2.weight", "fc1.weight"),
    "cifar10-resnet20": BLOCKS,
}
"""What makes the channels, front to back; elsewhere all groups at once."""
SHARES = {"mnist-lenet5": 0.5, "cifar10-resnet20": 0.3}


def recipe(task: str = "", *, share: float | None = None, each: int | None = None, epochs: int = 3) -> Recipe:
    """Cut ``share`` of every layer's channels and make up for it, with ``each`` epochs after a layer; then train."""
    layers = LAYERS.get(task, ("*",))
    between = 0 if each is None else each
    stages = [
        Stage(
            f"cut {layer}",
            edit=MadeUp(CutShare(share or SHARES.get(task, 0.4), Only(Lasso(), (layer,))), LeastSquares()),
            training=Training(between, 5e-4) if between else None,
        )
        for layer in layers
    ]
    stages.append(Stage("train", training=Training(epochs, 1e-3)))
    return Recipe("channel-pruning-lasso", tuple(stages), REFERENCE, DEVIATIONS)


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
