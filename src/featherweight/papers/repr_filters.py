"""RePr: improved training of convolutional filters (Prakash, Storer, Florencio and Zhang 2019)."""

from featherweight.channels.overlap import FilterOverlap, Reintroduce
from featherweight.core.scheme import Scheme
from featherweight.core.site import Sites
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.amounts import Fraction
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.sparse import Scope
from featherweight.schemes.structures import Filters, Norm

REFERENCE = Reference(
    "RePr: Improved Training of Convolutional Filters",
    "Prakash, Storer, Florencio and Zhang",
    2018,
    "1811.07275",
)
DEVIATIONS = (
    "the network may start from trained weights, where the paper trains from scratch",
    "Adam, at a constant rate but for the last phase, which ends in a cosine; moments start anew in every phase",
    "the bias of a filter that is dropped stays, so that its channel is a constant for the time",
    "filters that come back have the mean length of those that stayed, and all have the seed's directions",
    "a layer of more filters than dimensions, such as a first one of few channels, is left out",
)
FILTERS: dict[str, str | Sites] = {
    "digits": Sites(("conv2.weight", "conv3.weight")),
    "fashion-lenet5": "conv2.weight",
    "mnist-lenet5": "conv2.weight",
}
"""Convolutions behind the first. Elsewhere all of them."""
EPOCHS = {"digits": (10, 5), "fashion-lenet5": (4, 2), "mnist-lenet5": (2, 1), "cifar10-resnet20": (4, 2)}
"""In full and without the dropped filters, in every cycle."""


def recipe(
    task: str = "",
    *,
    share: float = 0.3,
    cycles: int = 3,
    epochs: tuple[int, int] | None = None,
    lr: float = 1e-3,
    seed: int = 0,
) -> Recipe:
    """``cycles`` of training all, then all but the ``share`` of filters of the largest overlap; in the end all again.

    The network is as large as it was: nothing is compressed.
    """
    full, part = epochs or EPOCHS.get(task, (4, 2))
    where = FILTERS.get(task, Sites(("*.weight",), min_dims=4))
    drop: Scheme = GroupSparse(Fraction(share), scope=Scope.GLOBAL, structure=Filters(norm=Norm.RMS))
    stages = []
    for cycle in range(cycles):
        first = seed + 2 * cycle
        stages += [
            Stage(f"all {cycle + 1}", training=Training(full, lr, final=1.0, seed=first)),
            Stage(
                f"without {cycle + 1}",
                {where: drop},
                metric=FilterOverlap(),
                training=Training(part, lr, final=1.0, seed=first + 1),
                repairs=(Reintroduce(first),),
            ),
        ]
    stages.append(Stage("all", training=Training(full, lr, seed=seed + 2 * cycles)))
    return Recipe("repr", tuple(stages), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "repr",
        REFERENCE,
        "Train, take out the filters that overlap most with others of their layer, train the rest, and put the missing "
        "ones back orthogonal to all that is there and to what they were; repeat. No smaller network: filters that say "
        "different things, and better generalization.",
        (
            Claim(
                "convolutional networks on several tasks",
                "less overlap of features and better generalization, most so for smaller networks",
                "abstract",
            ),
            Claim("small convolutional networks, CIFAR-10", "several points of accuracy", "memory, unconfirmed"),
        ),
        ("digits", "fashion-lenet5", "mnist-lenet5", "cifar10-resnet20"),
        recipe,
        DEVIATIONS,
    )
