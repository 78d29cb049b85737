"""DeepTwist: compression by occasional distortion of weights that are free in between (Lee, Kapoor and Kim 2018)."""

from collections.abc import Mapping

from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Iterative, Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.sparse import Fraction, Magnitude, Sparse

REFERENCE = Reference(
    "DeepTwist: Learning Model Compression via Occasional Weight Distortion", "Lee, Kapoor and Kim", 2018, "1810.12823"
)
DEVIATIONS = (
    "by default weights are pruned, and then the survivors share 16 values that learn; pass low bits or a "
    "low rank to see those alone",
    "the whole distortion from the first time on; Adam with a cosine schedule",
    "biases are stored in bfloat16",
)
SHARES: Mapping[str, Mapping[str | Sites, float]] = {
    "mnist-lenet300": {"fc1.weight": 0.93, "fc2.weight": 0.88, "fc3.weight": 0.6},
    "mnist-lenet5": {"conv1.weight": 0.3, "conv2.weight": 0.85, "fc1.weight": 0.95, "fc2.weight": 0.8},
    "digits": {"conv1.weight": 0.3, "conv?.weight": 0.88, "fc1.weight": 0.9, "fc2.weight": 0.5},
}
"""Share of the weights that a distortion zeroes, a layer. Ours."""

EPOCHS = {"mnist-lenet300": 24, "mnist-lenet5": 12, "digits": 40}


def recipe(
    task: str = "", *, distortion: Scheme | None = None, every: int = 1, epochs: int | None = None, lr: float = 1e-3
) -> Recipe:
    """Project every ``every`` epochs, and train freely in between; ``distortion`` is any scheme, for all weights.

    Without one, weights are pruned, to 90 % zeros or the task's shares, and in the end the survivors share 16 values.
    """
    shares = SHARES.get(task, {WEIGHTS: 0.9})
    schemes: dict[str | Sites, Scheme] = {where: Sparse(Fraction(share)) for where, share in shares.items()}
    if distortion is not None:
        schemes = {WEIGHTS: distortion}
    training = Training(epochs or EPOCHS.get(task, 10), lr)
    schedule = Iterative(max(training.epochs // every, 1), fixed=True)
    stages = [Stage("twist", schemes, schedule=schedule, learn=Learn.FREE, training=training)]
    if distortion is None:
        shared: dict[str | Sites, Scheme] = {where: Sparse(Magnitude()).then(Codebook(16)) for where in shares}
        stages.append(Stage("share", shared, training=Training(max(training.epochs // 3, 1), 3e-4, seed=1)))
    stages.append(Stage("side", {Sites(("*.bias",), optional=True): Float(Width.BFLOAT16)}))
    return Recipe("deeptwist", tuple(stages), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "deeptwist",
        REFERENCE,
        "Replace the weights by their pruned, quantized or low-rank copies once in many batches, and train as usual in "
        "between, with no mask and no straight-through gradient; end with a distortion.",
        (
            Claim(
                "LSTMs and CNNs", "pruning, low bits and low rank by one procedure, without other changes", "abstract"
            ),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
