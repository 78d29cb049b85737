"""DropPruning: weights drop out and back in by chance while the sparsity rises (Jia et al. 2018)."""

from collections.abc import Mapping

from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Iterative, Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.sparse import Dropping, Gradient, Magnitude, Sparse

REFERENCE = Reference(
    "DropPruning for Model Compression", "Jia, Xiang, Fan, Huang, Sun, Meng, He and Chen", 2018, "1812.02035"
)
DEVIATIONS = (
    "both probabilities change with the schedule so that the last round reaches the sparsity; the paper's own schedule "
    "is not known to us",
    "the first round drops out without chance",
    "what drops back in has the value with which it left",
    "Adam with a cosine schedule over all rounds; weights and biases are stored in bfloat16",
)
SHARES: Mapping[str, Mapping[str | Sites, float]] = {
    "mnist-lenet300": {"fc1.weight": 0.93, "fc2.weight": 0.9, "fc3.weight": 0.5},
    "mnist-lenet5": {"conv1.weight": 0.3, "conv2.weight": 0.87, "fc1.weight": 0.94, "fc2.weight": 0.8},
    "digits": {"conv1.weight": 0.3, "conv?.weight": 0.9, "fc1.weight": 0.9, "fc2.weight": 0.5},
}
"""Share of the weights that is zero in the end, a layer. Ours: 93 % of LeNet-5 is the paper's 14.3x."""

EPOCHS = {"mnist-lenet300": 24, "mnist-lenet5": 10, "digits": 40}


def recipe(
    task: str = "", *, p_out: float = 0.9, p_in: float = 0.5, rounds: int = 6, epochs: int | None = None
) -> Recipe:
    """Rounds of dropping out and in, each with a training of its own, towards 90 % zeros or the task's shares.

    The rate is high: what returns must grow past the threshold while it is back, or it is pruned again.
    """
    shares = SHARES.get(task, {WEIGHTS: 0.9})
    schemes: dict[str | Sites, Scheme] = {
        where: Sparse(Dropping(share, p_out, p_in), gradient=Gradient.RESTING) for where, share in shares.items()
    }
    stage = Stage(
        "drop",
        schemes,
        schedule=Iterative(rounds, power=2.0),
        learn=Learn.LATENT,
        training=Training(epochs or EPOCHS.get(task, 10), 5e-3 if task == "digits" else 3e-3),
    )
    narrow = Float(Width.BFLOAT16)
    stored: dict[str | Sites, Scheme] = {where: Sparse(Magnitude()).then(narrow) for where in shares}
    stored |= {Sites(("*",), optional=True): narrow}
    return Recipe("drop-pruning", (stage, Stage("store", stored)), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "drop-pruning",
        REFERENCE,
        "In every round of pruning and retraining, small weights are pruned only with some probability, and pruned "
        "ones return with another, so that hasty decisions are taken back.",
        (
            Claim("LeNet-5, MNIST", "14.3x fewer weights without loss of accuracy", "abstract"),
            Claim("VGG-16, CIFAR-10", "11.1x fewer weights without loss of accuracy", "abstract"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
