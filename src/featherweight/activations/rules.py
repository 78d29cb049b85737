"""Which activations are quantized, and with what: rules for stages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from featherweight.activations.quantizers import Quantizer, Sign
from featherweight.activations.ranges import MinMax, Observer
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SelectionError, naming
from featherweight.core.site import WEIGHTS, Sites, select
from featherweight.core.stage import TapRule
from featherweight.core.tap import Call, Operator, Place, TapSite, watching
from featherweight.core.task import Task, call, evaluating, moved
from featherweight.graph.sites import WEIGHTED, Activation, find_activations, seen_alike
from featherweight.graph.trace import Traced, trace


@dataclass(frozen=True)
class LearnedSteps(TapRule):
    """Quantize what convolutions and linear layers of the matching modules take in, with learned steps.

    ``bits`` everywhere but at the modules of ``exceptions``. Steps start from the first calibration batch.
    """

    modules: tuple[str, ...] = ("*",)
    bits: int = 4
    exceptions: dict[str, int] = field(default_factory=dict)

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        found = inputs(student, task, self.modules)
        return [TapSite(place, Quantizer.starting_from(x, self._bits(place))) for place, x in found.items()]

    def _bits(self, place: Place) -> int:
        return next((bits for name, bits in self.exceptions.items() if fnmatchcase(place.call.module, name)), self.bits)


@dataclass(frozen=True)
class Signs(TapRule):
    """Binarize what convolutions and linear layers of the matching modules take in."""

    modules: tuple[str, ...]

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        return [TapSite(place, Sign()) for place in inputs(student, task, self.modules)]


@torch.no_grad()
def inputs(student: Compressed, task: Task, patterns: Sequence[str]) -> dict[Place, Tensor]:
    """The inputs of convolutions and linear layers in the matching modules, for the first calibration batch.

    Raises ``SelectionError`` where no module with such an operation matches.
    """
    found: dict[Place, Tensor] = {}

    def note(place: Place, x: Tensor) -> Tensor:
        matches = any(fnmatchcase(place.call.module, pattern) for pattern in patterns)
        if place.call.operator in WEIGHTED and place.operand == 0 and matches:
            found[place] = x.detach().clone()  # the model may write to it afterwards
        return x

    with evaluating(student), watching(student.base, note):
        call(student, moved(next(iter(task.calibration_data())), student.device))
    if not found:
        raise SelectionError(
            f"no module that matches {', '.join(patterns)} convolves or is linear; `model.named_modules()` lists them"
        )
    return found


@dataclass(frozen=True, eq=False)
class Layers:
    """A traced model, the calls that it shows when it runs, and which parameters' layers are ``meant``."""

    traced: Traced
    shown: frozenset[Call]
    meant: Callable[[str], bool]


def layers_of(student: Compressed, task: Task, weights: Sites, exclude: Sequence[str]) -> Layers | None:
    """Trace the student to find the layers of ``weights`` without ``exclude``; ``None`` where there are none.

    Raises ``TraceError`` where the model cannot be traced.
    """
    found = select(student.base, weights)
    names = {name for name in found if not any(fnmatchcase(name, pattern) for pattern in exclude)}
    if not names:
        return None
    with evaluating(student.base):
        traced = trace(student.base, task.example())
        shown = seen_alike(traced, student.base, task.example())
    alias = {name: first for first, several in student.names.items() for name in several}
    return Layers(traced, shown, lambda name: alias.get(name, name) in names)


@dataclass(frozen=True)
class Calibrated(TapRule):
    """Quantize the activations that coded layers take in, and the joins of images, to ranges seen in calibration data.

    ``weights`` are the parameters whose layers are meant. Activations are found in the traced graph
    (:mod:`featherweight.graph.sites`) and tapped in the running model; ``observer`` turns what it saw in ``batches``
    batches into a range. Activations that are concatenated share one. Without any such layer joins stay floats too.

    With ``required`` a model that cannot be traced raises ``TraceError``; else its activations stay floats, and the
    stage's coverage says why.
    """

    bits: int = 8
    observer: Observer[Any] = MinMax()
    symmetric: bool = False
    weights: Sites = WEIGHTS
    exclude: tuple[str, ...] = ()
    joins: bool = True
    batches: int = 16
    required: bool = True

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        found = self.activations(student, task)
        ranges = self._ranges(student, task, found)
        made: dict[str, Quantizer] = {}
        for group, (low, high) in ranges.items():
            made[group] = Quantizer.covering(low, high, self.bits, symmetric=self.symmetric)
        return [TapSite(place, made[_group(each)]) for each in found for place in each.places]

    def activations(self, student: Compressed, task: Task) -> list[Activation]:
        """What would be quantized; places that the running model does not show are left out."""
        found = layers_of(student, task, self.weights, self.exclude)
        if found is None:
            return []
        activations = find_activations(found.traced, found.meant, self.joins)
        shown = found.shown
        kept = [replace(each, places=tuple(p for p in each.places if p.call in shown)) for each in activations]
        return [each for each in kept if each.places]

    def without(self, weights: Sequence[str], *, joins: bool = True) -> "Calibrated":
        return replace(self, exclude=(*self.exclude, *weights), joins=self.joins and joins)

    @torch.no_grad()
    def _ranges(self, student: Compressed, task: Task, found: list[Activation]) -> dict[str, tuple[float, float]]:
        watches = {_group(each): self.observer.start() for each in found}
        groups = {each.places[0]: _group(each) for each in found}

        def note(place: Place, x: Tensor) -> Tensor:
            with naming(f"the activation at {place}"):
                watches[groups[place]].add(x)
            return x

        with evaluating(student), watching(student.base, note, list(groups)):
            for batch in islice(task.calibration_data(), self.batches):
                call(student, moved(batch, student.device))
        # A grid that goes past what a clipped rectifier gives is of no use, and keeps engines from dropping the clip.
        clipped = {_group(each) for each in found if all(p.call.operator is Operator.RELU6 for p in each.places[:1])}
        ranges = {}
        for group, watch in watches.items():
            seen = watch.statistics
            with naming(f"the activation at {group}"):
                fit = watch.range(self.bits, self.symmetric and seen.low < 0)
            ranges[group] = (fit.low, min(fit.high, seen.high) if group in clipped and seen.high > 0 else fit.high)
        return ranges


def _group(activation: Activation) -> str:
    return activation.shared or activation.name
