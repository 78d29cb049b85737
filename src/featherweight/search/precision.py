"""Recipes that lower the precision of a trained model, without training."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from featherweight.activations.dynamic import DynamicRanges
from featherweight.activations.least_squares import LeastSquares
from featherweight.activations.ranges import Observer
from featherweight.activations.repairs import BiasCorrection, Equalize
from featherweight.activations.rules import Calibrated
from featherweight.core.scheme import Scheme
from featherweight.core.site import Sites
from featherweight.core.stage import Recipe, Stage
from featherweight.graph.fold import FoldNorms
from featherweight.metrics.hessian import InputMoment
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import Fit, Granularity, PerChannel, PerGroup, PerTensor, Uniform
from featherweight.solvers.sweep import ColumnSweep

NONE: Mapping[str, int] = MappingProxyType({})
BIASES = Sites(("*.bias",), optional=True)


def post_training(
    weights: int = 8,
    activations: int | None = 8,
    *,
    exceptions: Mapping[str, int] = NONE,
    exclude: tuple[str, ...] = (),
    observer: Observer[Any] | None = None,
    per_channel: bool = True,
    sweep: bool | None = None,
    correct: bool | None = None,
    equalize: bool = False,
    batches: int = 4,
) -> Recipe:
    """Norms folded; weights of all layers to ``weights`` bits, what they take in to ``activations``, without labels.

    Weights get symmetric levels with the scale, one a channel, that is best in squared error; ``exceptions`` maps
    patterns on their names to other bits, and those that match ``exclude`` stay floats, with what their layers take
    in. The ranges of activations are what ``observer`` makes of ``batches`` calibration batches, by default the least
    squared error; ``activations`` ``None`` leaves them floats.

    ``sweep`` chooses levels by the column sweep (``featherweight.solvers.sweep``), layer by layer behind those that are
    quantized already; ``correct`` gives biases back the means of the float outputs. Both are done by default below 8
    bits alone, where they pay. ``equalize`` first moves scales between layers, which one scale a tensor needs
    (``per_channel=False``). Biases are stored in float16.

    A model that cannot be traced keeps its norms and its activations: its weights are quantized, and the result says
    why.
    """
    low = min((weights, *exceptions.values())) < 8
    stages = [] if not equalize else [Stage("equalize", edit=FoldNorms(), repairs=(Equalize(),))]
    quantize = _quantize(
        weights,
        PerChannel() if per_channel else PerTensor(),
        exceptions,
        exclude,
        low if sweep is None else sweep,
        low if correct is None else correct,
        batches,
    )
    if activations is not None:
        taps = Calibrated(activations, observer or LeastSquares(), exclude=exclude, batches=batches, required=False)
        quantize = replace(quantize, tap=taps)
    stages += [replace(quantize, edit=FoldNorms()), _side()]
    return Recipe(f"int{weights}", tuple(stages))


def weight_only(
    bits: int = 8,
    *,
    group: int | None = None,
    exceptions: Mapping[str, int] = NONE,
    exclude: tuple[str, ...] = (),
    sweep: bool | None = None,
    correct: bool | None = None,
    batches: int = 4,
) -> Recipe:
    """Weights to ``bits`` bits, activations as they are; one scale a channel, or for every ``group`` entries of a row.

    At 8 bits it needs no data. ``group`` must divide the rows of every weight that ``exceptions``, which have one scale
    a channel, and ``exclude`` leave. Norms are folded where the model can be traced. All else is as in
    :func:`post_training`.
    """
    low = min((bits, *exceptions.values())) < 8
    spread: Granularity = PerChannel() if group is None else PerGroup(group)
    sweep, correct = low if sweep is None else sweep, low if correct is None else correct
    quantize = _quantize(bits, spread, exceptions, exclude, sweep, correct, batches)
    return Recipe(f"int{bits}-weights", (replace(quantize, edit=FoldNorms()), _side()))


def dynamic(
    weights: int = 8,
    *,
    exceptions: Mapping[str, int] = NONE,
    exclude: tuple[str, ...] = (),
    sweep: bool | None = None,
    correct: bool | None = None,
    batches: int = 4,
) -> Recipe:
    """Weights to ``weights`` bits; what linear layers take in to eight, over the range of each batch as it comes.

    At 8 bits it needs no data: ranges are found while the model runs, on an engine too. Convolutions have integer
    weights and float activations. One sample's levels depend on the batch that it is in. All else is as in
    :func:`post_training`.
    """
    low = min((weights, *exceptions.values())) < 8
    sweep, correct = low if sweep is None else sweep, low if correct is None else correct
    quantize = _quantize(weights, PerChannel(), exceptions, exclude, sweep, correct, batches)
    quantize = replace(quantize, edit=FoldNorms(), tap=DynamicRanges(exclude=exclude, required=False))
    return Recipe(f"int{weights}-dynamic", (quantize, _side()))


def _quantize(
    bits: int,
    spread: Granularity,
    exceptions: Mapping[str, int],
    exclude: tuple[str, ...],
    sweep: bool,
    correct: bool,
    batches: int,
) -> Stage:
    schemes: dict[str | Sites, Scheme] = {
        Sites((name,), exclude, min_dims=2): Uniform(other, granularity=PerChannel(), fit=Fit.SEARCH)
        for name, other in exceptions.items()
    }
    schemes[Sites(exclude=exclude, min_dims=2)] = Uniform(bits, granularity=spread, fit=Fit.SEARCH)
    repairs = (BiasCorrection(batches),) if correct else ()
    if not sweep:
        return Stage("quantize", schemes, repairs=repairs)
    solver = ColumnSweep(required=False)
    return Stage("quantize", schemes, InputMoment(batches, required=False), solver, repairs=repairs)


def _side() -> Stage:
    return Stage("side", {BIASES: Float(Width.FLOAT16)})


PRECISIONS: Mapping[str, Callable[[], Recipe]] = MappingProxyType(
    {
        "int8": post_training,
        "int7": partial(post_training, 7),
        "int8-dynamic": dynamic,
        "int8-weights": partial(weight_only, 8),
        "int4-weights": partial(weight_only, 4),
    }
)
"""Name on the command line -> recipe; "int7" is as fast as int8 gets where byte products saturate."""
