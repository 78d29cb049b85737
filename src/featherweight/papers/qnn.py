"""QNN: quantized neural networks (Hubara et al. 2016)."""

from featherweight.activations.learning_rules import UnitIntervals, WithGradients
from featherweight.core.site import Sites
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.uniform import Fit, Uniform

REFERENCE = Reference(
    "Quantized Neural Networks: Training Neural Networks with Low Precision Weights and Activations",
    "Hubara, Courbariaux, Soudry, El-Yaniv and Bengio",
    2016,
    "1609.07061",
)
DEVIATIONS = (
    "the step of the weights is searched for least squares and kept, not a power of two of the word length",
    "no shift-based batch norm and no shift-based optimizer; recurrent networks are left to later",
    "the network starts from its trained float weights, with Adam",
)
EPOCHS = {"mnist-lenet5": 6}
"""Of a task with many more samples than digits, which takes 20."""


def recipe(
    task: str = "", *, weights: int = 4, inputs: int = 4, gradients: int = 6, epochs: int | None = None
) -> Recipe:
    """Linear quantization of weights, inputs and gradients, in all layers but the first and the last."""
    inner = ("conv[23]", "fc1")
    stage = Stage(
        "quantize",
        {Sites(exclude=("conv1.*", "fc2.*"), min_dims=2): Uniform(weights, fit=Fit.SEARCH)},
        tap=WithGradients(UnitIntervals(inner, inputs), inner, gradients),
        learn=Learn.LATENT,
        training=Training(epochs or EPOCHS.get(task, 20), 1e-3),
    )
    return Recipe("qnn", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "qnn",
        REFERENCE,
        "Train with weights and activations clipped and rounded to a few bits, straight through, and gradients "
        "quantized with random rounding.",
        (Claim("AlexNet, ImageNet, 1-bit weights, 2-bit activations", "51 % top-1", "abstract"),),
        ("digits",),
        recipe,
        DEVIATIONS,
        ("mnist-lenet5",),
    )
