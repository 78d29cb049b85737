"""Quantization-aware training for integer arithmetic (Jacob et al. 2017)."""

from featherweight.activations.learning_rules import MovingRanges
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.graph.fold import FoldNorms
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import PerChannel, Uniform

REFERENCE = Reference(
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    "Jacob, Kligys, Chen, Zhu, Tang, Howard, Adam and Kalenichenko",
    2017,
    "1712.05877",
)
DEVIATIONS = (
    "weights have a scale for each output channel: γ/σ of a norm then moves into the scales exactly, so simulating the "
    "fold while training and folding at the end give the same levels, and the norm stays live",
    "symmetric weight levels without −128, instead of affine ones",
    "Adam; few epochs from trained float weights, on CIFAR-10 one",
)
EPOCHS = {"cifar10-resnet20": 1}


def recipe(task: str = "", *, bits: int = 8, epochs: int | None = None, delay: int = 20) -> Recipe:
    """8-bit weights and activations, ranges by moving averages after a delay, norms folded at the end."""
    learn = Stage(
        "quantize",
        {WEIGHTS: Uniform(bits, granularity=PerChannel())},
        tap=MovingRanges(bits, decay=0.99, delay=delay),
        learn=Learn.LATENT,
        training=Training(epochs or EPOCHS.get(task, 5), 1e-4),
    )
    side = Stage("side", {"*.bias": Float(Width.FLOAT16)})
    return Recipe("qat-jacob", (learn, Stage("fold", edit=FoldNorms()), side), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "qat-jacob",
        REFERENCE,
        "Train with simulated rounding of weights and activations to an affine 8-bit grid that holds zero, so that "
        "inference needs integers alone: int32 sums, int32 biases, and a fixed-point multiplier a layer.",
        (Claim("ResNet-50, ImageNet", "float 76.4 %, integers 74.9 %", "(memory), unconfirmed"),),
        ("digits", "cifar10-resnet20"),
        recipe,
        DEVIATIONS,
        ("cifar10-resnet20",),
    )
