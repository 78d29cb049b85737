"""Data-free parameter pruning for deep neural networks (Srinivas and Babu 2015)."""

from featherweight.channels.redundancy import DataFree
from featherweight.channels.rules import CutShare, MadeUp, Pool
from featherweight.channels.standins import Nearest
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.papers.paper import Claim, Paper

REFERENCE = Reference("Data-free parameter pruning for Deep Neural Networks", "Srinivas and Babu", 2015, "1507.06149")
DEVIATIONS = (
    "how many neurons go is given, instead of found by the histogram of their saliencies",
    "a neuron that goes is merged into the nearest of those that stay, instead of step by step along a chain",
    "filters of convolutions are merged too, not neurons of dense layers alone",
)


def recipe(task: str = "", *, share: float = 0.4) -> Recipe:
    """Merge a share of all neurons into others, without data and without training."""
    rule = MadeUp(CutShare(share, DataFree(), Pool.ALL), Nearest(DataFree()))
    return Recipe("data-free-pruning", (Stage("merge", edit=rule),), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "data-free-pruning",
        REFERENCE,
        "Two neurons with equal incoming weights are one: delete one, and add its outgoing weights to the other's. The "
        "most similar pairs go first, without data and without training.",
        (Claim("LeNet-like network, MNIST", "up to 85 % of the parameters without significant loss", "abstract"),),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
