"""MorphNet (Gordon, Eban, Nachum, Chen, Wu, Yang and Choi 2018)."""

from featherweight.activations.repairs import NormReestimation
from featherweight.channels.morph import Morph
from featherweight.channels.rules import MadeUp
from featherweight.channels.standins import Constants
from featherweight.core.stage import Objective, Recipe, Reference, Stage, Training, sgd
from featherweight.costs.layers import CostRule, Macs
from featherweight.papers.paper import Claim, Paper
from featherweight.training.gains import CostedGains
from featherweight.training.objectives import TaskLoss

REFERENCE = Reference(
    "MorphNet: Fast & Simple Resource-Constrained Structure Learning of Deep Networks",
    "Gordon, Eban, Nachum, Chen, Wu, Yang and Choi",
    2017,
    "1711.06798",
)
DEVIATIONS = (
    "no layer becomes wider than it was, since edits only cut: the multiplier spares channels of the network that was "
    "shrunk instead of adding new ones, and the budget is a share of that network's cost, to which each round comes "
    "nearer from above; start from a wider network to spend as much as the seed does",
    "channels that are spared, weak as they are, keep their values, and the network learns on; the paper trains the "
    "found structure anew",
    "the network starts from its trained weights and learns for an epoch with the penalty and one after the cut; the "
    "penalty is larger to suit",
    "the norm of a penalty is relative to the cost of the whole model",
)
CIFAR = "cifar10-resnet20"
ROUNDS = {CIFAR: 1}


def recipe(
    task: str = "",
    *,
    share: float = 0.6,
    cost: CostRule | None = None,
    penalty: float = 4.0,
    alive: float = 0.1,
    rounds: int | None = None,
    epochs: int = 1,
) -> Recipe:
    """Shrink by a penalty on gains by what they ``cost``, and expand what lives to the budget, ``rounds`` times; learn.

    The budget falls in equal ratios to ``share`` of the cost.
    """
    count = rounds or ROUNDS.get(task, 2)
    resource, bfloat16 = cost or Macs(), task == CIFAR
    stages = []
    for number in range(count):
        stages += [
            Stage(
                f"shrink {number + 1}",
                training=Training(epochs, 2e-2, sgd, warmup=0.05, seed=number, bfloat16=bfloat16),
                objective=Objective((TaskLoss(), CostedGains(penalty, cost=resource))),
            ),
            Stage(
                f"expand {number + 1}",
                edit=MadeUp(Morph(share ** (1 / count), resource, alive=alive), Constants()),
                repairs=(NormReestimation(),),
            ),
        ]
    stages.append(Stage("learn", training=Training(epochs, 2e-2, sgd, seed=count, bfloat16=bfloat16)))
    return Recipe("morphnet", tuple(stages), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "morphnet",
        REFERENCE,
        "Shrink a network by a penalty on its channels that is weighted by what they cost of one resource, expand all "
        "layers by one factor until the budget is spent, and repeat: widths move to where they are worth it.",
        (
            Claim(
                "standard networks on several data sets",
                "novel structures of higher performance within the resource constraint",
                "abstract",
            ),
            Claim("Inception-v2, ImageNet", "74.1 % to 75.2 % top-1 at equal FLOPs", "memory, unconfirmed"),
        ),
        (CIFAR,),
        recipe,
        DEVIATIONS,
    )
