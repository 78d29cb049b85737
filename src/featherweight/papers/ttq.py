"""TTQ: trained ternary quantization (Zhu, Han, Mao and Dally 2016)."""

from featherweight.core.scheme import Scheme
from featherweight.core.site import Sites
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.ternary import TrainedTernary

REFERENCE = Reference("Trained Ternary Quantization", "Zhu, Han, Mao and Dally", 2016, "1612.01064")
DEVIATIONS = (
    "the threshold is a share of the largest weight on all layers; the variant of a fixed sparsity is not written",
    "scales start at the means of what they stand for",
    "Adam with a cosine schedule, instead of SGD with steps",
    "the first and the last layer, which stay float, and biases are stored in bfloat16",
)
ENDS: dict[str, tuple[str, ...]] = {
    "mnist-lenet5": ("conv1.weight", "fc2.weight"),
    "mnist-lenet300": ("fc3.weight",),
    "cifar10-resnet20": ("conv1.weight", "linear.weight"),
    "digits": ("conv1.weight", "fc2.weight"),
}
"""The first convolution and the last linear layer, as far as a network has them."""

EPOCHS = {"mnist-lenet5": 12, "mnist-lenet300": 20, "cifar10-resnet20": 5, "digits": 20}


def recipe(task: str = "", *, threshold: float = 0.05, epochs: int | None = None) -> Recipe:
    """Inner layers to −W_n, 0 and W_p, both learned with the float weights behind them."""
    ends = ENDS.get(task, ())
    inner: dict[str | Sites, Scheme] = {Sites(exclude=ends, min_dims=2): TrainedTernary(threshold)}
    ternary = Stage("ternary", inner, learn=Learn.BOTH, training=Training(epochs or EPOCHS.get(task, 20), 1e-3))
    rest = Sites(("*.bias", *ends), optional=True)
    return Recipe("ttq", (ternary, Stage("side", {rest: Float(Width.BFLOAT16)})), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "ttq",
        REFERENCE,
        "Weights are one learned positive number, zero, or one learned negative number a layer; float weights behind "
        "them learn with gradients that these numbers scale, and so move between the three.",
        (
            Claim("ResNet-32, 44, 56, CIFAR-10", "0.04, 0.16 and 0.36 % more accurate than float", "abstract"),
            Claim("AlexNet, ImageNet", "0.3 % more accurate than float, 16x smaller", "abstract"),
            Claim("ResNet-20, CIFAR-10", "error 8.23 % to 8.87 %", "memory"),
            Claim("ResNet-18B, ImageNet", "top-1 error 30.4 % to 33.4 % (TWN 34.7 %)", "memory"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
