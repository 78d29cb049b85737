"""DoReFa-Net: low bitwidth weights, activations and gradients (Zhou et al. 2016)."""

from featherweight.activations.learning_rules import UnitIntervals, WithGradients
from featherweight.core.site import Sites
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.tanh import TanhUniform

REFERENCE = Reference(
    "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients",
    "Zhou, Wu, Ni, Zhou, Wen and Zou",
    2016,
    "1606.06160",
)
DEVIATIONS = (
    "the network starts from its trained float weights, with Adam; on CIFAR-10 for two epochs in bfloat16",
    "on CIFAR-10 the first and the last layer and the norms, which stay, are stored in float16",
)
CIFAR = "cifar10-resnet20"
INNER = {CIFAR: ("layer*",)}
ENDS = {CIFAR: ("conv1.weight", "linear.weight")}
"""The modules between the first layer and the last, and the weights of these two."""
EPOCHS = {CIFAR: 2}
"""Of a task with many more samples than digits, which takes 20."""


def recipe(
    task: str = "", *, weights: int = 1, inputs: int = 2, gradients: int = 6, epochs: int | None = None
) -> Recipe:
    """Weights, inputs and gradients of all layers but the first and the last."""
    inner, ends = INNER.get(task, ("conv[23]", "fc1")), ENDS.get(task, ("conv1.*", "fc2.*"))
    quantize = Stage(
        "quantize",
        {Sites(exclude=ends, min_dims=2): TanhUniform(weights)},
        tap=WithGradients(UnitIntervals(inner, inputs), inner, gradients),
        learn=Learn.LATENT,
        training=Training(epochs or EPOCHS.get(task, 20), 1e-3, bfloat16=task == CIFAR),
    )
    side = Stage("side", {Sites(("*bn*", *ends, "*.bias")): Float(Width.FLOAT16)})
    return Recipe("dorefa-net", (quantize, side) if task == CIFAR else (quantize,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "dorefa-net",
        REFERENCE,
        "Weights through tanh and inputs through a clamp are quantized uniformly, and gradients with random rounding "
        "to a few bits, so that backward passes are of low precision too.",
        (Claim("AlexNet, ImageNet, 1-bit weights, 2-bit inputs, 6-bit gradients", "46.1 % top-1", "abstract"),),
        ("digits", CIFAR),
        recipe,
        DEVIATIONS,
        (CIFAR,),
    )
