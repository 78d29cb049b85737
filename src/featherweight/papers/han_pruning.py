"""Learning both weights and connections (Han et al. 2015)."""

from collections.abc import Mapping

from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Iterative, Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.sparse import Deviations, Sparse

REFERENCE = Reference(
    "Learning both Weights and Connections for Efficient Neural Networks",
    "Han, Pool, Tran and Dally",
    2015,
    "1506.02626",
)
DEVIATIONS = (
    "the deviation of a layer is taken about zero, over all its weights, pruned ones included",
    "no dropout and no L2 penalty, so no dropout rate to reduce; Adam with a cosine schedule over all rounds",
    "neurons without inputs or outputs are left to the entropy coder, not removed",
)
QUALITY: Mapping[str, Mapping[str, float]] = {
    "mnist-lenet300": {"fc1.weight": 1.5, "fc2.weight": 1.5, "fc3.weight": 0.9},
    "mnist-lenet5": {"conv1.weight": 0.4, "conv2.weight": 1.2, "fc1.weight": 1.6, "fc2.weight": 1.1},
}
"""Quality parameters: thresholds in deviations, a layer. Ours: the paper does not print its own."""

EPOCHS = {"mnist-lenet300": 24, "mnist-lenet5": 12, "digits": 60}


def recipe(task: str = "", *, rounds: int = 4) -> Recipe:
    """Raise the threshold to ``quality`` deviations in ``rounds`` rounds, the survivors learning after each."""
    quality = QUALITY.get(task)
    schemes: dict[str | Sites, Scheme] = {WEIGHTS: Sparse(Deviations(1.2))}
    if quality is not None:
        schemes = {name: Sparse(Deviations(value)) for name, value in quality.items()}
    training = Training(EPOCHS.get(task, 12), 1e-3)
    stage = Stage("prune", schemes, schedule=Iterative(rounds), learn=Learn.DIRECT, training=training)
    return Recipe("han-pruning", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "han-pruning",
        REFERENCE,
        "Remove connections below a threshold of the layer's deviation, retrain the others as they stand, repeat.",
        (
            Claim("AlexNet, ImageNet", "61M to 6.7M parameters (9x) without loss of accuracy", "abstract"),
            Claim("VGG-16, ImageNet", "138M to 10.3M parameters (13x) without loss of accuracy", "abstract"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300", "mnist-lenet5"),
    )
