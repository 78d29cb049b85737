"""Soft weight-sharing (Ullrich, Meeds and Welling 2017)."""

from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Homotopy, Learn, Objective, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.codebook import Codebook, Optimal
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.mixture import Mixture
from featherweight.schemes.sparse import Magnitude, Sparse
from featherweight.training.objectives import TaskLoss
from featherweight.training.penalties import Gamma, MixturePrior

REFERENCE = Reference(
    "Soft Weight-Sharing for Neural Network Compression", "Ullrich, Meeds and Welling", 2017, "1702.04008"
)
DEVIATIONS = (
    "τ rises in ten steps, by 1.3 each, until the weights stand at the means before they are put there; the paper's is "
    "constant, and small",
    "the Gamma priors ask for narrower components than the paper's, so that what is put at the means was near",
    "components that all but coincide are merged at every rise of τ, not afterwards",
    "τ and the Gamma priors are ours, after a few trials; the mixing share at zero is fixed, without a Beta prior",
    "the shared values and the biases learn for some epochs at the end, each layer its own copy of the values",
    "zero positions and values are coded by context-adaptive range coding, not by Huffman codes of index gaps",
)
TAU = 0.3
"""The weight of the prior at the end of its rise."""
SAMPLES = {"mnist-lenet300": 55_000, "digits": 998}
EPOCHS = {"mnist-lenet300": (14, 15), "digits": (80, 10)}


def recipe(task: str = "", *, tau: float = TAU, zero: float = 0.99) -> Recipe:
    """Weights and a mixture of 17 Gaussians learn together; then every weight is the mean of its Gaussian.

    ``tau`` is the weight of the prior at the end.
    """
    first, second = EPOCHS.get(task, (15, 10))
    prior = MixturePrior(tau / SAMPLES.get(task, 50_000), Gamma(5e3, 0.05), Gamma(2.5e3, 0.05), rising=True)
    return Recipe(
        "soft-weight-sharing",
        (
            Stage(
                "mixture",
                {WEIGHTS: Mixture(17, zero, deviation=0.25, overlap=0.01)},
                schedule=Homotopy(10, 1.3),
                learn=Learn.MUTUAL,
                training=Training(first, 1e-3, code_lr=3.0, final=0.1),
                objective=Objective((TaskLoss(), prior)),
            ),
            Stage(
                "values",
                {WEIGHTS: Sparse(Magnitude()).then(Codebook(16, Optimal()))},
                training=Training(second, 2e-3, seed=1),
            ),
            Stage("side", {"*.bias": Float(Width.BFLOAT16)}),
        ),
        REFERENCE,
        DEVIATIONS,
    )


def paper() -> Paper:
    return Paper(
        "soft-weight-sharing",
        REFERENCE,
        "Retrain under a mixture of Gaussians as the prior of all weights, its means, variances and shares learned "
        "too, one component held at zero with most of the mass: pruning and quantization are one.",
        (
            Claim("LeNet-300-100, MNIST", "error 1.89 % to 1.94 %, 4.3 % non-zero, 64x smaller", "memory"),
            Claim("LeNet-5, MNIST", "error 0.88 % to 0.97 %, 0.5 % non-zero, 162x smaller", "memory"),
            Claim("ResNet (light), CIFAR-10", "error 6.48 % to 8.50 %, 6.6 % non-zero, 45x smaller", "memory"),
        ),
        ("mnist-lenet300",),
        recipe,
        DEVIATIONS,
    )
