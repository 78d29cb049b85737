"""Scalpel: what is pruned together follows the hardware (Yu et al. 2017)."""

from collections.abc import Mapping
from enum import Enum

from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Iterative, Objective, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.sparse import Deviations
from featherweight.schemes.structures import Blocks, Filters, Norm
from featherweight.training.objectives import TaskLoss
from featherweight.training.penalties import GroupLasso

REFERENCE = Reference(
    "Scalpel: Customizing DNN Pruning to the Underlying Hardware Parallelism",
    "Yu, Lukefahr, Palframan, Dasika, Das and Mahlke",
    2017,
    url="https://doi.org/10.1145/3079856.3080215",
)
DEVIATIONS = (
    "nodes are chosen by the root mean square of their weights under a group lasso, not by mask layers with learned α",
    "all layers are pruned together, in rounds, not one after the other; thresholds are shares of a layer's RMS",
    "no dropout, so no dropout rate to adjust; Adam with a cosine schedule, from the trained baseline",
    "pruned nodes are zeros in the network, and a bit each in the file; none of our engines has a kernel for groups",
)


class Parallelism(Enum):
    """How much a machine does at once, and with it what is pruned (section 3.1)."""

    LOW = "microcontrollers: groups of SIMD width in every layer"
    MODERATE = "desktop CPUs: groups of SIMD width in linear layers, whole nodes in convolutions"
    HIGH = "GPUs: whole nodes in every layer"


CONVOLUTIONS = Sites(min_dims=4, optional=True)
LINEAR = ("mnist-lenet300",)
"""Tasks without convolutions: on a desktop CPU they have no nodes to draw to zero."""
OUTPUTS: Mapping[str, str] = {"mnist-lenet300": "fc3.weight", "mnist-lenet5": "fc2.weight", "digits": "fc2.weight"}
"""The last layer's weight, a task: its nodes are the classes, and all stay."""
GROUPS: Mapping[str, float] = {"mnist-lenet300": 1.2, "mnist-lenet5": 1.2}
NODES = 0.2
"""Groups of SIMD width, a task, and nodes below this share of their layer's RMS are zero. Ours."""
STRENGTH = 0.01
"""λ of the group lasso. Ours."""
EPOCHS = {"mnist-lenet300": (8, 16), "mnist-lenet5": (6, 8), "digits": (30, 40)}


def recipe(
    task: str = "",
    *,
    parallelism: Parallelism = Parallelism.MODERATE,
    width: int = 8,
    outputs: str | None = None,
    epochs: tuple[int, int] | None = None,
) -> Recipe:
    """Zero the nodes or aligned groups of ``width`` inputs of least root mean square that suit the hardware.

    ``width`` is how many weights one vector instruction takes: 8 numbers of 32 bits in AVX2, 2 of 16 bits in a
    Cortex-M4. The default is the paper's for a desktop CPU. With the engines here only smaller dense layers are faster
    on one: groups make a smaller file, and nothing else. ``outputs`` names the weight whose nodes are the classes.
    """
    first, second = epochs or EPOCHS.get(task, (8, 12))
    last = OUTPUTS.get(task, "") if outputs is None else outputs
    node = GroupSparse(Deviations(NODES), structure=Filters(norm=Norm.RMS))
    group = GroupSparse(Deviations(GROUPS.get(task, 0.9)), structure=Blocks(1, width, norm=Norm.RMS))
    hidden = Sites(exclude=(last,), min_dims=2)
    schemes: dict[Parallelism, dict[str | Sites, Scheme]] = {
        Parallelism.LOW: {WEIGHTS: group},
        Parallelism.MODERATE: {CONVOLUTIONS: node, WEIGHTS: group},
        Parallelism.HIGH: {hidden: node},
    }
    prune = Stage("prune", schemes[parallelism], schedule=Iterative(4), training=Training(second, 1e-3, seed=1))
    if parallelism is Parallelism.LOW or (parallelism is Parallelism.MODERATE and task in LINEAR):
        return Recipe("scalpel", (prune,), REFERENCE, DEVIATIONS)
    drawn = CONVOLUTIONS if parallelism is Parallelism.MODERATE else hidden
    penalty = GroupLasso(STRENGTH, structure=Filters(), sites=drawn)
    draw = Stage("draw", training=Training(first, 1e-3), objective=Objective((TaskLoss(), penalty)))
    return Recipe("scalpel", (draw, prune), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "scalpel",
        REFERENCE,
        "Prune aligned groups as wide as the machine's vectors where it does little at once, whole nodes where it does "
        "much, and on a desktop CPU the ones in linear layers and the others in convolutions.",
        (
            Claim("a microcontroller", "3.54x faster and 88 % smaller, on average", "abstract"),
            Claim("a desktop CPU", "2.61x faster and 82 % smaller, on average", "abstract"),
            Claim("a GPU", "1.25x faster and 53 % smaller, on average", "abstract"),
        ),
        ("mnist-lenet5", "mnist-lenet300", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet5", "mnist-lenet300"),
    )
