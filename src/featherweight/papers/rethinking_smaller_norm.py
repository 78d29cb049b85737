"""Rethinking the smaller-norm-less-informative assumption (Ye et al. 2018)."""

from featherweight.channels.norms import NormScale
from featherweight.channels.rules import CutShare, MadeUp, Pool
from featherweight.channels.scores import Only
from featherweight.channels.standins import Constants
from featherweight.core.site import Sites
from featherweight.core.stage import Iterative, Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.shrinkage import L1Penalty, Shrunk

REFERENCE = Reference(
    "Rethinking the Smaller-Norm-Less-Informative Assumption in Channel Pruning of Convolution Layers",
    "Ye, Lu, Lin and Wang",
    2018,
    "1802.00124",
)
DEVIATIONS = (
    "soft thresholding some hundred times in a training, instead of at every step",
    "one price for all layers, instead of one by the memory that a channel takes; scales are not made smaller first",
    "a given share of the channels goes, those of least scale, whether that has reached zero or not; a channel that "
    "still changes is replaced by its mean",
    "constants go into the next norm's offset, which is the same as into its running mean",
    "of ResNets the first convolution of every block, whose outputs no residual addition shares",
)
SCALES = {"cifar10-resnet20": ("layer*.bn1.weight",)}
"""Patterns of the scales that are made sparse; elsewhere of the weights of all batch norms, by their usual names."""
MADE = {"cifar10-resnet20": ("layer*.conv1.weight",)}


def recipe(
    task: str = "", *, share: float = 0.37, price: float = 2e-3, rounds: int = 200, epochs: tuple[int, int] = (2, 2)
) -> Recipe:
    """Make scales sparse, cut the channels of the smallest, move their constants into what follows, and train."""
    sites = Sites(SCALES.get(task, ("*bn*.weight", "*norm*.weight")), optional=task not in SCALES)
    sparse = Stage(
        "shrink scales",
        {sites: Shrunk(L1Penalty(price))},
        schedule=Iterative(rounds, fixed=True),
        learn=Learn.FREE,
        training=Training(epochs[0], 5e-4),
    )
    score = Only(NormScale(), MADE.get(task, ("*",)))
    cut = Stage(
        "cut",
        edit=MadeUp(CutShare(share, score, Pool.ALL), Constants()),
        training=Training(epochs[1], 1e-3),
    )
    return Recipe("rethinking-smaller-norm", (sparse, cut), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "rethinking-smaller-norm",
        REFERENCE,
        "Do not remove what is small but what is constant: soft thresholding drives scales of batch norms to zero, and "
        "the constants that are left of such channels are absorbed by what follows.",
        (Claim("ResNet-20, CIFAR-10", "37 % fewer channels, 92.0 % to 90.9 %", "memory, unsure"),),
        ("cifar10-resnet20",),
        recipe,
        DEVIATIONS,
    )
