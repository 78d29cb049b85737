"""Bits of activations by the noise that they leave at the outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from featherweight.activations.quantizers import Quantizer
from featherweight.activations.rules import Calibrated
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.stage import TapRule
from featherweight.core.tap import Place, TapSite
from featherweight.core.task import Task
from featherweight.metrics.noise import VARIANCE, activation_gains


@dataclass(frozen=True)
class WithinNoiseTaps(TapRule):
    """Quantize activations with the fewest bits, the same for all, at which ``noise`` at most is predicted.

    Noise is relative to the outputs' power, by the gains of :mod:`featherweight.metrics.noise`; ``calibrated`` finds
    activations and their ranges. The errors of activations with several operands are taken to be independent, and
    nothing is said of what is cut off outside of a range: ``calibrated`` should hold all that it sees, as it does by
    default. ``SchemeError`` where 8 bits do not do.
    """

    noise: float
    calibrated: Calibrated = Calibrated(batches=4)
    draws: int = 2
    least: int = 2

    def __post_init__(self) -> None:
        if not self.noise > 0 or not 2 <= self.least <= 8:
            raise SchemeError(f"a noise of {self.noise:g} and {self.least} bits at least: give above 0, and 2..8 bits")

    @property
    def required(self) -> bool:
        return self.calibrated.required

    def taps(self, student: Compressed, task: Task) -> Sequence[TapSite]:
        places = noisy_places(self.calibrated, student, task)
        gains = activation_gains(student, task, places, self.calibrated.batches, self.draws) if places else {}
        total = activation_noise(replace(self.calibrated, bits=8).taps(student, task), gains)
        for bits in range(self.least, 9):
            if total * (255 / (2**bits - 1)) ** 2 > self.noise:
                continue  # it would be so in the same range: there is no need to look
            taps = replace(self.calibrated, bits=bits).taps(student, task)
            if activation_noise(taps, gains) <= self.noise:
                return taps
        raise SchemeError(f"8 bits of activations leave a noise of {total:.3g}, above {self.noise:.3g}; allow more")

    def without(self, weights: Sequence[str], *, joins: bool = True) -> "WithinNoiseTaps":
        return replace(self, calibrated=self.calibrated.without(weights, joins=joins))


def noisy_places(calibrated: Calibrated, student: Compressed, task: Task) -> list[Place]:
    """Where quantization makes noise: a result that is rounded where it is made has none again as an operand."""
    found = calibrated.activations(student, task)
    return [p for each in found for p in (each.places[:1] if each.places[0].operand is None else each.places)]


def activation_noise(taps: Sequence[TapSite], gains: Mapping[Place, float]) -> float:
    """``Σ gain · s²/12`` over the places that have a gain."""
    steps = {site.place: site.function.scale for site in taps if isinstance(site.function, Quantizer)}
    return sum(gain * float(steps[place]) ** 2 * VARIANCE for place, gain in gains.items())
