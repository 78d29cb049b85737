"""Deep Compression: prune, share weights, entropy code (Han, Mao and Dally 2015)."""

from collections.abc import Mapping

from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Cubic, Learn, Recipe, Reference, Stage, Training, adam
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.sparse import Fraction, Magnitude, Sparse

REFERENCE = Reference(
    "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman Coding",
    "Han, Mao and Dally",
    2015,
    "1510.00149",
)

DEVIATIONS = (
    "one gradual pruning run with masked gradients instead of pruning and retraining in turn",
    "zero positions and indices are coded by context-adaptive range coding, not by Huffman codes of index gaps",
    "biases are stored in float16",
    "Adam with a cosine schedule and the baseline's own augmentation, for both prunings and shared weights",
)

KEPT: Mapping[str, Mapping[str, float]] = {
    "mnist-lenet300": {"fc1.weight": 0.08, "fc2.weight": 0.09, "fc3.weight": 0.26},
    "mnist-lenet5": {"conv1.weight": 0.66, "conv2.weight": 0.12, "fc1.weight": 0.08, "fc2.weight": 0.19},
}
"""Share of the weights that stays, a layer: Han's for the two MNIST networks (memory, unconfirmed)."""

ULLRICH = "quoted by Ullrich, Meeds and Welling 2017, arXiv 1702.04008, table 1"

EPOCHS = {"mnist-lenet300": (20, 10), "mnist-lenet5": (10, 5), "digits": (60, 30)}


def recipe(task: str = "", *, epochs: tuple[int, int] | None = None) -> Recipe:
    """Prune to the layer's share, then 256 centroids for convolutions and 32 for linear layers, both learned."""
    first, second = epochs or EPOCHS.get(task, (10, 5))
    kept = KEPT.get(task)
    pruned: dict[str | Sites, Scheme]
    if kept is None:
        pruned = {WEIGHTS: Sparse(Fraction(0.9))}
    else:
        pruned = {name: Sparse(Fraction(1 - share)) for name, share in kept.items()}
    alive = Sparse(Magnitude())
    shared: dict[str | Sites, Scheme] = {
        Sites(min_dims=3): alive.then(Codebook(256)),
        WEIGHTS: alive.then(Codebook(32)),
    }
    if kept is not None and not any(name.startswith("conv") for name in kept):
        del shared[Sites(min_dims=3)]
    return Recipe(
        "deep-compression",
        (
            Stage("prune", pruned, schedule=Cubic(every=20), learn=Learn.LATENT, training=Training(first, 1e-3, adam)),
            Stage("share", shared, training=Training(second, 3e-4, adam, seed=1)),
            Stage("side", {Sites(("*.bias",)): Float(Width.FLOAT16)}),
        ),
        REFERENCE,
        DEVIATIONS,
    )


def paper() -> Paper:
    return Paper(
        "deep-compression",
        REFERENCE,
        "Zero the small weights and retrain the others; let the survivors of a layer share a few values, found by "
        "k-means and then trained with the summed gradient of their members; entropy code positions and indices.",
        (
            Claim("LeNet-300-100, MNIST", "40x smaller, error 1.64 % to 1.58 %", ULLRICH),
            Claim("LeNet-5, MNIST", "39x smaller, error 0.80 % to 0.74 %", ULLRICH),
            Claim("AlexNet, ImageNet", "240 MB to 6.9 MB without loss of accuracy", "abstract"),
            Claim("VGG-16, ImageNet", "552 MB to 11.3 MB without loss of accuracy", "abstract"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300", "mnist-lenet5"),
    )
