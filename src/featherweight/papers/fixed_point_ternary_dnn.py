"""Fixed-point networks with weights +1, 0 and -1 (Hwang and Sung 2014)."""

from featherweight.activations.least_squares import LeastSquares
from featherweight.activations.rules import Calibrated
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.ternary import Ternary

REFERENCE = Reference(
    "Fixed-point feedforward deep neural network design using weights +1, 0, and -1",
    "Hwang and Sung",
    2014,
    url="https://doi.org/10.1109/SiPS.2014.6986082",
)
DEVIATIONS = (
    "steps are the exact least squares, of weights by sorting and of signals by a histogram; no exhaustive search of "
    "them on the task's error follows",
    "rectifiers instead of sigmoids; what the network takes in stays as it is, and so does the last layer's result",
    "Adam with a cosine schedule; biases are stored in bfloat16",
)
EPOCHS = {"mnist-lenet300": 20, "digits": 20}
FIRST = {"mnist-lenet300": ("fc1.weight",), "mnist-lenet5": ("conv1.weight",), "digits": ("conv1.weight",)}
"""The layer that takes in the network's own input."""


def recipe(task: str = "", *, signals: int = 3, epochs: int | None = None) -> Recipe:
    """All weights to −s, 0 and s, hidden signals to a few bits, then both while float weights learn behind them."""
    train = Training(epochs or EPOCHS.get(task, 20), 1e-3)
    hidden = Calibrated(signals, LeastSquares(), exclude=FIRST.get(task, ()), batches=4)
    stages = (
        Stage("signals", tap=hidden),
        Stage("weights", {WEIGHTS: Ternary()}, learn=Learn.LATENT, training=train),
        Stage("side", {Sites(("*.bias",), optional=True): Float(Width.BFLOAT16)}),
    )
    return Recipe("fixed-point-ternary-dnn", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "fixed-point-ternary-dnn",
        REFERENCE,
        "Weights to three levels and signals to a few bits, each with the step of the least squared error; then train "
        "the float weights with quantized ones, and quantized signals, forward and backward.",
        (Claim("MNIST and TIMIT networks", "ternary weights, 3-bit signals: a negligible loss", "abstract"),),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
