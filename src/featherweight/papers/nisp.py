"""NISP: pruning networks using neuron importance score propagation (Yu et al. 2018)."""

from featherweight.channels.propagation import Propagated
from featherweight.channels.rules import CutShare
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper

REFERENCE = Reference(
    "NISP: Pruning Networks using Neuron Importance Score Propagation",
    "Yu, Li, Chen, Lai, Morariu, Han, Gao, Lin and Davis",
    2018,
    "1711.05908",
)
DEVIATIONS = (
    "the same share of every group of channels, instead of one for each layer",
    "infinite feature selection takes Pearson's correlation for Spearman's",
    "importance passes norms by their scale, and a maximum to the entry that it is",
)


def recipe(task: str = "", *, share: float = 0.4, epochs: int = 8) -> Recipe:
    """Rank all channels in one pass, cut a share of every group, then train."""
    stage = Stage("cut", edit=CutShare(share, Propagated()), training=Training(epochs, 1e-3))
    return Recipe("nisp", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "nisp",
        REFERENCE,
        "Rank the features before the classifier, and propagate their importance back through absolute weights: one "
        "pass says which neurons of all layers matter to the final responses.",
        (
            Claim("ResNet-56, CIFAR-10", "43.61 % fewer operations, 42.60 % fewer parameters, 0.03 % lost", "memory"),
            Claim("AlexNet, ImageNet", "67.85 % fewer operations, 1.43 % lost", "memory"),
        ),
        ("mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
