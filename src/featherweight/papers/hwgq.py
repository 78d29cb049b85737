"""HWGQ: half-wave Gaussian quantization (Cai et al. 2017)."""

from featherweight.activations.learning_rules import HalfWaves
from featherweight.core.site import Sites
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.graph.fold import FoldNorms
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import PerChannel, Uniform

REFERENCE = Reference(
    "Deep Learning with Low Precision by Half-wave Gaussian Quantization",
    "Cai, He, Sun and Vasconcelos",
    2017,
    "1702.00953",
)
DEVIATIONS = (
    "the digits network has no batch norm before some of its layers, so the fixed step suits its inputs less; on "
    "CIFAR-10 half of the inputs are sums of a norm's result and a shortcut, which is not quantized",
    "weight scales start at mean|w| of a filter and are then learned, instead of recomputed at every step",
    "the network starts from its trained float weights, with Adam; on CIFAR-10 for two epochs in bfloat16",
    "on CIFAR-10 norms are folded at the end; the first and the last layer and the biases are stored in float16",
)
CIFAR = "cifar10-resnet20"
INNER = {CIFAR: ("layer*",)}
ENDS = {CIFAR: ("conv1.weight", "linear.weight")}
"""The modules between the first layer and the last, and the weights of these two."""
EPOCHS = {CIFAR: 2}
"""Of a task with many more samples than digits, which takes 20."""


def recipe(task: str = "", *, bits: int = 2, epochs: int | None = None) -> Recipe:
    """Binary weights and ``bits``-bit half-wave inputs, in all layers but the first and the last."""
    ends = ENDS.get(task, ("conv1.*", "fc2.*"))
    quantize = Stage(
        "quantize",
        {Sites(exclude=ends, min_dims=2): Uniform(1, granularity=PerChannel())},
        tap=HalfWaves(INNER.get(task, ("conv[23]", "fc1")), bits),
        learn=Learn.BOTH,
        training=Training(epochs or EPOCHS.get(task, 20), 2e-3, bfloat16=task == CIFAR),
    )
    fold = Stage("fold", edit=FoldNorms(required=True))
    side = Stage("side", {Sites((*ends, "*.bias")): Float(Width.FLOAT16)})
    return Recipe("hwgq", (quantize, fold, side) if task == CIFAR else (quantize,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "hwgq",
        REFERENCE,
        "Quantize rectified activations at the levels that are best for half a unit Gaussian, one step for all layers, "
        "and pass gradients as a clipped rectifier does.",
        (
            Claim(
                "ResNet-18, ImageNet, 1-bit weights, 2-bit inputs",
                "59.6 % top-1 (float 69.6 %)",
                "(memory), unconfirmed",
            ),
        ),
        ("digits", CIFAR),
        recipe,
        DEVIATIONS,
        (CIFAR,),
    )
