"""Sparsifying connections by the correlation of their ends, layer after layer (Sun, Wang and Tang 2016)."""

from collections.abc import Mapping

from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.metrics.correlation import Correlation
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.sparse import Halves, Magnitude, Sparse

REFERENCE = Reference(
    "Sparsifying Neural Network Connections for Face Recognition", "Sun, Wang and Tang", 2016, "1512.01891"
)
DEVIATIONS = (
    "digits and clothes instead of faces: the paper's data is not public",
    "a layer's outputs are taken before their non-linearity",
    "convolutions share weights here, and are scored by the mean over locations",
    "three quarters of what a layer keeps are drawn from the upper half (memory, unconfirmed)",
    "without a table of the task's layers all weights are sparsified at once",
    "weights and biases are stored in bfloat16",
)
KEPT: Mapping[str, Mapping[str | Sites, float]] = {
    "mnist-lenet300": {"fc1.weight": 0.1, "fc2.weight": 0.2, "fc3.weight": 0.6},
    "mnist-lenet5": {"conv1.weight": 0.8, "conv2.weight": 0.3, "fc1.weight": 0.1, "fc2.weight": 0.4},
    "fashion-lenet5": {"conv1.weight": 0.8, "conv2.weight": 0.3, "fc1.weight": 0.1, "fc2.weight": 0.4},
    "digits": {"conv3.weight": 0.3, "fc1.weight": 0.3, "fc2.weight": 0.6},
}
"""Share of the weights that stays, a layer, first to last: about 12 % of all on the MNIST networks."""

EPOCHS = {"mnist-lenet300": 8, "mnist-lenet5": 3, "fashion-lenet5": 3, "digits": 15}


def recipe(task: str = "", *, high: float = 0.75, epochs: int | None = None) -> Recipe:
    """From the last layer to the first: keep some connections by correlation, then train all that is left."""
    layers = KEPT.get(task, {WEIGHTS: 0.25})
    stages: list[Stage] = []
    for number, (where, kept) in enumerate(reversed([*layers.items()])):
        schemes: dict[str | Sites, Scheme] = {where: Sparse(Halves(1 - kept, high, seed=number))}
        training = Training(epochs or EPOCHS.get(task, 5), 1e-3, seed=number)
        stages += [
            Stage(f"sparsify {where}", schemes, metric=Correlation()),
            Stage(f"train after {where}", training=training),
        ]
    alive, narrow = Sparse(Magnitude()), Float(Width.BFLOAT16)
    stored: dict[str | Sites, Scheme] = {where: alive.then(narrow) for where in layers}
    return Recipe(
        "sun-sparse-face",
        (*stages, Stage("store", stored | {Sites(("*",), optional=True): narrow})),
        REFERENCE,
        DEVIATIONS,
    )


def paper() -> Paper:
    return Paper(
        "sun-sparse-face",
        REFERENCE,
        "Sparsify one layer after the other, from the last to the first, training all layers after each from the "
        "denser model; of each sign, keep mostly connections whose two ends correlate strongly, and some of the rest.",
        (
            Claim("DeepID2+, faces", "12 % of the weights keep the baseline's accuracy", "abstract"),
            Claim("DeepID2+, LFW", "98.95 % to 99.30 % with 26 % of the weights", "(memory), unconfirmed"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "fashion-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
