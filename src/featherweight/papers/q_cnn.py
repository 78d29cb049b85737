"""Quantized convolutional neural networks for mobile devices (Wu et al. 2016)."""

from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.metrics.responses import LayerResponses
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.product import Product
from featherweight.solvers.product import ResponseDescent

REFERENCE = Reference(
    "Quantized Convolutional Neural Networks for Mobile Devices", "Wu, Leng, Wang, Hu and Cheng", 2016, "1512.06473"
)
DEVIATIONS = (
    "responses are looked at through their second moments, which gives the same minima, with a ridge of a thousandth",
    "codebooks are small, 8 to 32 entries in place of 128: they are counted in the file, and our layers have few rows",
    "the convolutions' sub-spaces have 4 channels in place of 8; all positions of a kernel share a codebook, as theirs",
    "products are not computed through tables of sub-vector products: no engine here has such a kernel, so no speed-up "
    "is claimed",
)
SETTINGS = {"mnist-lenet300": (4, 8), "mnist-lenet5": (4, 8)}
"""Components a sub-vector and entries a codebook."""


def recipe(task: str = "", *, length: int | None = None, size: int | None = None, corrected: bool = True) -> Recipe:
    """Every weight by product quantization along its inputs, layer after layer, to the original's responses.

    Without ``corrected``, every layer sees the inputs that it had in the original model.
    """
    components, entries = SETTINGS.get(task, (4, 32))
    scheme = Product(length or components, size or entries)
    stage = Stage(
        "quantize", {WEIGHTS: scheme}, metric=LayerResponses(corrected=corrected), projector=ResponseDescent()
    )
    return Recipe("q-cnn", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "q-cnn",
        REFERENCE,
        "Cut a layer's inputs into sub-spaces with a codebook each; choose codebooks and indices so that the layer's "
        "outputs change least, not its weights; fit each layer to the original outputs behind the layers that are "
        "quantized already, so that errors do not add up.",
        (
            Claim(
                "AlexNet, CNN-S and VGG-16, ImageNet",
                "15 to 20x smaller, 4 to 6x faster, loss of about 1 % of accuracy",
                "memory",
            ),
        ),
        ("mnist-lenet5", "mnist-lenet300", "cifar10-resnet20", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300", "mnist-lenet5"),
    )
