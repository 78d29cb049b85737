"""Dynamic network surgery: prune and splice while the network trains (Guo, Yao and Chen 2016)."""

from collections.abc import Mapping

from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Decaying, Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.sparse import Gradient, Magnitude, Sparse, Surgery

REFERENCE = Reference("Dynamic Network Surgery for Efficient DNNs", "Guo, Yao and Chen", 2016, "1608.04493")
DEVIATIONS = (
    "mean and deviation are those of all weights of a layer as they stand, pruned ones too, at every renewal",
    "convolutions and linear layers are cut in one run, not one after the other",
    "Adam with a cosine schedule, for tens of epochs from the trained baseline",
    "biases are not pruned; survivors share 16 values, and biases are stored in bfloat16",
)
CUTS: Mapping[str, Mapping[str | Sites, float]] = {
    "mnist-lenet300": {"fc1.weight": 2.5, "fc2.weight": 2.5, "fc3.weight": 1.0},
    "mnist-lenet5": {"conv1.weight": 0.5, "conv2.weight": 1.5, "fc1.weight": 2.5, "fc2.weight": 2.0},
}
"""The threshold's deviations above the mean, a layer. Ours."""

EPOCHS = {"mnist-lenet300": (24, 10), "mnist-lenet5": (10, 4), "digits": (40, 20)}
DECAY = {"digits": 0.05}


def recipe(
    task: str = "",
    *,
    cuts: Mapping[str | Sites, float] | None = None,
    values: int = 16,
    epochs: tuple[int, int] | None = None,
) -> Recipe:
    """Surgery with thresholds ``cuts`` deviations above the mean, a layer; then survivors share ``values`` values."""
    first, second = epochs or EPOCHS.get(task, (10, 5))
    each = cuts or CUTS.get(task, {WEIGHTS: 1.5})
    schemes: dict[str | Sites, Scheme] = {
        where: Sparse(Surgery(c), gradient=Gradient.DENSE) for where, c in each.items()
    }
    shared: dict[str | Sites, Scheme] = {where: Sparse(Magnitude()).then(Codebook(values)) for where in each}
    surgery = Stage(
        "surgery",
        schemes,
        schedule=Decaying(DECAY.get(task, 1e-3), end=0.75),
        learn=Learn.LATENT,
        training=Training(first, 1e-3),
    )
    share = Stage("share", shared, training=Training(second, 3e-4, seed=1))
    side = Stage("side", {Sites(("*.bias",), optional=True): Float(Width.BFLOAT16)})
    return Recipe("dynamic-network-surgery", (surgery, share, side), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    checked = "(memory), unconfirmed"
    return Paper(
        "dynamic-network-surgery",
        REFERENCE,
        "Prune weights below a threshold and splice back those that grow above another, again and again while the "
        "network trains: the loss sees the pruned weights, its gradient moves all of them.",
        (
            Claim("LeNet-300-100, MNIST", "267K to 4.8K weights (56x), error 2.28 % to 1.99 %", checked),
            Claim("LeNet-5, MNIST", "431K to 4.0K weights (108x), error 0.91 % before and after", checked),
            Claim("AlexNet, ImageNet", "61M to 3.45M weights (17.7x), top-1 error 43.42 % to 43.09 %", checked),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300", "mnist-lenet5"),
    )
