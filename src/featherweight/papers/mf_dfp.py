"""MF-DFP: multiplier-free networks in dynamic fixed point (Tann, Hashemi, Bahar and Reda 2017)."""

from featherweight.activations.ranges import PowerOfTwo
from featherweight.activations.rules import Calibrated
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.graph.fold import FoldNorms
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.logarithmic import Logarithmic
from featherweight.training.objectives import distillation

REFERENCE = Reference(
    "Hardware-Software Codesign of Accurate, Multiplier-free Deep Neural Networks",
    "Tann, Hashemi, Bahar and Reda",
    2017,
    "1705.04288",
)
DEVIATIONS = (
    "the eight exponents of a layer end at the one of its largest weight, instead of at 0",
    "radix points of activations come from calibration data, once; norms are folded first",
    "the second phase starts its float weights at the powers of two that the first one ended at",
    "Adam with a cosine schedule in both phases; no ensemble of two such networks",
    "biases are stored in bfloat16, not in 8 bits",
)
EPOCHS = {"mnist-lenet5": (4, 6), "mnist-lenet300": (5, 7), "digits": (15, 15)}
POWERS = Logarithmic(8, zero=False)
"""A sign and three bits of exponent."""


def recipe(task: str = "", *, temperature: float = 4.0, epochs: tuple[int, int] | None = None) -> Recipe:
    """Weights ±2ⁿ of 4 bits and activations of 8 bits: learn from labels, then from the float network."""
    labels, teacher = epochs or EPOCHS.get(task, (10, 10))
    stages = (
        Stage("fixed point", edit=FoldNorms(), tap=Calibrated(8, PowerOfTwo(), batches=4)),
        Stage("labels", {WEIGHTS: POWERS}, learn=Learn.LATENT, training=Training(labels, 1e-3)),
        Stage(
            "teacher",
            {WEIGHTS: POWERS},
            learn=Learn.LATENT,
            training=Training(teacher, 3e-4, seed=1),
            objective=distillation(temperature),
        ),
        Stage("side", {Sites(("*.bias",), optional=True): Float(Width.BFLOAT16)}),
    )
    return Recipe("mf-dfp", stages, REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "mf-dfp",
        REFERENCE,
        "Weights are signed powers of two and activations integers with a radix point a layer, so that shifts replace "
        "all products; train on labels with float weights behind them, and then on a float network's soft outputs.",
        (
            Claim("CIFAR-10 network", "80.77 % of 81.53 %; an ensemble of two 82.61 %", "memory"),
            Claim("AlexNet, ImageNet", "56.16 % of 56.95 %; an ensemble of two 57.57 %", "memory"),
            Claim("their accelerator", "about 90 % less energy than floats, 80 % as an ensemble", "memory, unsure"),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
