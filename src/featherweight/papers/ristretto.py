"""Ristretto: dynamic fixed point with bit widths by a search under an error bound (Gysel et al. 2016)."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from featherweight.activations.ranges import PowerOfTwo
from featherweight.activations.rules import Calibrated
from featherweight.core.scheme import Scheme
from featherweight.core.site import Sites
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.core.task import Task
from featherweight.graph.fold import FoldNorms
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import Fit, Uniform
from featherweight.search.widths import least_bits

REFERENCE = Reference(
    "Hardware-oriented Approximation of Convolutional Neural Networks",
    "Gysel, Motamedi and Ghiasi",
    2016,
    "1604.03168",
)
DEVIATIONS = (
    "written from memory of the paper: figures were not read again",
    "weight levels are symmetric, without the lowest; scales hold the largest entry, with nothing cut off",
    "no fine-tuning with stochastic rounding; minifloats and multiplier-free weights are other recipes",
    "norms, which the paper's networks do not have, are folded first",
)
BATCHES = 4
"""Calibration batches that ranges of activations are taken from."""

BITS = {"digits": (4, 3, 4)}
"""Bits of convolutions' weights, linear layers' weights and activations: ``bit_widths(model, task, 0.5)``."""

CONVOLUTIONS, MATRICES = Sites(min_dims=3, optional=True), Sites(min_dims=2, optional=True)


def recipe(task: str = "", *, bits: tuple[int, int, int] | None = None) -> Recipe:
    """Convolutions' weights, linear layers' weights and activations to three bit widths; scales are powers of two."""
    convolution, linear, activation = bits or BITS.get(task, (8, 8, 8))
    stage = replace(
        _trimmed(_fixed(convolution), _fixed(linear)), tap=Calibrated(activation, PowerOfTwo(), batches=BATCHES)
    )
    side = Stage("side", {Sites(("*.bias",), optional=True): Float(Width.FLOAT16)})
    return Recipe("ristretto", (stage, side), REFERENCE, DEVIATIONS)


def bit_widths(model: nn.Module, task: Task, drop: float) -> tuple[int, int, int]:
    """The fewest bits of each of the three groups with which it alone loses at most ``drop`` on the selection data."""
    groups: tuple[Callable[[int], Stage], ...] = (
        lambda bits: _trimmed(_fixed(bits), Float()),
        lambda bits: _trimmed(Float(), _fixed(bits)),
        lambda bits: Stage("trim", edit=FoldNorms(), tap=Calibrated(bits, PowerOfTwo(), batches=BATCHES)),
    )

    def least(stage_of: Callable[[int], Stage]) -> int:
        return least_bits(model, task, lambda bits: Recipe("ristretto", (stage_of(bits),)), drop)

    convolution, linear, activation = map(least, groups)
    return convolution, linear, activation


def _fixed(bits: int) -> Uniform:
    return Uniform(bits, fit=Fit.POWER_OF_TWO)


def _trimmed(convolutions: Scheme, matrices: Scheme) -> Stage:
    return Stage("trim", {CONVOLUTIONS: convolutions, MATRICES: matrices}, edit=FoldNorms())


def paper() -> Paper:
    return Paper(
        "ristretto",
        REFERENCE,
        "Numbers are integers times a power of two that every group of a layer has of its own; the bits of convolution "
        "weights, linear weights and activations are each the fewest within an error bound.",
        (
            Claim("LeNet, MNIST", "4/4/4 bits: 98.7 % before fine-tuning, of 99.1 %", "(memory), unconfirmed"),
            Claim("CIFAR-10 network", "8 bits: 80.6 % before fine-tuning, of 81.7 %", "(memory), unconfirmed"),
            Claim("SqueezeNet, ImageNet", "8 bits: 55.2 % before fine-tuning, of 57.7 %", "(memory), unconfirmed"),
        ),
        ("digits", "cifar10-resnet20"),
        recipe,
        DEVIATIONS,
        ("cifar10-resnet20",),
    )
