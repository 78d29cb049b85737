"""CondenseNet: convolutions learn which inputs each group of filters reads (Huang et al. 2017)."""

from collections.abc import Mapping

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Condensing, Learn, Objective, Recipe, Reference, Stage, Training
from featherweight.graph.groups import GroupLayers
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.amounts import RowFraction
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.structures import FilterGroups, Norm
from featherweight.training.objectives import TaskLoss
from featherweight.training.penalties import GroupLasso

REFERENCE = Reference(
    "CondenseNet: An Efficient DenseNet using Learned Group Convolutions",
    "Huang, Liu, van der Maaten and Weinberger",
    2017,
    "1711.09224",
)
DEVIATIONS = (
    "the layers of our networks are condensed, among them convolutions of 3x3 and 5x5 and a linear one: no dense "
    "connections, no growth rate, no 1x1 bottlenecks before them",
    "from the trained baseline, by Adam; λ is ours, and the lasso stays on in the second half of the training",
    "groups are filters that follow each other, as they were trained: no permutation behind a layer",
    "the classifier keeps all of its inputs; weights and biases are stored in bfloat16",
)
CONVOLUTIONS = Sites(min_dims=4)
LAYERS: Mapping[str, Sites] = {
    "mnist-lenet5": Sites(("conv2.weight", "fc1.weight")),
    "cifar10-resnet20": Sites(exclude=("conv1.weight",), min_dims=4),
    "digits": Sites(("conv2.weight", "conv3.weight", "fc1.weight")),
}
"""What is condensed, a task: not the layer that reads the image, and not the classifier."""
GROUPS: Mapping[str, int] = {"mnist-lenet5": 5}
EPOCHS: Mapping[str, int] = {"mnist-lenet5": 14, "cifar10-resnet20": 30, "digits": 60}


def recipe(
    task: str = "",
    *,
    groups: int | None = None,
    factor: int | None = None,
    sites: Sites | None = None,
    strength: float = 1e-4,
    epochs: int | None = None,
) -> Recipe:
    """Condense ``sites`` in ``factor − 1`` stages until each of ``groups`` groups reads ``1 / factor`` of the inputs.

    A layer's number of filters must be a multiple of ``groups``, 4 where nothing is said; the condensation factor is
    the number of groups. ``sites`` leave out what reads the image, and depthwise layers. The network
    that is saved has ordinary convolutions in groups, behind an index.
    """
    count = groups or GROUPS.get(task, 4)
    condensation = factor or count
    where = sites or LAYERS.get(task, CONVOLUTIONS)
    structure = FilterGroups(count, norm=Norm.L1)
    scheme = GroupSparse(RowFraction(1 - 1 / condensation), structure=structure)
    condense = Stage(
        "condense",
        {where: scheme},
        schedule=Condensing(condensation - 1),
        learn=Learn.LATENT,
        training=Training(epochs or EPOCHS.get(task, 20), 1e-3, final=0.0),
        objective=Objective((TaskLoss(), GroupLasso(strength, structure=structure, sites=where))),
    )
    half = Float(Width.BFLOAT16)
    side = Stage("side", {WEIGHTS: half, Sites(("*.bias",), optional=True): half})
    stages = (condense, Stage("group", edit=GroupLayers(count, where)), side)
    return Recipe("condensenet", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "condensenet",
        REFERENCE,
        "Drop, in stages while training, the inputs that matter least to each group of filters, until what is left is "
        "a convolution in groups behind an index of its inputs.",
        (
            Claim("CondenseNet-86, CIFAR-10", "error 5.06 %, 0.52 M parameters, 65.8 M operations", "authors' README"),
            Claim("CondenseNet-182, CIFAR-10", "error 3.76 %, 4.2 M parameters, 513 M operations", "authors' README"),
            Claim(
                "CondenseNet-74, ImageNet",
                "top-1 error 26.2 % with 4 groups at 529 M operations, 29.0 % with 8 at 274 M",
                "authors' README",
            ),
        ),
        ("mnist-lenet5", "cifar10-resnet20", "digits"),
        recipe,
        DEVIATIONS,
        ("digits",),
    )
