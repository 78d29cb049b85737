"""INQ: incremental network quantization (Zhou et al. 2017)."""

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Learn, Portions, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.incremental import Choice, Incremental
from featherweight.schemes.logarithmic import incremental

REFERENCE = Reference(
    "Incremental Network Quantization: Towards Lossless CNNs with Low-Precision Weights",
    "Zhou, Yao, Guo, Xu and Chen",
    2017,
    "1702.03044",
)
DEVIATIONS = (
    "written from memory of the paper: figures were not read again",
    "one cosine schedule of Adam over all portions, which goes on with its moments, not SGD anew for each",
    "after the last portion, when all weights are frozen, biases and norms go on learning",
    "codes are entropy coded: a file holds fewer than the bits of a code for each weight",
)
EPOCHS = {"mnist-lenet300": 8, "mnist-lenet5": 4, "cifar10-resnet20": 4, "digits": 40}


def recipe(
    task: str = "",
    *,
    bits: int = 5,
    portions: tuple[float, ...] = (0.5, 0.75, 0.875, 1.0),
    choice: Choice = Choice.LARGEST,
    epochs: int | None = None,
) -> Recipe:
    """Powers of two and zero, ``bits`` for each, in accumulated ``portions`` of every layer's weights."""
    stage = Stage(
        "quantize in portions",
        {WEIGHTS: Incremental(incremental(bits), choice)},
        schedule=Portions(portions),
        learn=Learn.LATENT,
        training=Training(epochs or EPOCHS.get(task, 8), 3e-4),
    )
    side = Stage("side", {Sites(("*.bias",), optional=True): Float(Width.BFLOAT16)})
    return Recipe("inq", (stage, side), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "inq",
        REFERENCE,
        "Quantize the largest half of a layer's weights to powers of two or zero and freeze them, let the rest learn "
        "to make up for it, and go on with half of the rest, until all are quantized.",
        (
            Claim("AlexNet, ImageNet, 5 bits", "top-1/5 error 42.76/19.77 % to 42.61/19.54 %", "(memory), unconfirmed"),
            Claim("VGG-16, ImageNet, 5 bits", "top-1/5 error 31.46/11.35 % to 29.18/9.70 %", "(memory), unconfirmed"),
            Claim(
                "GoogLeNet, ImageNet, 5 bits", "top-1/5 error 31.11/10.97 % to 30.98/10.72 %", "(memory), unconfirmed"
            ),
            Claim(
                "ResNet-18, ImageNet, 5 bits", "top-1/5 error 31.73/11.31 % to 31.02/10.90 %", "(memory), unconfirmed"
            ),
            Claim("ResNet-50, ImageNet, 5 bits", "top-1/5 error 26.78/8.76 % to 25.19/7.55 %", "(memory), unconfirmed"),
            Claim(
                "ResNet-18, ImageNet, 4, 3 and 2 bits", "top-1 error 31.11, 31.92 and 33.98 %", "(memory), unconfirmed"
            ),
            Claim("AlexNet, ImageNet, pruned, 5 bits", "53x smaller", "(memory), unconfirmed"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "cifar10-resnet20", "digits"),
        recipe,
        DEVIATIONS,
    )
