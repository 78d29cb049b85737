"""Learning-compression: any compression as a constraint, met along a path (Carreira-Perpiñán 2017)."""

from collections.abc import Mapping

from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Homotopy, Learn, Objective, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.codebook import Codebook, Optimal
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.lowrank import LowRank, Rank
from featherweight.schemes.multipliers import AugmentedLagrangian, QuadraticPenalty
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.training.objectives import TaskLoss
from featherweight.training.penalties import Pull

REFERENCE = Reference(
    "Model compression as constrained optimization, with application to neural nets. Part I: general framework",
    "Carreira-Perpiñán",
    2017,
    "1707.01209",
)
DEVIATIONS = (
    "L steps are Adam under one cosine schedule, not stochastic gradients with rates clipped at 1/μ",
    "the path has a fixed number of rounds; it does not go on until weights and codes agree to a tolerance",
    "survivors, factors and centroids learn at the end, with supports and indices as they are, and biases are rounded",
)


def learning_compression(
    name: str,
    schemes: Mapping[str | Sites, Scheme],
    training: Training,
    *,
    mu: float,
    rounds: int,
    growth: float,
    multiplied: bool = True,
    priced: bool = False,
) -> Stage:
    """The whole path as one stage: ``rounds`` L and C steps while ``μ`` grows by ``growth`` a round, to ``mu`` at last.

    ``multiplied`` takes the augmented Lagrangian, else the quadratic penalty; with ``growth`` 1 the first is the
    alternating direction method of multipliers (ADMM) at ``ρ = mu``. ``priced``: thresholds of schemes with a price
    follow ``1/μ``.
    """

    def wrapped(scheme: Scheme) -> Scheme:
        return AugmentedLagrangian(scheme, priced, growth) if multiplied else QuadraticPenalty(scheme, priced)

    return Stage(
        name,
        {where: wrapped(scheme) for where, scheme in schemes.items()},
        schedule=Homotopy(rounds, growth),
        learn=Learn.PULLED,
        training=training,
        objective=Objective((TaskLoss(), Pull(mu, rising=True))),
    )


MIXED: Mapping[str, Mapping[str | Sites, Scheme]] = {
    "mnist-lenet300": {
        "fc1.weight": Sparse(Fraction(1 - 5000 / 235_200)).then(Float(Width.BFLOAT16)),
        "fc2.weight": LowRank(Rank(10), Float(Width.FLOAT16)),
        "fc3.weight": Codebook(2, Optimal()),
    },
    "digits": {
        "conv*.weight": Sparse(Fraction(0.9)).then(Float(Width.BFLOAT16)),
        "fc1.weight": LowRank(Rank(10), Float(Width.FLOAT16)),
        "fc2.weight": Codebook(2, Optimal()),
    },
}
"""A scheme a layer: for LeNet-300-100 those of the example in the authors' repository."""

EPOCHS = {"digits": (60, 10)}


def recipe(task: str = "", *, multiplied: bool = True) -> Recipe:
    """Pruning, low rank and a codebook in one network, each its layer's C step; without a task, a codebook of four."""
    schemes = MIXED.get(task, {WEIGHTS: Codebook(4, Optimal())})
    first, second = EPOCHS.get(task, (24, 6))
    return Recipe(
        "lc-framework",
        (
            learning_compression(
                "path", schemes, Training(first, 1e-3), mu=1.0, rounds=40, growth=1.15, multiplied=multiplied
            ),
            Stage("fine", training=Training(second, 5e-4, seed=1)),
            Stage("side", {"*.bias": Float(Width.BFLOAT16)}),
        ),
        REFERENCE,
        DEVIATIONS,
    )


REPOSITORY = "README of the authors' repository, LC-model-compression (search)"


def paper() -> Paper:
    return Paper(
        "lc-framework",
        REFERENCE,
        "Compression is a constraint, w = decode(code), on learning. Alternate between learning under a quadratic "
        "penalty with multipliers and projecting onto the codes, while the penalty rises.",
        (
            Claim("LeNet-300-100, MNIST, one codebook of 2 a layer", "test error 2.13 % to 2.56 %", REPOSITORY),
            Claim(
                "LeNet-300-100, MNIST, layer 1 pruned to 5,000 weights, layer 2 of rank 10, layer 3 a codebook of 2",
                "test error 2.13 % to 2.51 %",
                REPOSITORY,
            ),
        ),
        ("mnist-lenet300", "digits"),
        recipe,
        DEVIATIONS,
    )
