"""8-bit approximations for parallelism in deep learning (Dettmers 2015)."""

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.tables import Table, Tabled
from featherweight.training.gradients import CompressedGradients

REFERENCE = Reference("8-Bit Approximations for Parallelism in Deep Learning", "Dettmers", 2015, "1511.04561")
DEVIATIONS = (
    "the type stores weights too: in the paper gradients and activations are sent in it, and weights stay float",
    "one worker: every gradient passes through the type once a step, but nothing is sent and no time is measured",
    "the dynamic tree and the minifloat; the linear and the static tree types are left out",
    "training starts from the trained float network, with Adam; biases are stored in bfloat16",
)
EPOCHS = {"mnist-lenet300": 6, "digits": 10}


def recipe(task: str = "", *, table: Table = Table.DYNAMIC_TREE, epochs: int | None = None) -> Recipe:
    """Train with gradients of 8 bits, then store weights in the same type."""
    training = Training(epochs or EPOCHS.get(task, 5), 3e-4, CompressedGradients(Tabled(table)))
    stages = (
        Stage("train", training=training),
        Stage("store", {WEIGHTS: Tabled(table)}),
        Stage("side", {Sites(("*.bias",), optional=True): Float(Width.BFLOAT16)}),
    )
    return Recipe("dettmers-8bit", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "dettmers-8bit",
        REFERENCE,
        "Send gradients and activations between workers in 8 bits that say by leading zeros how small a number is, and "
        "by what is left where it lies within its decade.",
        (
            Claim("MNIST, CIFAR-10, ImageNet networks", "no loss with model or data parallelism", "abstract"),
            Claim("96 GPUs", "50x speed-up predicted, of 23x at 32 bits; transfer twice as fast", "abstract"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
