"""Bits of a uniform grid for every tensor, under one budget for all of them."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log2
from typing import ClassVar

from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError, naming
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme
from featherweight.schemes.uniform import Fit, PerChannel, Uniform, UniformCode, blocks


def equal_noise_bits(sizes: Mapping[str, int], mean: float, least: int = 2, most: int = 8) -> dict[str, float]:
    """``min Σ 4^(−βᵢ)`` over bits ``least ≤ βᵢ ≤ most`` with ``Σ ρᵢ βᵢ = mean · Σ ρᵢ``, for tensors of ``ρᵢ`` entries.

    A bit takes 6.02 dB off a tensor's noise relative to its signal, and these relative noises add up along a network:
    ``1/γ = Σ 1/γᵢ``. Inside the bounds the minimum is ``βᵢ − βⱼ = ½ log₂ (ρⱼ / ρᵢ)``: large tensors get fewer bits
    (Lin, Talathi and Annapureddy 2016, arXiv 1511.06393). With bounds it is ``βᵢ = clamp(c − ½ log₂ ρᵢ)`` for the ``c``
    that meets the sum, which grows with ``c``: it is bisected.
    """
    if not least <= mean <= most:
        raise SchemeError(f"a mean of {mean:g} bits is not in {least}..{most}")
    halves = {name: log2(size) / 2 for name, size in sizes.items()}

    def bits(level: float) -> dict[str, float]:
        return {name: min(max(level - half, least), most) for name, half in halves.items()}

    budget = mean * sum(sizes.values())
    low, high = float(least), most + max(halves.values(), default=0.0)
    for _ in range(60):
        middle = (low + high) / 2
        fits = sum(sizes[name] * each for name, each in bits(middle).items()) <= budget
        low, high = (middle, high) if fits else (low, middle)
    return bits(low)


def whole_bits(bits: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, int]:
    """Bits rounded down, and those with the largest remainders up while the sum over all entries allows it."""
    budget = sum(sizes[name] * each for name, each in bits.items()) + 1e-6
    whole = {name: int(each + 1e-9) for name, each in bits.items()}
    for name in sorted(bits, key=lambda name: whole[name] - bits[name]):
        used = sum(sizes[each] * count for each, count in whole.items())
        if bits[name] - whole[name] > 1e-6 and used + sizes[name] <= budget:
            whole[name] += 1
    return whole


class Allocated(Scheme):
    """A uniform code for every tensor, with bits that are decided for all tensors that are projected together.

    ``uniform`` says all else of the codes.
    """

    uniform: Uniform
    promise: ClassVar[Promise] = Promise.RULE

    @abstractmethod
    def bits(self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric]) -> dict[str, int]:
        """Bits of each tensor."""

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> Code:
        bits = warm.bits if isinstance(warm, UniformCode) else self.bits({"": w}, {"": metric})[""]
        return replace(self.uniform, bits=bits).project(w, metric, warm=warm, rate=rate)

    def project_all(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], warm: Mapping[str, Code] | None = None
    ) -> dict[str, Code]:
        if warm:
            return super().project_all(weights, metrics, warm)
        bits = self.bits(weights, metrics)
        codes: dict[str, Code] = {}
        for name, w in weights.items():
            with naming(name):
                codes[name] = replace(self.uniform, bits=bits[name]).project(w, metrics[name])
        return codes

    def through(self, w: Tensor, code: Code) -> Tensor:
        if not isinstance(code, UniformCode):
            raise SchemeError(f"a uniform scheme learns behind a uniform code, not {type(code).__name__}")
        return replace(self.uniform, bits=code.bits).through(w, code)


@dataclass(frozen=True)
class EqualNoise(Allocated):
    """Bits by :func:`equal_noise_bits`, with a mean of at most ``mean`` an entry.

    A tensor by itself gets the mean, rounded down.
    """

    mean: float
    uniform: Uniform = Uniform(fit=Fit.SEARCH)
    least: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.mean <= 8:
            raise SchemeError(f"a mean of {self.mean:g} bits is not in {self.least}..8; wider codes are floats (Float)")

    def bits(self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric]) -> dict[str, int]:
        sizes = {name: max(w.numel(), 1) for name, w in weights.items()}
        return whole_bits(equal_noise_bits(sizes, self.mean, self.least), sizes)


@dataclass(frozen=True)
class WithinNoise(Allocated):
    """The fewest bits, the same for all tensors, whose :func:`rounding_noise` adds up to ``noise`` at most.

    In a metric of :class:`~featherweight.metrics.noise.NoiseGain` that is the relative noise at the outputs.
    ``SchemeError`` where 8 bits do not do.
    """

    noise: float
    uniform: Uniform = Uniform(granularity=PerChannel())
    least: int = 2

    def __post_init__(self) -> None:
        if not self.noise > 0 or not 2 <= self.least <= 8:
            raise SchemeError(f"a noise of {self.noise:g} and {self.least} bits at least: give above 0, and 2..8 bits")

    def bits(self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric]) -> dict[str, int]:
        total = 0.0
        for bits in range(self.least, 9):
            scheme = replace(self.uniform, bits=bits)
            total = sum(rounding_noise(scheme.project(w), w, metrics[name]) for name, w in weights.items())
            if total <= self.noise:
                return dict.fromkeys(weights, bits)
        raise SchemeError(f"8 bits leave a noise of {total:.3g}, above {self.noise:.3g}; allow more noise")


def rounding_noise(code: UniformCode, w: Tensor, metric: Metric) -> float:
    """``Σ d s²/12``: the mean of ``Σ d (Δw)²`` over errors that are uniform over a step, in a diagonal metric.

    Weights that are zero are levels of every symmetric grid, and have no error.
    """
    weights = metric.weights(w)
    costs = (w != 0).double() if weights is None else (w != 0) * weights.double().to(w.device)
    steps = code.scales.decode().double()
    return float((blocks(costs, code.granularity).sum(1) * steps.square()).sum() / 12)
