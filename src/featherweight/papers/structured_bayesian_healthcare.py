"""Structured Bayesian compression for connected healthcare (2019)."""

from featherweight.activations.gates import Gates, GroupNoise, NoiseDivergence
from featherweight.core.stage import Iterative, Objective, Recipe, Reference, Stage
from featherweight.papers import gated
from featherweight.papers.paper import Claim, Paper
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


def recipe(task: str = "", *, strength: float = 10.0) -> Recipe:
    """Multiplicative noise on all channels and inputs whose variance learns under a log-uniform prior."""
    noise = Stage(
        "noise",
        tap=Gates(GroupNoise),
        schedule=Iterative(10),
        training=gated.learning(task),
        objective=Objective((TaskLoss(), NoiseDivergence(strength / gated.samples(task), rising=True))),
    )
    return Recipe("structured-bayesian-healthcare", (noise, *gated.afterwards(task)), REFERENCE, DEVIATIONS)


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
