"""Pruning filters for efficient ConvNets (Li et al. 2017)."""

from featherweight.channels.norms import Norm
from featherweight.channels.rules import CutShare
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper

REFERENCE = Reference(
    "Pruning Filters for Efficient ConvNets", "Li, Kadav, Durdanovic, Samet and Graf", 2017, "1608.08710"
)
DEVIATIONS = (
    "one share for all groups of coupled channels, instead of one by a layer's sensitivity",
    "a filter that is coupled by residual additions is scored over all coupled layers, not by the shortcut's alone",
)


def recipe(task: str = "", *, share: float = 0.3, epochs: int = 10) -> Recipe:
    """Cut a share of the channels, then train."""
    stage = Stage("cut", edit=CutShare(share, Norm()), training=Training(epochs, 1e-3))
    return Recipe("filter-pruning-l1", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "filter-pruning-l1",
        REFERENCE,
        "Remove whole filters of least sum of absolute weights, with the channels that they feed, and retrain.",
        (
            Claim("ResNet-110, CIFAR-10", "up to 38 % less inference cost, near the original accuracy", "abstract"),
            Claim("ResNet-56, CIFAR-10", "27.6 % fewer operations, error 6.96 % to 6.94 %", "memory"),
        ),
        ("digits",),
        recipe,
        DEVIATIONS,
        ("mnist-lenet5",),
    )
