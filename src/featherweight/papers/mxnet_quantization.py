"""The quantization example of Apache MXNet: naive and entropy calibration (2018)."""

from typing import Any

from featherweight.activations.entropy import Entropy
from featherweight.activations.ranges import Observer
from featherweight.activations.rules import Calibrated
from featherweight.core.site import Sites
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.graph.fold import FoldNorms
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import PerChannel, Uniform

REFERENCE = Reference(
    "Model Quantization with Calibration Examples (apache/mxnet, example/quantization)",
    "Apache MXNet contributors",
    2018,
    url="https://github.com/apache/mxnet/tree/master/example/quantization",
)
DEVIATIONS = (
    "written from memory of the example: features and figures were not read again",
    "the calibration without data, with ranges found while the model runs, is left out",
    "histograms of up to 4,096 bins whose width is a power of two, instead of 8,001",
    "biases are stored in float16, not in int8 or int32",
)


def recipe(task: str = "", *, observer: Observer[Any] | None = None, exclude: tuple[str, ...] = ()) -> Recipe:
    """Norms folded, 8-bit weights by their largest entry a channel, activations by entropy.

    ``observer`` ``MinMax()`` is the naive calibration. Weights that match ``exclude`` stay floats, with what their
    layers take in.
    """
    stage = Stage(
        "quantize",
        {Sites(exclude=exclude, min_dims=2): Uniform(8, granularity=PerChannel())},
        edit=FoldNorms(),
        tap=Calibrated(8, observer or Entropy(), exclude=exclude, batches=5),
    )
    side = Stage("side", {Sites(("*.bias",), optional=True): Float(Width.FLOAT16)})
    return Recipe("mxnet-quantization", (stage, side), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "mxnet-quantization",
        REFERENCE,
        "Replace operators by their int8 forms behind folded norms; take the ranges of activations from a few batches, "
        "by extremes (naive) or by the threshold of least KL divergence (entropy); leave named layers out.",
        (
            Claim(
                "ResNet-50 and 152, MobileNet, Inception, ImageNet",
                "int8 within 0.5 to 1 % top-1 of float with entropy calibration",
                "(memory), unconfirmed",
            ),
        ),
        ("digits", "cifar10-resnet20"),
        recipe,
        DEVIATIONS,
        ("cifar10-resnet20",),
    )
