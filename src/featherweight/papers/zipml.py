"""ZipML: training end to end in low precision (Zhang, Li, Kara, Alistarh, Liu and Zhang 2016)."""

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Iterative, Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.codebook import Codebook, Unbiased
from featherweight.schemes.floats import Float, Width

REFERENCE = Reference(
    "The ZipML Framework for Training Models with End-to-End Low Precision: The Cans, the Cannots, and a Little Bit of "
    "Deep Learning",
    "Zhang, Li, Kara, Alistarh, Liu and Zhang",
    2016,
    "1611.05402",
)

DEVIATIONS = (
    "the recipe is the paper's part on deep networks: weights at levels of least variance. Samples drawn twice, for "
    "linear models, are a function (featherweight.training.stochastic.double_sampled), not a stage",
    "weights are rounded to the nearest level, which is what the file holds, and not at random",
    "levels are found exactly, on all entries, and anew in every twentieth of the training",
    "from the trained baseline, with Adam and a cosine schedule; biases are stored in bfloat16",
)
EPOCHS = {"mnist-lenet300": 30, "mnist-lenet5": 10, "digits": 40}


def recipe(task: str = "", *, levels: int = 5) -> Recipe:
    """Every weight at one of ``levels`` values of its tensor, through which a dense weight learns."""
    epochs = EPOCHS.get(task, 10)
    return Recipe(
        "zipml",
        (
            Stage(
                "quantize",
                {WEIGHTS: Codebook(levels, Unbiased())},
                schedule=Iterative(20, fixed=True),
                learn=Learn.LATENT,
                training=Training(epochs, 1e-3),
            ),
            Stage("side", {Sites(("*.bias",)): Float(Width.BFLOAT16)}),
        ),
        REFERENCE,
        DEVIATIONS,
    )


def paper() -> Paper:
    return Paper(
        "zipml",
        REFERENCE,
        "Round at random, right in the mean, to levels that make the variance as small as it can be, found by dynamic "
        "programming; draw each sample twice, so that gradients stay right in the mean; use the same levels for the "
        "weights of deep networks.",
        (
            Claim("linear models", "the same loss with samples of 5 to 6 bits", "memory"),
            Claim("linear models", "3 bits at the best levels do what takes 5 at uniform ones", "memory"),
            Claim("CIFAR-10 network", "five best levels are points of accuracy above XNOR-Net's five", "memory"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
