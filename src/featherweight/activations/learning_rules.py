"""Rules for activations whose quantizers learn, or are used, while the model trains."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from featherweight.activations.learned import (
    Clipped,
    HalfWave,
    MovingRange,
    QuantizedGradient,
    ShiftedError,
    half_wave_step,
)
from featherweight.activations.quantizers import Quantizer
from featherweight.activations.rules import Calibrated, inputs
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Tap, TapRule, Term
from featherweight.core.tap import Function, Place, TapSite
from featherweight.core.task import Task


@dataclass(frozen=True)
class Clippings(TapRule):
    """PACT: what the matching modules take in is clipped to ``[0, α]`` and quantized; α starts at the largest input.

    Raises ``SchemeError`` where an input is negative: the rule is for what comes out of a rectifier.
    """

    modules: tuple[str, ...] = ("*",)
    bits: int = 4

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        found = inputs(student, task, self.modules)
        for place, x in found.items():
            if bool((x < 0).any()):
                raise SchemeError(f"{place} is negative in places, and would be cut off; leave its module out")
        return [TapSite(place, Clipped(self.bits, x.max().float())) for place, x in found.items()]


@dataclass(frozen=True)
class ClippingDecay(Term):
    """``½ Σ α²`` over all learned clipping levels: PACT's regularisation (Choi et al. 2018, section 3.2)."""

    def __call__(self, tap: Tap) -> Tensor:
        assert isinstance(tap.student, Compressed)
        levels = [each.alpha for each in tap.student.taps if isinstance(each, Clipped)]
        return torch.stack([level.square() for level in levels]).sum() / 2 if levels else torch.zeros(())


@dataclass(frozen=True)
class UnitIntervals(TapRule):
    """``q(clamp(x, 0, 1))`` with steps of ``1/(2ᵇ − 1)``: DoReFa-Net's activations (Zhou et al. 2016, equation 11)."""

    modules: tuple[str, ...] = ("*",)
    bits: int = 2

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        step = torch.tensor(1 / (2**self.bits - 1))
        return [TapSite(place, Quantizer(self.bits, 0, step)) for place in inputs(student, task, self.modules)]


@dataclass(frozen=True)
class SignedUnits(TapRule):
    """Integers of ``bits`` bits times ``2^(1−bits)``, so that inputs are clipped to ``[−1, 1)``.

    ``wider`` maps patterns on modules to powers of two by which what they take in is wider: the first layer, where data
    goes past one (Wu, Li, Chen and Shi 2018, arXiv 1802.04680, equation 6, which leaves out the level −1).
    """

    modules: tuple[str, ...] = ("*",)
    bits: int = 8
    wider: dict[str, float] = field(default_factory=dict)

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        found = inputs(student, task, self.modules)
        return [TapSite(place, Quantizer(self.bits, -(2 ** (self.bits - 1)), self._step(place))) for place in found]

    def _step(self, place: Place) -> Tensor:
        width = next((w for name, w in self.wider.items() if fnmatchcase(place.call.module, name)), 1.0)
        return torch.tensor(width * 2.0 ** (1 - self.bits))


@dataclass(frozen=True)
class HalfWaves(TapRule):
    """Half-wave Gaussian quantization of what the matching modules take in, which norms brought near a Gaussian."""

    modules: tuple[str, ...] = ("*",)
    bits: int = 2

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        step = half_wave_step(self.bits)
        return [TapSite(place, HalfWave(self.bits, step)) for place in inputs(student, task, self.modules)]


@dataclass(frozen=True)
class WithGradients(TapRule):
    """Another rule, and the gradients that reach the results of the matching modules quantized to ``bits`` bits."""

    rule: TapRule
    modules: tuple[str, ...] = ("*",)
    bits: int = 6

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        results = [Place(place.call, None) for place in inputs(student, task, self.modules)]
        return [*self.rule.taps(student, task), *(TapSite(place, self.function()) for place in results)]

    def function(self) -> Function:
        """What one result is sent through."""
        return QuantizedGradient(self.bits)


@dataclass(frozen=True)
class WithErrors(WithGradients):
    """The same with WAGE's errors: integers of which only the proportions count (:class:`ShiftedError`)."""

    bits: int = 8

    def function(self) -> Function:
        return ShiftedError(self.bits)


@dataclass(frozen=True)
class MovingRanges(TapRule):
    """The activations of :class:`Calibrated`, each quantized to its moving range after ``delay`` training batches."""

    bits: int = 8
    decay: float = 0.99
    delay: int = 0
    weights: Sites = WEIGHTS

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        made: dict[str, Function] = {}
        sites = []
        for each in Calibrated(self.bits, weights=self.weights).activations(student, task):
            group = each.shared or each.name
            function = made.setdefault(group, MovingRange(self.bits, self.decay, self.delay))
            sites += [TapSite(place, function) for place in each.places]
        return sites
