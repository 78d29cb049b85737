"""Towards the limit of network quantization (Choi, El-Khamy and Lee 2016)."""

from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Cubic, Learn, Recipe, Reference, Stage, Training
from featherweight.metrics.diagonal import Curvature
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.entropy import Cells, EntropyConstrained, MeanBits
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.joint import Joint
from featherweight.schemes.sparse import Fraction, Magnitude, Sparse

REFERENCE = Reference("Towards the Limit of Network Quantization", "Choi, El-Khamy and Lee", 2016, "1612.01543")

DEVIATIONS = (
    "errors are weighed by the Gauss-Newton diagonal of the outputs, not by the Hessian of the loss, which is next to "
    "nothing on images that a network has learned",
    "one gradual pruning run along a cubic instead of pruning and retraining in turn",
    "indices and zero positions are coded by context-adaptive range coding, with counts of their own for each layer, "
    "not by one Huffman code and index gaps; the rate is the entropy",
    "biases are stored in bfloat16",
)

KEPT = {
    "mnist-lenet300": {"fc1.weight": 0.03, "fc2.weight": 0.06, "fc3.weight": 0.3},
    "mnist-lenet5": {"conv1.weight": 0.4, "conv2.weight": 0.07, "fc1.weight": 0.012, "fc2.weight": 0.12},
}
"""Share of the weights that stays, a layer."""

BITS = {"mnist-lenet5": 2.2}
EPOCHS = {"mnist-lenet300": (30, 10), "mnist-lenet5": (16, 6), "digits": (60, 30)}


def recipe(
    task: str = "",
    *,
    bits: float | None = None,
    cells: Cells = Cells.ITERATED,
    epochs: tuple[int, int] | None = None,
) -> Recipe:
    """Prune; then one entropy-constrained codebook for the survivors of all layers, in the metric of the loss.

    ``bits`` is the mean entropy of a survivor's index: 2.5 where nothing else was chosen for the task. ``Cells.BINS``
    is the paper's practical variant.
    """
    first, second = epochs or EPOCHS.get(task, (10, 5))
    pruned: dict[str | Sites, Scheme] = {
        name: Sparse(Fraction(1 - share)) for name, share in KEPT.get(task, {}).items()
    }
    shared = Sparse(Magnitude()).then(Joint(EntropyConstrained(MeanBits(bits or BITS.get(task, 2.5)), cells)))
    return Recipe(
        "hessian-weighted-ecsq",
        (
            Stage(
                "prune",
                pruned or {WEIGHTS: Sparse(Fraction(0.9))},
                schedule=Cubic(every=20),
                learn=Learn.LATENT,
                training=Training(first, 2e-3),
            ),
            Stage("share", {WEIGHTS: shared}, metric=Curvature(), training=Training(second, 5e-4, seed=1)),
            Stage("side", {Sites(("*.bias",)): Float(Width.BFLOAT16)}),
        ),
        REFERENCE,
        DEVIATIONS,
    )


def paper() -> Paper:
    return Paper(
        "hessian-weighted-ecsq",
        REFERENCE,
        "Quantize the weights of all layers together, each error weighed by the loss's second derivative, so that no "
        "layer needs a size of its own; count bits as entropy coding does while choosing the cells; then train the "
        "shared values.",
        (
            Claim("LeNet-5, MNIST", "51.25x smaller with no or little loss of accuracy", "abstract"),
            Claim("32-layer ResNet, CIFAR-10", "22.17x smaller with no or little loss of accuracy", "abstract"),
            Claim("AlexNet, ImageNet", "40.65x smaller with no or little loss of accuracy", "abstract"),
        ),
        ("mnist-lenet5", "mnist-lenet300", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300", "mnist-lenet5"),
    )
