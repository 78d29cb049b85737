"""To prune, or not to prune (Zhu and Gupta 2017)."""

from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Cubic, Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.sparse import Fraction, Sparse

REFERENCE = Reference(
    "To prune, or not to prune: exploring the efficacy of pruning for model compression",
    "Zhu and Gupta",
    2017,
    "1710.01878",
)
DEVIATIONS = (
    "masks are renewed every 100 steps on MNIST and every 10 on digits, as the runs are short",
    "Adam with a cosine schedule, from the trained baseline",
)
EPOCHS = {"mnist-lenet300": 20, "mnist-lenet5": 10, "digits": 60}


def recipe(task: str = "", *, share: float = 0.9) -> Recipe:
    """All weight matrices to ``share`` zeros on the cubic schedule, gradients masked."""
    schedule = Cubic(every=10 if task == "digits" else 100, end=0.7)
    stage = Stage(
        "prune",
        {WEIGHTS: Sparse(Fraction(share))},
        schedule=schedule,
        learn=Learn.LATENT,
        training=Training(EPOCHS.get(task, 10), 1e-3),
    )
    return Recipe("gradual-pruning", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "gradual-pruning",
        REFERENCE,
        "Raise the sparsity along a cubic from zero to its end while the network trains, masking the smallest weights.",
        (
            Claim(
                "MobileNet, ImageNet", "top-1 70.6 % dense, 69.5 % at 50 % zeros, 67.7 % at 75 %", "PocketFlow's README"
            ),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300", "mnist-lenet5"),
    )
