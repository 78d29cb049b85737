"""Group-wise brain damage: convolutions lose whole columns of their matrices (Lebedev and Lempitsky 2016)."""

from collections.abc import Mapping

from featherweight.core.site import Sites
from featherweight.core.stage import Objective, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.sparse import Fraction
from featherweight.schemes.structures import Columns
from featherweight.training.objectives import TaskLoss
from featherweight.training.penalties import GroupLasso

REFERENCE = Reference("Fast ConvNets Using Group-wise Brain Damage", "Lebedev and Lempitsky", 2016, "1506.02515")
DEVIATIONS = (
    "the share of the groups that is to go is given; the penalty is on the smallest groups of that share, and they are "
    "put to zero together, after it",
    "from the trained baseline, by Adam with a cosine schedule; λ is ours",
    "all convolutions are pruned in one run; linear layers are left as they are",
    "no convolution over fewer columns is run: columns are zeros in the network, and a bit each in the file",
)
CONVOLUTIONS = Sites(min_dims=4)
SHARES: Mapping[str, float] = {"mnist-lenet5": 0.75, "digits": 0.75}
EPOCHS = {"mnist-lenet5": (6, 4), "digits": (40, 20)}


def recipe(
    task: str = "", *, share: float | None = None, strength: float = 0.01, epochs: tuple[int, int] | None = None
) -> Recipe:
    """Draw a share of the columns of every convolution's matrix to zero, put them there, and learn the others.

    A column is what all filters hold at one input channel and kernel position.
    """
    first, second = epochs or EPOCHS.get(task, (10, 5))
    gone = SHARES.get(task, 0.5) if share is None else share
    penalty = GroupLasso(strength, structure=Columns(), sites=CONVOLUTIONS, smallest=gone)
    return Recipe(
        "group-brain-damage",
        (
            Stage("draw", training=Training(first, 1e-3), objective=Objective((TaskLoss(), penalty))),
            Stage(
                "damage",
                {CONVOLUTIONS: GroupSparse(Fraction(gone), structure=Columns())},
                training=Training(second, 3e-4, seed=1),
            ),
        ),
        REFERENCE,
        DEVIATIONS,
    )


def paper() -> Paper:
    return Paper(
        "group-brain-damage",
        REFERENCE,
        "Learn under the l2,1 norm of groups that hold all filters' weights at one input channel and kernel position; "
        "what is zero then leaves the product of matrices that a convolution is.",
        (
            Claim(
                "AlexNet, ImageNet",
                "convolutions several times faster (about 3x all of them) at about 1 % less accuracy",
                "memory, unconfirmed",
            ),
        ),
        ("mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet5",),
    )
