"""Leveraging filter correlations for deep model compression (Singh et al. 2020)."""

from featherweight.channels.redundancy import FilterCorrelation
from featherweight.channels.rules import CutShare, MadeUp
from featherweight.channels.standins import Nearest
from featherweight.core.stage import Objective, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.training.channel_penalties import CorrelatePairs
from featherweight.training.objectives import TaskLoss

REFERENCE = Reference(
    "Leveraging Filter Correlations for Deep Model Compression", "Singh, Verma, Rai and Namboodiri", 2020, "1811.10559"
)
DEVIATIONS = (
    "a fixed number of rounds and a fixed share in each, instead of as many as a loss of accuracy allows",
    "the outgoing weights of a filter that goes are added to those of its twin, by the slope between them",
    "each filter is paired with its most correlated one as the weights stand, anew at every step",
)


def recipe(
    task: str = "", *, share: float = 0.25, rounds: int = 2, weight: float = 1.0, epochs: tuple[int, int] = (2, 3)
) -> Recipe:
    """In every round make pairs of filters alike, remove one of each, and train."""
    score = FilterCorrelation()
    alike = Objective((TaskLoss(), CorrelatePairs(weight, share)))
    stages: list[Stage] = []
    for number in range(1, rounds + 1):
        stages.append(Stage(f"correlate {number}", training=Training(epochs[0], 5e-4), objective=alike))
        rule = MadeUp(CutShare(share, score), Nearest(score))
        stages.append(Stage(f"cut {number}", edit=rule, training=Training(epochs[1], 1e-3)))
    return Recipe("filter-correlation-pruning", tuple(stages), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "filter-correlation-pruning",
        REFERENCE,
        "Filters that are correlated hold the same twice. A penalty makes the most correlated pairs more so, and then "
        "one of each pair goes at little loss.",
        (Claim("ResNet-56, CIFAR-10", "about 61 % fewer operations at 93.3 %", "memory, unsure"),),
        ("mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
