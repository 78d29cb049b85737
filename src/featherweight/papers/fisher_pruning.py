"""Faster gaze prediction with dense networks and Fisher pruning (Theis et al. 2018)."""

from featherweight.channels.gates import GateFisher
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.costs.layers import Macs
from featherweight.papers.paper import Claim, Paper
from featherweight.search.channels import Narrow
from featherweight.training.objectives import distillation

REFERENCE = Reference(
    "Faster gaze prediction with dense networks and Fisher pruning",
    "Theis, Korshunova, Tejani and Huszar",
    2018,
    "1801.05787",
)
DEVIATIONS = (
    "a few rounds that each take an equal share of the operations, instead of one map after some updates",
    "the gradients are of calibration data before a round, not gathered while the network learns",
    "the ratio of what the loss rises by to the operations that are saved decides in every cut",
)


def recipe(task: str = "", *, share: float = 0.3, rounds: int = 5, epochs: int = 2) -> Recipe:
    """Down to ``share`` of the multiply-accumulates in rounds; the network learns from the original in between."""
    rule = Narrow(share ** (1 / rounds), Macs(), GateFisher(batches=2), make_up=False)
    training, objective = Training(epochs, 5e-4), distillation(1.0, 0.5)
    stages = [Stage(f"cut {number}", edit=rule, training=training, objective=objective) for number in range(rounds)]
    return Recipe("fisher-pruning", tuple(stages), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "fisher-pruning",
        REFERENCE,
        "Remove the feature maps with the least rise of the loss for the cost that they save; the rise is half the "
        "squared gradient by a gate on the map, averaged over samples.",
        (Claim("gaze prediction, CAT2000", "10x faster at the same AUC", "memory"),),
        ("mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
