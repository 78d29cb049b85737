"""LSQ: learned step size quantization of weights and activations (Esser et al. 2019)."""

from featherweight.activations.rules import LearnedSteps
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.uniform import Fit, Uniform

REFERENCE = Reference(
    "Learned Step Size Quantization", "Esser, McKinstry, Bablani, Appuswamy and Modha", 2019, "1902.08153"
)
DEVIATIONS = (
    "the first and the last layer are quantized to the same bits as the others, not to 8",
    "weight steps start from the least-squares search, not from 2·mean|w|/√high",
    "Adam instead of SGD; symmetric weight levels without the lowest one",
)


def recipe(task: str = "", *, bits: int = 2, epochs: int = 40) -> Recipe:
    """Weights and inputs of all layers to ``bits`` bits, with learned steps."""
    stage = Stage(
        "quantize",
        {WEIGHTS: Uniform(bits, fit=Fit.SEARCH)},
        tap=LearnedSteps(("conv*", "fc*"), bits),
        learn=Learn.BOTH,
        training=Training(epochs, 1e-3),
    )
    return Recipe("lsq", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "lsq",
        REFERENCE,
        "Learn the quantizer's step by gradient: straight through for the input, the rounding residue for the step, "
        "scaled so that steps and weights move at matching rates.",
        (Claim("ImageNet networks, 3/3 bits", "reach full-precision baseline accuracy", "abstract"),),
        ("digits",),
        recipe,
        DEVIATIONS,
    )
