"""Energy-aware pruning (Yang, Chen and Sze 2017)."""

from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.costs.energy import Energy
from featherweight.metrics.order import CostliestFirst
from featherweight.metrics.responses import StudentResponses
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.sparse import RowFraction, Sparse
from featherweight.solvers.restoration import Restoration

REFERENCE = Reference(
    "Designing Energy-Efficient Convolutional Neural Networks using Energy-Aware Pruning",
    "Yang, Chen and Sze",
    2017,
    "1611.05128",
)
DEVIATIONS = (
    "accesses are counted for an idealised row-stationary dataflow, where the paper's tool searches a mapping for "
    "every layer; relative costs of Eyeriss, and zeros of the inputs as if independent of the weights'",
    "the same share of every row of every layer goes, in a given number of iterations; the paper takes as much as the "
    "loss allows, layer by layer",
    "entries come back in a few rounds, and by their error on a few thousand sampled inputs of the layer; the last "
    "layer too is fitted to its outputs before the softmax",
    "outputs are those of the network as the iteration finds it; Adam with a cosine schedule between iterations",
)
SHARES = {"mnist-lenet300": (0.8, 0.91), "mnist-lenet5": (0.8, 0.91), "digits": (0.8, 0.9)}
"""What is zero after each iteration; 0.91 is the 11-fold of the weights that the paper reaches on AlexNet (memory)."""
EPOCHS = {"mnist-lenet300": 8, "mnist-lenet5": 4, "digits": 15}


def recipe(
    task: str = "", *, shares: tuple[float, ...] | None = None, restored: float = 0.2, epochs: int | None = None
) -> Recipe:
    """In every iteration: the layers, costliest first, are pruned and fitted to their outputs; then all learn.

    ``restored`` is the share of each row's survivors that is chosen by the output error, in place of magnitude.
    """
    each = EPOCHS.get(task, 4) if epochs is None else epochs
    stages = tuple(
        Stage(
            f"prune {number}",
            {WEIGHTS: Sparse(RowFraction(share))},
            metric=CostliestFirst(StudentResponses(samples=2048), Energy()),
            projector=Restoration(restored),
            training=Training(each, 1e-3, seed=number - 1) if each else None,
        )
        for number, share in enumerate(shares or SHARES.get(task, (0.7, 0.85)), 1)
    )
    return Recipe("energy-aware-pruning", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "energy-aware-pruning",
        REFERENCE,
        "Estimate what each layer costs in energy, memory accesses included, and prune the costliest first: remove "
        "small weights, restore those that the outputs miss most, fit the others to the outputs in closed form, and "
        "train the whole network once all layers are pruned.",
        (
            Claim("AlexNet, ImageNet", "3.7x less energy, less than 1 % top-5 accuracy lost", "abstract"),
            Claim("GoogLeNet, ImageNet", "1.6x less energy, less than 1 % top-5 accuracy lost", "abstract"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
