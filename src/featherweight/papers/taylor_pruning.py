"""Pruning convolutional neural networks for resource efficient transfer learning (Molchanov et al. 2017)."""

from featherweight.channels.gates import Taylor
from featherweight.channels.scores import ByNorm
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.costs.layers import Macs
from featherweight.papers.paper import Claim, Paper
from featherweight.search.channels import Narrow

REFERENCE = Reference(
    "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    "Molchanov, Tyree, Karras, Aila and Kautz",
    2017,
    "1611.06440",
)
DEVIATIONS = (
    "a few rounds that each take an equal share of the operations, instead of one map after some thirty updates",
    "the score is divided by the operations that a cut saves, instead of less a constant times them",
    "a channel's change of the loss is the sum over its positions, not their mean, and over all layers that read it",
)


def recipe(task: str = "", *, share: float = 0.3, rounds: int = 5, epochs: int = 2) -> Recipe:
    """Down to ``share`` of the multiply-accumulates in rounds, each cut followed by ``epochs`` of training."""
    rule = Narrow(share ** (1 / rounds), Macs(), Taylor(batches=2, normalisation=ByNorm()), make_up=False)
    stages = [Stage(f"cut {number}", edit=rule, training=Training(epochs, 5e-4)) for number in range(1, rounds + 1)]
    return Recipe("taylor-pruning", tuple(stages), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "taylor-pruning",
        REFERENCE,
        "Remove the feature maps whose loss changes the cost least to the first order, activation times gradient, in "
        "turns with training.",
        (Claim("VGG-16, ImageNet", "30.96 to 11.5 billion operations at top-5 89.3 % to 87.0 %", "memory, unsure"),),
        ("mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
