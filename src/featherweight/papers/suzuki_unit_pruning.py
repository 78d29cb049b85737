"""A simple neural network pruning algorithm (Suzuki, Horiba and Sugie 2001)."""

from featherweight.channels.gates import Ablation
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.costs.layers import Parameters
from featherweight.papers.paper import Claim, Paper
from featherweight.search.channels import Narrow

REFERENCE = Reference(
    "A Simple Neural Network Pruning Algorithm with Application to Filter Synthesis",
    "Suzuki, Horiba and Sugie",
    2001,
    url="https://link.springer.com/article/10.1023/A:1009639214138",
)
DEVIATIONS = (
    "several units go in a round, those of least rise of the error for the parameters that they take",
    "a given number of rounds, instead of as many as a limit of the error allows",
    "hidden units alone, no inputs",
)


def recipe(task: str = "", *, share: float = 0.2, rounds: int = 5, epochs: int = 3) -> Recipe:
    """Down to ``share`` of the parameters in rounds: remove units whose loss was tried and did least, and train."""
    rule = Narrow(share ** (1 / rounds), Parameters(), Ablation(), make_up=False)
    stages = [Stage(f"remove {number}", edit=rule, training=Training(epochs, 1e-3)) for number in range(1, rounds + 1)]
    return Recipe("suzuki-unit-pruning", tuple(stages), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "suzuki-unit-pruning",
        REFERENCE,
        "Take every unit out for a moment and look at the error; take the one out for good that did least, retrain, "
        "and go on.",
        (Claim("synthesis of a known filter", "the correct support, with far fewer units", "abstract"),),
        ("mnist-lenet300", "digits"),
        recipe,
        DEVIATIONS,
    )
