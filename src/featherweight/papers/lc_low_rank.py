"""Low-rank compression with learned ranks by learning-compression (Idelbayev and Carreira-Perpiñán 2020)."""

from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Iterative, Learn, Objective, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.lowrank import LowRank, Price
from featherweight.training.objectives import TaskLoss
from featherweight.training.penalties import Pull

REFERENCE = Reference(
    "Low-Rank Compression of Neural Nets: Learning the Rank of Each Layer", "Idelbayev and Carreira-Perpiñán", 2020
)
DEVIATIONS = (
    "μ is raised stage by stage with few steps each, not by a long exponential schedule",
    "the price of a rank is its parameters, in float16",
)


def recipe(task: str = "", *, price: float = 2e-3, epochs: int = 4) -> Recipe:
    """Three L-C stages with a rising penalty, each re-learning the ranks; then the factors learn."""
    scheme = LowRank(Price(price), Float(Width.FLOAT16))
    pulls = tuple(
        Stage(
            f"pull at {mu:g}",
            {WEIGHTS: scheme},
            learn=Learn.PULLED,
            schedule=Iterative(2, fixed=True),
            training=Training(epochs, 1e-3, seed=number),
            objective=Objective((TaskLoss(), Pull(mu))),
        )
        for number, mu in enumerate((0.01, 0.1, 1.0))
    )
    factors = Stage("factors", training=Training(epochs, 3e-4, seed=len(pulls)))
    return Recipe("lc-low-rank", (*pulls, factors), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "lc-low-rank",
        REFERENCE,
        "Alternate between learning dense weights that a quadratic penalty pulls to their low-rank copies, and "
        "choosing those copies with their ranks by singular values against a price.",
        (Claim("AlexNet, ImageNet", "4.79x fewer FLOPs at top-1 error 42.69 % (from 42.70 %)", "authors' repository"),),
        ("digits",),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300",),
    )
