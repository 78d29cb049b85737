"""SplitNet: layers learn to split into groups that have no weights between them (Kim et al. 2017)."""

from collections.abc import Mapping

from featherweight.activations.memberships import Disconnect, Memberships, SplitPenalty
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Objective, Recipe, Reference, Stage, Training
from featherweight.graph.groups import GroupLayers
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.training.objectives import TaskLoss

REFERENCE = Reference(
    "SplitNet: Learning to Semantically Split Deep Networks for Parameter Reduction and Model Parallelization",
    "Kim, Park, Kim and Hwang",
    2017,
    url="https://proceedings.mlr.press/v70/kim17b.html",
)
DEVIATIONS = (
    "one number of groups in all layers that are split: no tree whose branches split again",
    "from the trained baseline, by Adam, memberships faster than weights; the regularisers' weights are ours",
    "groups are made equally large where they are split, units with the surest memberships first",
    "groups of classes are of ten, not of a hundred and more: what they have in common means less",
    "branches run in one grouped layer each, on one machine; weights and biases are stored in bfloat16",
)
LAYERS: Mapping[str, Sites] = {
    "mnist-lenet300": Sites(("fc2.weight", "fc3.weight")),
    "cifar10-resnet20": Sites(("layer3.[12].*.weight", "linear.weight"), min_dims=2),
    "digits": Sites(("fc1.weight", "fc2.weight")),
}
"""What is split, a task; lower layers are shared by all branches. Of ResNet-20 the last stage but its first block."""
GROUPS: Mapping[str, int] = {"mnist-lenet300": 5}
EPOCHS: Mapping[str, tuple[int, int]] = {"mnist-lenet300": (6, 6), "cifar10-resnet20": (10, 20), "digits": (60, 60)}


def recipe(
    task: str = "",
    *,
    groups: int | None = None,
    sites: Sites | None = None,
    penalty: SplitPenalty | None = None,
    epochs: tuple[int, int] | None = None,
) -> Recipe:
    """Learn which of ``groups`` groups each unit of the layers at ``sites`` is in; split these layers; fine-tune.

    A layer's outputs must be a multiple of the groups, 2 where nothing is said.
    """
    first, second = epochs or EPOCHS.get(task, (10, 10))
    count = groups or GROUPS.get(task, 2)
    where = sites or LAYERS.get(task, WEIGHTS)
    learn = Stage(
        "learn",
        tap=Memberships(count, where),
        training=Training(first, 1e-3, code_lr=30.0),
        objective=Objective((TaskLoss(), penalty or SplitPenalty(between=5.0))),
    )
    half = Float(Width.BFLOAT16)
    stages = (
        learn,
        Stage("disconnect", repairs=(Disconnect(),)),
        Stage("split", edit=GroupLayers(count, where), training=Training(second, 1e-3, seed=1)),
        Stage("side", {WEIGHTS: half, Sites(("*.bias",), optional=True): half}),
    )
    return Recipe("splitnet", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "splitnet",
        REFERENCE,
        "Learn, along with the weights, which group each class and each unit is in, and draw the weights between "
        "groups to zero; then split the layers into branches that have nothing between them.",
        (
            Claim(
                "WRN-16-8, CIFAR-100 and AlexNet, ImageNet",
                "far fewer parameters at comparable or higher accuracy, and faster on several GPUs",
                "abstract",
            ),
        ),
        ("mnist-lenet300", "cifar10-resnet20", "digits"),
        recipe,
        DEVIATIONS,
    )
