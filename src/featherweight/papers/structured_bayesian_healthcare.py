"""Structured Bayesian compression for connected healthcare (2019)."""

from featherweight.activations.gates import FoldGates, Gates, GroupNoise, NoiseDivergence
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Iterative, Objective, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.sparse import Magnitude, Sparse
from featherweight.search.dead import CutDead
from featherweight.training.objectives import TaskLoss

REFERENCE = Reference(
    "Structured Bayesian Compression for Deep models in mobile enabled devices for connected healthcare",
    "Chen, Liu and others",
    2019,
    "1902.05429",
)
DEVIATIONS = (
    "written from the abstract: the prior is the log-uniform scale mixture on groups, one of the family that the paper "
    "draws from; there are no blocks within groups, and weights have point values",
    "the divergence counts more than once: a group's noise is worth as much as `strength` data sets say",
    "the prior comes in over the first ten parts of the training, each a tenth stronger",
    "groups are cut where log α is above one",
    "MNIST, not the paper's histology images; the network starts from its trained weights",
    "after the cut, what is left learns for some epochs without noise",
)
SAMPLES = {"mnist-lenet300": 55_000, "mnist-lenet5": 55_000, "digits": 998}
EPOCHS = {"mnist-lenet300": (20, 8), "mnist-lenet5": (10, 4), "digits": (60, 20)}
"""With noise, and after the cut."""


def recipe(task: str = "", *, strength: float = 10.0) -> Recipe:
    """Multiplicative noise on all channels and inputs whose variance learns under a log-uniform prior."""
    first, second = EPOCHS.get(task, (10, 5))
    noise = Stage(
        "noise",
        tap=Gates(GroupNoise),
        schedule=Iterative(10),
        training=Training(first, 1e-3, code_lr=10.0, final=0.1),
        objective=Objective((TaskLoss(), NoiseDivergence(strength / SAMPLES.get(task, 50_000), rising=True))),
    )
    fold = Stage("fold", repairs=(FoldGates(),))
    cut = Stage("cut", edit=CutDead(optional=True))
    rest = Stage("rest", {WEIGHTS: Sparse(Magnitude())}, training=Training(second, 5e-4, seed=1))
    return Recipe("structured-bayesian-healthcare", (noise, fold, cut, rest), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "structured-bayesian-healthcare",
        REFERENCE,
        "Learn the noise that groups of weights can bear under a prior that wants scales at zero; groups that are "
        "noise are removed.",
        (Claim("MNIST, histology images", "compression with the accuracy retained; no figure read", "abstract"),),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
