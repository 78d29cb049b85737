"""DSD: dense, sparse, dense training as a regularizer (Han et al. 2016)."""

from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float
from featherweight.schemes.sparse import Fraction, Sparse

REFERENCE = Reference(
    "DSD: Dense-Sparse-Dense Training for Deep Neural Networks",
    "Han, Pool, Narang, Mao, Gong, Tang, Elsen, Vajda, Paluri, Tran, Catanzaro and Dally",
    2016,
    "1607.04381",
)
DEVIATIONS = (
    "the first dense phase is the task's baseline",
    "Adam with a cosine schedule in each phase, the last at a tenth of the rate",
)
EPOCHS = {"mnist-lenet300": (12, 8), "mnist-lenet5": (5, 3), "fashion-lenet5": (5, 3), "digits": (30, 20)}


def recipe(task: str = "", *, share: float = 0.4, lr: float = 1e-3, epochs: tuple[int, int] | None = None) -> Recipe:
    """Zero ``share`` of every weight and train the others; then train all of them, the zeroed from zero."""
    sparse, dense = epochs or EPOCHS.get(task, (5, 3))
    return Recipe(
        "dsd",
        (
            Stage("sparse", {WEIGHTS: Sparse(Fraction(share))}, training=Training(sparse, lr)),
            Stage("dense", {WEIGHTS: Float()}, training=Training(dense, lr / 10, seed=1)),
        ),
        REFERENCE,
        DEVIATIONS,
    )


def paper() -> Paper:
    checked = "(memory), unconfirmed"
    return Paper(
        "dsd",
        REFERENCE,
        "Train, prune the smallest weights and train under the mask, then take the mask away and train all weights, "
        "the pruned ones from zero, at a tenth of the rate: no smaller network, but a better one.",
        (
            Claim("GoogLeNet, ImageNet", "top-1 error 31.1 % to 30.0 %", checked),
            Claim("ResNet-18, ImageNet", "top-1 error 30.4 % to 29.2 %", checked),
            Claim("ResNet-50, ImageNet", "top-1 error 24.0 % to 22.9 %", checked),
        ),
        ("mnist-lenet300", "mnist-lenet5", "fashion-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
