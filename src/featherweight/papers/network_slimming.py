"""Network slimming (Liu et al. 2017)."""

from featherweight.core.stage import Objective, Recipe, Reference, Stage, Training, sgd
from featherweight.papers.paper import Claim, Paper
from featherweight.search.dead import CutGains
from featherweight.training.gains import GainPenalty
from featherweight.training.objectives import TaskLoss

REFERENCE = Reference(
    "Learning Efficient Convolutional Networks through Network Slimming",
    "Liu, Li, Shen, Huang, Yan and Zhang",
    2017,
    "1708.06519",
)
DEVIATIONS = (
    "the network starts from its trained weights and learns for two epochs, where the paper trains 160 from scratch "
    "and as many again after the cut; λ is larger to suit, and the learning rate smaller",
    "a channel of a residual stream goes when the gains of all norms that write it are below the threshold: no layer "
    "selects channels of its input",
    "what the shift of a gain that goes leaves behind is moved to the next layer, which the paper leaves to "
    "fine-tuning; near the borders of padded maps it is not exact",
    "one pass",
)
CIFAR = "cifar10-resnet20"


def recipe(task: str = "", *, share: float = 0.4, penalty: float = 5e-3, epochs: int = 1) -> Recipe:
    """An L1 penalty on the gains of batch norms; the ``share`` of all channels with the smallest gains is cut."""
    bfloat16 = task == CIFAR
    slim = Stage(
        "slim",
        training=Training(epochs, 2e-2, sgd, warmup=0.05, bfloat16=bfloat16),
        objective=Objective((TaskLoss(), GainPenalty(penalty))),
    )
    cut = Stage("cut", edit=CutGains(share), training=Training(epochs, 2e-2, sgd, bfloat16=bfloat16, seed=1))
    return Recipe("network-slimming", (slim, cut), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "network-slimming",
        REFERENCE,
        "Train with an L1 penalty on the gains of batch norms, cut the channels below one threshold for the whole "
        "network, and train what is left.",
        (
            Claim("VGGNet, CIFAR-10", "error 6.34 % to 6.20 %, 88.5 % of parameters and 51 % of FLOPs cut", "memory"),
            Claim("ResNet-164, CIFAR-10", "error 5.42 % to 5.27 %, 35.2 % of parameters cut", "memory"),
            Claim("784-500-300-10, MNIST", "error 1.43 % to 1.53 %, 84.4 % of parameters cut", "memory"),
        ),
        (CIFAR,),
        recipe,
        DEVIATIONS,
    )
