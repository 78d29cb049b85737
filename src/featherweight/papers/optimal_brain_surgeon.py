"""Optimal brain surgeon (Hassibi and Stork 1993)."""

from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Cubic, Learn, Recipe, Reference, Stage, Training
from featherweight.metrics.inverse import InverseHessian
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.sparse import Fraction, Scope, Sparse
from featherweight.solvers.surgeon import Surgeon

REFERENCE = Reference(
    "Second order derivatives for network pruning: Optimal Brain Surgeon",
    "Hassibi and Stork",
    1993,
    url="http://papers.nips.cc/paper/647-second-order-derivatives-for-network-pruning-optimal-brain-surgeon.pdf",
)
DEVIATIONS = (
    "the inverse is measured anew after each of a few rounds, not after each deletion; in between it is that of the "
    "quadratic model without the deleted weights, which is exact",
    "biases are not deleted and do not move",
    "networks of more than a few thousand weights are first pruned by magnitude as they learn: the inverse has the "
    "square of their number of entries",
    "the outputs' squared error is modelled, not the loss that the network was trained with",
)
FIRST = {"mnist-lenet300": (0.98, 20), "digits": (0.95, 24)}
"""What pruning by magnitude takes away before, and the epochs that it takes."""
SHARES = {"mnist-lenet300": 0.985, "digits": 0.97}


def recipe(task: str = "", *, share: float | None = None, rounds: int = 2) -> Recipe:
    """Delete ``share`` of all weights, one by one, with ``rounds`` measurements and no training."""
    first, epochs = FIRST.get(task, (0.0, 0))
    last = share or SHARES.get(task, 0.7)
    shares = [first + (last - first) * (number + 1) / rounds for number in range(rounds)]
    operations = [
        Stage(f"operate {number}", {WEIGHTS: Surgeon(each)}, metric=InverseHessian(samples=256))
        for number, each in enumerate(shares, 1)
    ]
    before = Stage(
        "prune",
        {WEIGHTS: Sparse(Fraction(first), scope=Scope.GLOBAL)},
        schedule=Cubic(every=20),
        learn=Learn.LATENT,
        training=Training(epochs, 2e-3),
    )
    stages = (before, *operations) if epochs else tuple(operations)
    return Recipe("optimal-brain-surgeon", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "optimal-brain-surgeon",
        REFERENCE,
        "Delete the weight whose loss the others can best make up for, and move them by what the inverse Hessian says: "
        "no training between deletions. The inverse is found by one update for each sample.",
        (
            Claim("MONK's problems 1, 2 and 3", "90 %, 76 % and 62 % fewer weights at equal accuracy", "memory"),
            Claim("NETtalk", "18,000 to 1,560 weights, with better generalization", "memory"),
        ),
        ("mnist-lenet300", "digits"),
        recipe,
        DEVIATIONS,
    )
