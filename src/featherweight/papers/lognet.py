"""LogNet: energy-efficient networks using logarithmic computation (Lee et al. 2017)."""

from featherweight.activations.logarithmic import LogActivations
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.papers.log_quantization import INNER
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.logarithmic import Base, Logarithmic, Rounding

REFERENCE = Reference(
    "LogNet: Energy-efficient neural networks using logarithmic computation",
    "Lee, Miyashita, Chai, Murmann and Wong",
    2017,
    url="https://doi.org/10.1109/ICASSP.2017.7953288",
)
DEVIATIONS = (
    "written from memory, by way of the companion paper 1603.01025",
    "sums are floats: the approximation log2(1 + x) = x of sums in the log domain is not used",
    "gradients are floats; training starts from the trained float network, with Adam",
    "what the network takes in stays as it is; biases are stored in bfloat16",
)
EPOCHS = {"mnist-lenet5": 8, "mnist-lenet300": 8, "digits": 20}


def recipe(task: str = "", *, weights: int = 5, inputs: int = 4, epochs: int | None = None) -> Recipe:
    """Weights and what layers take in as powers of the root of two: products are sums of exponents in half steps."""
    stage = Stage(
        "logarithms",
        {WEIGHTS: Logarithmic(2 ** (weights - 1) - 1, Base.ROOT, rounding=Rounding.LOGARITHMIC)},
        tap=LogActivations(INNER.get(task, ("*",)), inputs, Base.ROOT),
        learn=Learn.LATENT,
        training=Training(epochs or EPOCHS.get(task, 20), 5e-4),
    )
    side = Stage("side", {Sites(("*.bias",), optional=True): Float(Width.BFLOAT16)})
    return Recipe("lognet", (stage, side), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "lognet",
        REFERENCE,
        "Weights and activations are signs and rounded logarithms, in base two or its root, and the network is tuned "
        "with them: every product is an addition of exponents.",
        (
            Claim(
                "AlexNet and VGG-16, ImageNet",
                "4 to 5 bits: within about 1 to 2 % of float, top-5",
                "memory, of 1603.01025",
            ),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
