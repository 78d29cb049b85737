"""Optimal brain damage (LeCun, Denker and Solla 1990)."""

from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Iterative, Learn, Recipe, Reference, Stage, Training
from featherweight.metrics.curvature import BackpropagatedCurvature
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.sparse import Fraction, Scope, Sparse

REFERENCE = Reference(
    "Optimal Brain Damage",
    "LeCun, Denker and Solla",
    1990,
    url="http://papers.nips.cc/paper/250-optimal-brain-damage.pdf",
)
DEVIATIONS = (
    "the loss is cross entropy, not the squared error; networks are ours, without the paper's shared weights",
    "rounds of pruning are of equal size, Adam with one cosine schedule over all of them, and biases are not pruned",
)
EPOCHS = {"mnist-lenet300": 16, "mnist-lenet5": 8, "digits": 40}
SHARES = {"mnist-lenet300": 0.9, "mnist-lenet5": 0.9}
"""Weights that are deleted in the end, of all layers together."""


def recipe(task: str = "", *, share: float | None = None, rounds: int = 8) -> Recipe:
    """Delete the weights of least ``½ h w²``, over all layers, in ``rounds`` rounds; the others learn after each."""
    stage = Stage(
        "prune",
        {WEIGHTS: Sparse(Fraction(share or SHARES.get(task, 0.9)), scope=Scope.GLOBAL)},
        metric=BackpropagatedCurvature(),
        schedule=Iterative(rounds, power=2.0),
        learn=Learn.DIRECT,
        training=Training(EPOCHS.get(task, 12), 1e-3),
    )
    return Recipe("optimal-brain-damage", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "optimal-brain-damage",
        REFERENCE,
        "At a minimum of the loss, deleting a weight costs half its curvature times its square: take all curvatures by "
        "one backward pass, delete the weights that cost least, train on, and repeat.",
        (
            Claim(
                "handwritten digits, a network of 2,578 free parameters",
                "parameters reduced by a factor of 4; the loss stays flat to far more deletions than by magnitude",
                "memory",
            ),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
