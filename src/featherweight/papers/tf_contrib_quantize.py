"""The quantization rewrites of TensorFlow's contrib.quantize (2018)."""

from featherweight.activations.learning_rules import MovingRanges
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.graph.fold import FoldNorms
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import Uniform

REFERENCE = Reference(
    "tensorflow/contrib/quantize",
    "TensorFlow authors",
    2018,
    url="https://github.com/tensorflow/tensorflow/tree/master/tensorflow/contrib/quantize",
)
DEVIATIONS = (
    "norms are folded before training, not with statistics of the batch and a later freeze",
    "symmetric weight levels instead of affine ones; Adam; few epochs from trained float weights",
)


def recipe(task: str = "", *, bits: int = 8, epochs: int = 5, delay: int = 20) -> Recipe:
    """One range a tensor for weights, moving averages of decay 0.999 for activations, a delay before they are used."""
    learn = Stage(
        "quantize",
        {WEIGHTS: Uniform(bits)},
        edit=FoldNorms(),
        tap=MovingRanges(bits, decay=0.999, delay=delay),
        learn=Learn.LATENT,
        training=Training(epochs, 1e-4),
    )
    return Recipe(
        "tf-contrib-quantize", (learn, Stage("side", {"*.bias": Float(Width.FLOAT16)})), REFERENCE, DEVIATIONS
    )


def paper() -> Paper:
    return Paper(
        "tf-contrib-quantize",
        REFERENCE,
        "Rewrite a training graph: fold norms, simulate rounding of weights and activations behind every layer, start "
        "it after a delay; rewrite it again for evaluation and hand it to a converter.",
        (
            Claim(
                "MobileNet and Inception", "a table of float against 8-bit accuracies", "not read: no figure is quoted"
            ),
        ),
        ("digits",),
        recipe,
        DEVIATIONS,
        ("mnist-lenet5",),
    )
