"""Structured sparsity learning: a group lasso over filters, channels or filter shapes (Wen et al. 2016)."""

from collections.abc import Mapping, Sequence

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Objective, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.sparse import Deviations, Magnitude, Sparse
from featherweight.schemes.structures import Channels, Filters, Norm, Structure
from featherweight.training.objectives import TaskLoss
from featherweight.training.penalties import GroupLasso

REFERENCE = Reference(
    "Learning Structured Sparsity in Deep Neural Networks", "Wen, Wu, Wang, Chen and Li", 2016, "1608.03665"
)
DEVIATIONS = (
    "from the trained baseline, by Adam with a cosine schedule; λ is ours",
    "groups are put to zero once, by a threshold on their root mean square, after the penalty and before fine-tuning",
    "depth is left out: a whole layer can be zero only behind a shortcut, and a code holds one group at least",
    "zero groups stay in the network as zeros; the file holds next to nothing of them",
    "linear layers are not penalised; weights and biases are stored in bfloat16",
)
CONVOLUTIONS = Sites(min_dims=4)
STRUCTURES: tuple[Structure, ...] = (Filters(norm=Norm.RMS), Channels(norm=Norm.RMS))
STRENGTH: Mapping[str, float] = {"mnist-lenet5": 0.01, "digits": 0.01}
EPOCHS = {"mnist-lenet5": (8, 4), "digits": (40, 20)}


def recipe(
    task: str = "",
    *,
    structures: Sequence[Structure] = STRUCTURES,
    strength: float | None = None,
    epochs: tuple[int, int] | None = None,
) -> Recipe:
    """Learn under ``strength`` times the group norms of every structure; zero groups below a fifth of the layer's RMS.

    Filters and channels are what the paper prunes in LeNet-5; ``(Columns(norm=Norm.RMS),)`` are its filter shapes.
    """
    first, second = epochs or EPOCHS.get(task, (10, 5))
    weight = STRENGTH.get(task, 1e-3) if strength is None else strength
    penalties = tuple(GroupLasso(weight, structure=structure, sites=CONVOLUTIONS) for structure in structures)
    learn = Stage("learn", training=Training(first, 1e-3), objective=Objective((TaskLoss(), *penalties)))
    zero = tuple(
        Stage(f"zero {number}", {CONVOLUTIONS: GroupSparse(Deviations(0.2), structure=structure)})
        for number, structure in enumerate(structures, 1)
    )
    rest: tuple[Stage, ...] = (
        Stage("survivors", {CONVOLUTIONS: Sparse(Magnitude())}, training=Training(second, 3e-4, seed=1)),
        Stage(
            "side",
            {
                CONVOLUTIONS: Sparse(Magnitude()).then(Float(Width.BFLOAT16)),
                WEIGHTS: Float(Width.BFLOAT16),
                Sites(("*.bias",), optional=True): Float(Width.BFLOAT16),
            },
        ),
    )
    return Recipe("structured-sparsity-learning", (learn, *zero, *rest), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "structured-sparsity-learning",
        REFERENCE,
        "Add to the loss the norms of groups of weights, so that whole filters, channels or filter shapes learn to be "
        "zero; remove them and fine-tune what is left.",
        (
            Claim("AlexNet, ImageNet", "convolutions 5.1x faster on a CPU and 3.1x on a GPU, on average", "abstract"),
            Claim("ResNet-20, CIFAR-10", "18 of 20 layers by pruned depth, accuracy 91.25 % to 92.60 %", "abstract"),
            Claim(
                "LeNet-5, MNIST", "20 and 50 filters to 5 and 19, error 0.9 % to 0.8 %; to 3 and 12, 1.0 %", "memory"
            ),
        ),
        ("mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet5",),
    )
