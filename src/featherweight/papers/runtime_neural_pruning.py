"""Runtime neural pruning: agents decide for each image how many channels are computed (Lin et al. 2017)."""

from collections.abc import Mapping

from featherweight.activations.agents import ActionValues, Agents
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Objective, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.training.objectives import TaskLoss

REFERENCE = Reference(
    "Runtime Neural Pruning",
    "Lin, Rao, Lu and Zhou",
    2017,
    url="https://papers.nips.cc/paper/6813-runtime-neural-pruning",
)
DEVIATIONS = (
    "no engine here skips what an agent leaves out: the network that is saved computes with zeros, and is no faster; "
    "what would be saved is counted (average_macs)",
    "an agent a layer, linear in the means of the channels that the layer reads, in place of one recurrent network",
    "at first the network learns with channels chosen by chance; agents and network then learn in turn",
    "a constant share of choices is by chance while agents learn; the loss has the weight 1, and the price is ours",
    "from the trained baseline, by Adam; weights and biases are stored in bfloat16, agents as text in the header",
)
MODULES: Mapping[str, tuple[str, ...]] = {
    "digits": ("conv2", "conv3"),
    "mnist-lenet5": ("conv2",),
    "fashion-lenet5": ("conv2",),
    "cifar10-resnet20": ("layer*.conv2",),
}
"""Whose inputs have agents, a task: of ResNet-20 what the blocks have inside."""
EPOCHS: Mapping[str, int] = {"digits": 15, "mnist-lenet5": 2, "fashion-lenet5": 2, "cifar10-resnet20": 4}


def recipe(
    task: str = "",
    *,
    price: float = 0.1,
    choices: int = 4,
    rounds: int = 2,
    modules: tuple[str, ...] | None = None,
    epochs: int | None = None,
) -> Recipe:
    """Learn with channels by chance; then, ``rounds`` times, agents by Q-learning and the network behind them.

    ``price`` is what all computation that agents decide on costs, in units of the task's loss.
    """
    where = modules or MODULES.get(task, ("*",))
    each = epochs or EPOCHS.get(task, 3)
    chance = Stage("chance", tap=Agents(where, choices, 1.0), training=Training(each, 1e-3))
    turns: list[Stage] = []
    for number in range(rounds):
        learn = Training(each, 1e-2, seed=2 * number + 1)
        decide = Objective((ActionValues(price=price),))
        tune = Training(each, 5e-4, seed=2 * number + 2)
        turns.append(Stage(f"agents {number + 1}", tap=Agents(where, choices), training=learn, objective=decide,
                           train_rest=False))  # fmt: skip
        turns.append(Stage(f"network {number + 1}", training=tune, objective=Objective((TaskLoss(),))))
    half = Float(Width.BFLOAT16)
    side = Stage("side", {WEIGHTS: half, Sites(("*.bias",), optional=True): half})
    return Recipe("runtime-neural-pruning", (chance, *turns, side), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "runtime-neural-pruning",
        REFERENCE,
        "Keep the whole network, and let an agent that looks at the feature maps decide, image by image and layer by "
        "layer, how many groups of channels are computed: it learns by Q-learning, in turn with the network.",
        (
            Claim("networks off the shelf", "a better balance of speed and accuracy, above all where much is pruned",
                  "abstract"),
            Claim("VGG-16, ImageNet", "top-5 error 2.32 points higher at 3x fewer operations, 3.23 at 4x, 3.58 at 5x, "
                  "4.89 at 10x", "memory, unconfirmed"),
        ),
        ("digits", "mnist-lenet5", "fashion-lenet5", "cifar10-resnet20"),
        recipe,
        DEVIATIONS,
    )  # fmt: skip
