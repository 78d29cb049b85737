"""XNOR-Net: binary weights and inputs (Rastegari et al. 2016)."""

from featherweight.activations.rules import Signs
from featherweight.core.site import Sites
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.uniform import PerChannel, Uniform

REFERENCE = Reference(
    "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
    "Rastegari, Ordonez, Redmon and Farhadi",
    2016,
    "1603.05279",
)
DEVIATIONS = (
    "scales start at mean|w| of a filter and are then learned, instead of recomputed at every step",
    "inputs are plain signs, without the input scale K, and blocks keep the network's own order",
)
EPOCHS = {"mnist-lenet5": 6}
"""Of a task with many more samples than digits, which takes 20."""


def recipe(task: str = "", *, inputs: bool = False, epochs: int | None = None) -> Recipe:
    """Binary weights (and, with ``inputs``, binary inputs) of all layers but the first and the last."""
    inner = Sites(exclude=("conv1.*", "fc2.*"), min_dims=2)
    stage = Stage(
        "binarize",
        {inner: Uniform(1, granularity=PerChannel())},
        tap=Signs(("conv[23]", "fc1")) if inputs else None,
        learn=Learn.BOTH,
        training=Training(epochs or EPOCHS.get(task, 20), 2e-3),
    )
    return Recipe("xnor-net", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "xnor-net",
        REFERENCE,
        "Weights are signs times one scale a filter; inputs may be signs too; gradients pass straight through.",
        (Claim("AlexNet, ImageNet", "top-1 2.9 % below full precision with binary weights", "abstract"),),
        ("digits",),
        recipe,
        DEVIATIONS,
        ("mnist-lenet5",),
    )
