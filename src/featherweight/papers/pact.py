"""PACT: parameterised clipping activation (Choi et al. 2018)."""

from featherweight.activations.learning_rules import ClippingDecay, Clippings
from featherweight.core.site import Sites
from featherweight.core.stage import Learn, Objective, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.tanh import TanhUniform
from featherweight.training.objectives import TaskLoss

REFERENCE = Reference(
    "PACT: Parameterized Clipping Activation for Quantized Neural Networks",
    "Choi, Wang, Venkataramani, Chuang, Srinivasan and Gopalakrishnan",
    2018,
    "1805.06085",
)
DEVIATIONS = (
    "α starts at the largest input of the first batch, not at one number for all layers",
    "the network starts from its trained float weights, with Adam; on CIFAR-10 for one epoch in bfloat16",
    "on CIFAR-10 the first and the last layer and the norms, which stay, are stored in float16",
)
CIFAR = "cifar10-resnet20"
INNER = {CIFAR: ("layer*",)}
ENDS = {CIFAR: ("conv1.weight", "linear.weight")}
"""The modules between the first layer and the last, and the weights of these two."""
EPOCHS = {CIFAR: 1}
"""Of a task with many more samples than digits, which takes 20."""


def recipe(task: str = "", *, bits: int = 4, epochs: int | None = None) -> Recipe:
    """DoReFa-Net's weights and learned clipping of inputs, in all layers but the first and the last."""
    ends = ENDS.get(task, ("conv1.*", "fc2.*"))
    clip = Stage(
        "clip",
        {Sites(exclude=ends, min_dims=2): TanhUniform(bits)},
        tap=Clippings(INNER.get(task, ("conv[23]", "fc1")), bits),
        learn=Learn.LATENT,
        training=Training(epochs or EPOCHS.get(task, 20), 1e-3, bfloat16=task == CIFAR),
        objective=Objective((TaskLoss(), ClippingDecay(1e-4))),
    )
    side = Stage("side", {Sites(("*bn*", *ends, "*.bias")): Float(Width.FLOAT16)})
    return Recipe("pact", (clip, side) if task == CIFAR else (clip,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "pact",
        REFERENCE,
        "Replace the rectifier by clamp(x, 0, α), quantize between, and learn α with the weights: its gradient is that "
        "of the clipped activations.",
        (Claim("ImageNet networks, 4/4 bits", "accuracy comparable to full precision", "abstract"),),
        ("digits", CIFAR),
        recipe,
        DEVIATIONS,
        (CIFAR,),
    )
