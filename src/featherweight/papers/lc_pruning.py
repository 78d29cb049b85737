"""Pruning by learning-compression, all layers jointly (Carreira-Perpiñán and Idelbayev 2018)."""

from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.papers.lc_framework import learning_compression
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.sparse import Fraction, Magnitude, Scope, Sparse

REFERENCE = Reference(
    "“Learning-Compression” Algorithms for Neural Net Pruning",
    "Carreira-Perpiñán and Idelbayev",
    2018,
    url="http://faculty.ucmerced.edu/mcarreira-perpinan/papers/cvpr18.pdf",
)
DEVIATIONS = (
    "L steps are Adam under one cosine schedule, not stochastic gradients with rates clipped at 1/μ",
    "survivors and biases are stored in bfloat16",
)
EPOCHS = {"digits": (60, 20)}
KEPT = {"mnist-lenet300": 0.03, "digits": 0.05}


def recipe(task: str = "", *, scheme: Scheme | None = None, priced: bool = False) -> Recipe:
    """Keep a share of all weights, wherever they are, along the path; then the survivors learn.

    ``scheme`` is another C step: ``Shrunk(L1Ball(radius))`` is the l1 constraint; ``Sparse(L0Penalty(α/μ))`` and
    ``Shrunk(L1Penalty(α/μ))``, with ``μ`` the last one, are the penalties: ``priced``, their thresholds fall along the
    path.
    """
    kept = scheme or Sparse(Fraction(1 - KEPT.get(task, 0.1)), scope=Scope.GLOBAL)
    first, second = EPOCHS.get(task, (30, 12))
    return Recipe(
        "lc-pruning",
        (
            learning_compression(
                "path", {WEIGHTS: kept}, Training(first, 1e-3), mu=0.3, rounds=40, growth=1.15, priced=priced
            ),
            Stage("survivors", {WEIGHTS: Sparse(Magnitude())}, training=Training(second, 1e-3, seed=1)),
            Stage("side", {"*.bias": Float(Width.BFLOAT16), WEIGHTS: Sparse(Magnitude()).then(Float(Width.BFLOAT16))}),
        ),
        REFERENCE,
        DEVIATIONS,
    )


def paper() -> Paper:
    return Paper(
        "lc-pruning",
        REFERENCE,
        "Learn weights that a rising penalty with multipliers pulls to their pruned copies; each round prunes anew, "
        "all layers under one budget, so that weights come back until the penalty is large.",
        (
            Claim("LeNet-300-100 and LeNet-5, MNIST", "about 1-2 % of the weights with little loss", "memory"),
            Claim("ResNet-32, 56 and 110, CIFAR-10", "about 3-10 % of the weights with little loss", "memory"),
        ),
        ("mnist-lenet300", "digits"),
        recipe,
        DEVIATIONS,
    )
