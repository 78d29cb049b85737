"""L0 regularization by hard concrete gates (Louizos, Welling and Kingma 2018)."""

from featherweight.activations.gates import ExpectedCount, FoldGates, Gates, HardConcrete
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Objective, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.sparse import Magnitude, Sparse
from featherweight.search.dead import CutDead
from featherweight.training.objectives import TaskLoss

REFERENCE = Reference(
    "Learning Sparse Neural Networks through L0 Regularization", "Louizos, Welling and Kingma", 2017, "1712.01312"
)
DEVIATIONS = (
    "every gate, a convolution's too, stands where a channel is read: the bias of a channel that goes does not stay",
    "the network starts from its trained weights and learns for fewer epochs, gates ten times faster than weights",
    "one λ for all layers, the first of the paper's for LeNet-300-100; no other penalty on the weights",
    "after the cut, what is left learns for some epochs without gates",
    "input pixels with closed gates are columns of zeros in the file: the network still takes whole images",
)
SAMPLES = {"mnist-lenet300": 55_000, "mnist-lenet5": 55_000, "digits": 998}
EPOCHS = {"mnist-lenet300": (20, 8), "mnist-lenet5": (10, 4), "digits": (60, 20)}
"""With gates, and after the cut."""


def recipe(task: str = "", *, lam: float = 0.1) -> Recipe:
    """Hard concrete gates on all channels and inputs; ``lam``, λ, is the price of a weight in nats over the data."""
    first, second = EPOCHS.get(task, (10, 5))
    gates = Stage(
        "gates",
        tap=Gates(HardConcrete),
        training=Training(first, 1e-3, code_lr=10.0, final=0.1),
        objective=Objective((TaskLoss(), ExpectedCount(lam / SAMPLES.get(task, 50_000)))),
    )
    fold = Stage("fold", repairs=(FoldGates(),))
    cut = Stage("cut", edit=CutDead(optional=True))
    rest = Stage("rest", {WEIGHTS: Sparse(Magnitude())}, training=Training(second, 5e-4, seed=1))
    return Recipe("l0-regularization", (gates, fold, cut, rest), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "l0-regularization",
        REFERENCE,
        "Multiply groups of weights by gates whose distribution has mass at exactly zero, and penalise the expected "
        "number of weights that are not zero: it is differentiable.",
        (
            Claim("LeNet-300-100, MNIST", "219-214-100 at 1.4 % error, 266-88-33 at 1.8 %", "memory"),
            Claim("LeNet-5, MNIST", "20-25-45-462 at 0.9 % error, 9-18-65-25 at 1.0 %", "memory"),
            Claim("WRN-28-10, CIFAR-10", "error 3.83 %, 3.89 % with dropout", "memory"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
