"""L0 regularization by hard concrete gates (Louizos, Welling and Kingma 2018)."""

from featherweight.activations.gates import ExpectedCount, Gates, HardConcrete
from featherweight.core.stage import Objective, Recipe, Reference, Stage
from featherweight.papers import gated
from featherweight.papers.paper import Claim, Paper
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


def recipe(task: str = "", *, lam: float = 0.1) -> Recipe:
    """Hard concrete gates on all channels and inputs; ``lam``, λ, is the price of a weight in nats over the data."""
    gates = Stage(
        "gates",
        tap=Gates(HardConcrete),
        training=gated.learning(task),
        objective=Objective((TaskLoss(), ExpectedCount(lam / gated.samples(task)))),
    )
    return Recipe("l0-regularization", (gates, *gated.afterwards(task)), REFERENCE, DEVIATIONS)


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
