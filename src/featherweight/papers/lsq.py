"""LSQ: learned step size quantization of weights and activations (Esser et al. 2019)."""

from featherweight.activations.rules import LearnedSteps
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.graph.fold import FoldNorms
from featherweight.papers.knowledge_distillation import teacher
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import Fit, PerChannel, Uniform
from featherweight.training.objectives import distillation

REFERENCE = Reference(
    "Learned Step Size Quantization", "Esser, McKinstry, Bablani, Appuswamy and Modha", 2019, "1902.08153"
)
DEVIATIONS = (
    "on digits the first and the last layer are quantized to the same bits as the others, not to 8",
    "weight steps start from the least-squares search, not from 2·mean|w|/√high; on CIFAR-10 one a channel",
    "Adam instead of SGD; symmetric weight levels without the lowest one: 2 bits are three levels, but on CIFAR-10 "
    "the four odd multiples of half a step",
    "on CIFAR-10: learned from the published ResNet-56, in bfloat16, for few epochs; norms are folded at the end",
)
CIFAR = "cifar10-resnet20"


def recipe(task: str = "", *, bits: int = 2, epochs: int | None = None) -> Recipe:
    """Weights and inputs of all layers to ``bits`` bits, with learned steps."""
    if task == CIFAR:
        return _cifar(bits, epochs or 50)
    stage = Stage(
        "quantize",
        {WEIGHTS: Uniform(bits, fit=Fit.SEARCH)},
        tap=LearnedSteps(bits=bits),
        learn=Learn.BOTH,
        training=Training(epochs or 40, 1e-3),
    )
    return Recipe("lsq", (stage,), REFERENCE, DEVIATIONS)


def _cifar(bits: int, epochs: int) -> Recipe:
    """8 bits at both ends, a step a channel, soft targets of ResNet-56; norms fold into the steps at the end.

    At 2 bits all four levels are used and the targets are softer: with three levels and temperature 1 the network ended
    at 87.7 % (docs/log.md).
    """
    few = bits == 2
    ends = Uniform(8, granularity=PerChannel(), fit=Fit.SEARCH)
    inner = Uniform(bits, granularity=PerChannel(), fit=Fit.SEARCH, odd=few)
    learn = Stage(
        "quantize",
        {"conv1.weight": ends, "linear.weight": ends, WEIGHTS: inner},
        tap=LearnedSteps(bits=bits, exceptions={"conv1": 8, "linear": 8}),
        learn=Learn.BOTH,
        training=Training(epochs, 1e-3, code_lr=0.1, warmup=0.02, bfloat16=True),
        objective=distillation(temperature=4.0 if few else 1.0, share=0.9),
    )
    fold = Stage("fold", edit=FoldNorms(required=True))
    side = Stage("side", {"*.bias": Float(Width.FLOAT16)})
    return Recipe("lsq", (learn, fold, side), REFERENCE, DEVIATIONS, teacher(CIFAR))


def paper() -> Paper:
    return Paper(
        "lsq",
        REFERENCE,
        "Learn the quantizer's step by gradient: straight through for the input, the rounding residue for the step, "
        "scaled so that steps and weights move at matching rates.",
        (Claim("ImageNet networks, 3/3 bits", "reach full-precision baseline accuracy", "abstract"),),
        ("digits", CIFAR),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300",),
    )
