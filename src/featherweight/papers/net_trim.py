"""Net-Trim (Aghasi, Abdi, Nguyen and Romberg 2017)."""

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.metrics.responses import LayerResponses
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.sparse import Magnitude, Sparse
from featherweight.solvers.net_trim import NetTrim

REFERENCE = Reference(
    "Net-Trim: Convex Pruning of Deep Neural Networks with Performance Guarantee",
    "Aghasi, Abdi, Nguyen and Romberg",
    2017,
    "1611.05162",
)
DEVIATIONS = (
    "the iteration ends after a number of steps, at the sparsest weight on its way that keeps the guarantee, which is "
    "near the minimum of the l1 norm",
    "biases stay as they are, and are part of what the outputs are held against",
    "a few thousand inputs of each layer are drawn, not all training data",
    "without a task that is known, no layer is taken to be rectified: all its outputs are kept",
)
LAYERS = {
    "mnist-lenet300": (("fc1.weight", True), ("fc2.weight", True), ("fc3.weight", False)),
    "mnist-lenet5": (("conv1.weight", False), ("conv2.weight", False), ("fc1.weight", True), ("fc2.weight", False)),
    "digits": (("conv*.weight", True), ("fc1.weight", True), ("fc2.weight", False)),
}
"""Patterns of weights in the order of the network, and whether a rectifier follows at once."""
TOLERANCES = {"mnist-lenet300": 0.1, "mnist-lenet5": 0.1, "digits": 0.1}


def recipe(
    task: str = "", *, tolerance: float | None = None, cascade: bool = True, samples: int = 2048, iterations: int = 300
) -> Recipe:
    """Each layer's sparsest weight in the l1 norm within ``tolerance``, relative, of its outputs; nothing learns.

    In ``cascade``, layers see inputs from behind the layers that were pruned before; else, in parallel, the original's.
    """
    epsilon = tolerance or TOLERANCES.get(task, 0.05)
    metric = LayerResponses(samples=samples, corrected=cascade)
    layers: tuple[tuple[str | Sites, bool], ...] = LAYERS.get(task, ((WEIGHTS, False),))
    stages = tuple(
        Stage(
            f"trim {number}",
            {where: Sparse(Magnitude())},
            metric=metric,
            projector=NetTrim(epsilon, rectified, iterations=iterations),
        )
        for number, (where, rectified) in enumerate(layers, 1)
    )
    return Recipe("net-trim", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "net-trim",
        REFERENCE,
        "Prune a trained layer by a convex programme: the least sum of magnitudes with which the outputs that its "
        "rectifier lets through stay within a bound, and the others stay blocked. No labels, no training, and "
        "a bound on the error of the whole network.",
        (
            Claim(
                "fully connected network, MNIST", "more than 90 % of the weights, under 1 point of accuracy", "memory"
            ),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
