"""WaterSIC: waterfilling by successive interference cancellation (2026), with one price of a bit for a whole model."""

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Objective, Priced, Recipe, Reference, Stage, Tuning
from featherweight.graph.fold import FoldNorms
from featherweight.metrics.hessian import Kronecker, LogitKronecker
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.waterfilling import Waterfilling
from featherweight.solvers.sweep import ColumnSweep
from featherweight.training.objectives import OutputError

REFERENCE = Reference(
    "WaterSIC: information-theoretically (near) optimal linear layer quantization",
    "Lifar, Savkin, Ordentlich and Polyanskiy",
    2026,
    "2603.04956",
)
DEVIATIONS = (
    "written from the abstract and the theory it names",
    "steps differ between the rows of a weight, by the curvature of its outputs, and not between its columns: on "
    "ResNet-20 a step a column would gain 0.03 to 0.1 bits a weight in the large layers, and costs as much to store",
    "one price of a bit for all layers, in the units of the loss, instead of one rate a layer",
    "symbols are coded by block-adaptive range coding, with classes of rows; norms are folded; biases are in bfloat16",
)
PRICES = {
    "digits": 1e-8,
    "cifar10-resnet20": 1e-7,
    "mnist-lenet5": 1e-8,
    "mnist-lenet300": 1e-8,
    "imagenet-lite0": 7e-11,
    "minilm": 4.6e-10,
    "shakespeare-transformer": 3e-6,
}
"""Of a bit, in nats of the loss (squared error of the outputs, where a task does not count right answers)."""

LANGUAGES = ("shakespeare-lstm", "shakespeare-transformer")
LANGUAGE = LogitKronecker(required=False, temperature=1.0)
"""Models of language are sure of little: their own predictions, as they are, say what errors cost."""


def recipe(task: str = "", *, price: float | None = None, rate: bool = False, epochs: int = 0) -> Recipe:
    """Fold norms, and write every weight at one ``price`` of a bit.

    With ``rate``, the sweep trades errors for the bits of symbols too. With ``epochs``, scales and biases are tuned on
    the calibration data, towards the original's outputs.
    """
    paid = price or PRICES.get(task, 1e-7)
    sweep = ColumnSweep(required=False, price=paid if rate else 0.0)
    tune = Stage(
        "tune", training=Tuning(epochs, 5e-4, code_lr=0.02), objective=Objective((OutputError(),)), train_rest=True
    )
    return Recipe(
        "watersic",
        (
            Stage(
                "sweep",
                {WEIGHTS: Waterfilling(paid)},
                metric=LANGUAGE if task in LANGUAGES else Kronecker(required=False),
                projector=sweep,
                edit=FoldNorms(),
            ),
            *((tune,) if epochs else ()),
            Stage("side", {Sites(("*.bias",), optional=True): Float(Width.BFLOAT16)}),
        ),
        REFERENCE,
        DEVIATIONS,
    )


def priced(task: str = "") -> Priced:
    """The recipe at any price."""
    return Priced(lambda price: recipe(task, price=price), PRICES.get(task, 1e-7))


def paper() -> Paper:
    return Paper(
        "watersic",
        REFERENCE,
        "Sweep the columns of a weight, each with what the ones before left to it, and choose steps so that a bit buys "
        "the same everywhere; an entropy coder behind it makes the rate real.",
        (
            Claim("any covariance of the inputs", "within 0.255 bit of the information-theoretic limit", "abstract"),
            Claim("Llama and Qwen language models", "the best at every rate from 1 to 4 bits", "abstract"),
        ),
        ("cifar10-resnet20", "mnist-lenet5", "mnist-lenet300"),
        recipe,
        DEVIATIONS,
        ("cifar10-resnet20", "mnist-lenet5", "mnist-lenet300"),
        priced,
    )
