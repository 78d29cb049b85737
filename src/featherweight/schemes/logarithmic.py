"""Powers of two: weights whose products are shifts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from math import frexp, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, direct, latent, number_type, part_streams, read_part
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight, straight_through
from featherweight.schemes.floats import Floats, positive, stored
from featherweight.schemes.plus import PlusCode
from featherweight.schemes.uniform import (
    Granularity,
    PerChannel,
    PerTensor,
    block_count,
    blocked,
    blocks,
    granularity_of,
    spread_of,
    unblocked,
)


class Base(Enum):
    """What the levels are powers of; the value is how many levels lie in an octave."""

    TWO = 1
    ROOT = 2  # the square root of two


@dataclass(frozen=True)
class Powers:
    """The levels ``±base^(t − K + m)``, ``m = 1 … K``, under a top exponent ``t``; and zero, ``m = 0``, if it is one.

    ``magnitudes`` is ``K``. Exponents are counted in steps: whole numbers for base 2, halves for its root.
    """

    LARGEST: ClassVar[int] = 128

    magnitudes: int
    base: Base = Base.TWO
    zero: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.magnitudes <= self.LARGEST:
            raise SchemeError(f"{self.magnitudes} magnitudes are not in 1..{self.LARGEST}")

    @property
    def alphabet(self) -> int:
        return 2 * self.magnitudes + int(self.zero)

    def tops(self, dtype: torch.dtype) -> tuple[int, int]:
        """The least and the largest top exponent, in steps: levels that are normal numbers of ``dtype`` and float32."""
        limits = torch.finfo(torch.float32 if dtype == torch.float64 else dtype)
        least, above = frexp(limits.tiny)[1] - 1, frexp(limits.max)[1]
        return least * self.base.value, above * self.base.value - 1

    def values(self, tops: Tensor, dtype: torch.dtype) -> Tensor:
        """[blocks, K]: the positive levels of each block, ascending, exact but for the root's rounding to ``dtype``."""
        below = torch.arange(1 - self.magnitudes, 1, device=tops.device)
        steps = tops.long()[:, None] + below
        octaves = torch.div(steps, self.base.value, rounding_mode="floor")
        exact = ((octaves + 1023) << 52).view(torch.float64)  # a number's exponent field: the same on every machine
        return torch.where(steps % self.base.value == 0, exact, exact * sqrt(2)).to(dtype)


@dataclass(frozen=True, eq=False)
class LogCode(Code):
    """``decode() = [scale ·] sign(level) · base^(top − K + |level|)``, and 0 for level 0; a top exponent a block.

    A scale a block multiplies the levels where there is one; without, a product with the weight is a shift.
    """

    levels: Tensor = latent()  # int16 of the code's shape: −K … K; without zero where the powers have none
    tops: Tensor = latent()  # int16 of shape [blocks], in steps
    scales: Code | None = direct()  # of shape [blocks]
    powers: Powers = Powers(7)
    granularity: Granularity = PerTensor()

    @property
    def bits(self) -> int:
        return (self.powers.alphabet - 1).bit_length()

    @property
    def columnwise(self) -> bool:
        return isinstance(self.granularity, PerTensor) or self.granularity == PerChannel(0)

    def decode(self) -> Tensor:
        numbers = number_type(self.dtype)
        matrix = _signed(self.powers, blocks(self.levels, self.granularity), self.powers.values(self.tops, numbers))
        if self.scales is not None:
            matrix = matrix * self.scales.decode()[:, None]
        return unblocked(matrix, self.shape, self.granularity).to(self.dtype)

    def settings(self) -> tuple[int, ...]:
        powers = self.powers
        return (powers.magnitudes, powers.base.value, int(powers.zero), *spread_of(self.granularity))

    def streams(self) -> Iterator[Stream]:
        powers, levels = self.powers, self.levels.long()
        above = 0 if powers.zero else (levels > 0).long()
        yield Stream("levels", levels + powers.magnitudes - above, powers.alphabet)
        least, most = powers.tops(self.dtype)
        yield Stream("tops", self.tops.long() - least, most - least + 1)
        if self.scales is not None:
            yield from part_streams("scales", self.scales)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "LogCode":
        match layout.settings:
            case (magnitudes, 1 | 2 as base, 0 | 1 as zero, *spread) if 1 <= magnitudes <= Powers.LARGEST:
                powers, granularity = Powers(magnitudes, Base(base), bool(zero)), granularity_of(tuple(spread), shape)
            case _:
                granularity = None
        if granularity is None or len(layout.parts) > 1 or not dtype.is_floating_point:
            raise FormatError(
                f"a logarithmic code of shape {shape} has no settings {layout.settings} and {len(layout.parts)} parts"
            )
        levels = take("levels", shape, powers.alphabet).to(torch.int16) - powers.magnitudes
        if not powers.zero:
            levels = levels + (levels >= 0).to(torch.int16)
        count = block_count(granularity, shape)
        least, most = powers.tops(dtype)
        tops = take("tops", (count,), most - least + 1).to(torch.int16) + least
        numbers = number_type(dtype)
        scales = read_part(layout, 0, (count,), numbers, take, "scales") if layout.parts else None
        return cls(shape, dtype, levels, tops, scales, powers, granularity)


class Rounding(Enum):
    """Where between two levels the boundary lies, and with it the top exponent that the largest entry rounds to."""

    LINEAR = "linear"  # at their arithmetic mean: the nearest level
    LOGARITHMIC = "logarithmic"  # at their geometric mean: the nearest exponent


@dataclass(frozen=True)
class Logarithmic(Scheme):
    """``min Σ d (w − ŵ)²`` over levels ``±base^e`` (and zero) of ``magnitudes`` successive exponents ``e ≤ t``.

    Given the top exponent ``t``, ``Rounding.LINEAR`` takes the nearest level, which is the best in any diagonal metric
    (with ``rate``, the minimum of ``d (w − ŵ)² + λ bits``). Zero is the level of what lies below half of the smallest
    magnitude. With ``search`` the top exponents are the best too, one by one from the exponent that the largest entry
    rounds to, down to where what is clipped errs more than the best so far: the projection is exact. Without, the top
    exponent is the one that the largest entry rounds to: in base 2 ``t = ⌊log₂(4 max|w| / 3)⌋``, and levels have the
    boundaries ``(α + β)/2`` and ``3β/2`` (Zhou et al. 2017, arXiv 1702.03044, equations 2 to 4, which leave b bits
    ``2^(b−2)`` magnitudes: :func:`incremental`).

    ``Rounding.LOGARITHMIC`` rounds exponents: ``e = round(log_base |w|)``, zero where that is below the last level
    (Miyashita, Lee and Murmann 2016, arXiv 1603.01025, equations 3 to 5). It is a rule. Without zero, what is below
    the smallest magnitude has it, and zero counts as positive.

    ``scaled`` divides every block by its largest magnitude first, which is stored in float16 where its range holds it,
    else in float32; the top exponent is then 0.

    Latent learning passes gradients straight through where ``|w|`` is not over the boundary at which one more level
    would follow the top; a scale gets ``∂ŵ/∂s = ŵ/s − w/s`` there, else ``ŵ/s``.
    """

    magnitudes: int = 7
    base: Base = Base.TWO
    zero: bool = True
    rounding: Rounding = Rounding.LINEAR
    granularity: Granularity = PerTensor()
    search: bool = False
    scaled: bool = False

    def __post_init__(self) -> None:
        Powers(self.magnitudes, self.base, self.zero)
        if self.search and (self.scaled or self.rounding is not Rounding.LINEAR):
            raise SchemeError("top exponents are searched for linear rounding and without a scale; leave search off")

    @property
    def promise(self) -> Promise:  # type: ignore[override]
        return Promise.EXACT if self.search else Promise.RULE

    @property
    def powers(self) -> Powers:
        return Powers(self.magnitudes, self.base, self.zero)

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> LogCode:
        check_weight(w)
        matrix, d = blocked(w, metric, self.granularity)
        if warm is not None:
            tops, scales = _as_log(warm).tops, _as_log(warm).scales
        else:
            scales = self._scales(matrix)
            tops = self._tops(_divided(matrix, scales), d, w.dtype)
        magnitudes = self.powers.values(tops, matrix.dtype)
        x = _divided(matrix, scales)
        levels = self._nearest(x, magnitudes) if rate is None else self._cheapest(matrix, d, magnitudes, scales, rate)
        kept = unblocked(levels.to(torch.int16), tuple(w.shape), self.granularity)
        return LogCode(tuple(w.shape), w.dtype, kept, tops, scales, self.powers, self.granularity)

    def through(self, w: Tensor, code: Code) -> Tensor:
        before = _as_log(code)
        matrix = blocks(w, self.granularity).to(number_type(w.dtype))
        magnitudes = self.powers.values(before.tops, matrix.dtype)
        x = _divided(matrix, before.scales)
        limit = magnitudes[:, -1:] * self._ratio(0.5)
        inside = torch.maximum(torch.minimum(x, limit), -limit)
        decoded = straight_through(_signed(self.powers, self._nearest(x.detach(), magnitudes), magnitudes), inside)
        if before.scales is not None:
            decoded = decoded * before.scales.decode()[:, None]
        return unblocked(decoded, before.shape, self.granularity).to(w.dtype)

    def _ratio(self, share: float) -> float:
        """The boundary at ``share`` of the way up from a level to the next one, over that level."""
        step = 2 ** (1 / self.base.value)
        return 1 + share * (step - 1) if self.rounding is Rounding.LINEAR else float(step**share)

    def _scales(self, matrix: Tensor) -> Floats | None:
        if not self.scaled:
            return None
        return stored(positive(matrix.abs().amax(1)))

    def _tops(self, matrix: Tensor, d: Tensor | None, dtype: torch.dtype) -> Tensor:
        """int16 [blocks]: the top exponents, in steps."""
        least, most = self.powers.tops(dtype)
        largest = matrix.abs().amax(1)
        if self.scaled:
            return torch.zeros_like(largest, dtype=torch.int16)
        tops = self._exponents(largest).clamp(least, most)
        tops = torch.where(largest > 0, tops, 0 if self.zero else least)
        return (self._searched(matrix.double(), d, tops, least) if self.search else tops).to(torch.int16)

    def _exponents(self, x: Tensor) -> Tensor:
        """The exponents, in steps, of the levels that positive numbers round to if there is every level."""
        mantissa, octave = torch.frexp(x.double())  # 1/2 ≤ mantissa < 1
        steps = self.base.value
        over = [2 ** (step / steps) * self._ratio(0.5) for step in range(steps)]
        above = sum((2 * mantissa >= boundary).long() for boundary in over)
        return (octave.long() - 1) * steps + above

    def _searched(self, matrix: Tensor, d: Tensor | None, start: Tensor, least: int) -> Tensor:
        best, lowest = start, torch.full(start.shape, torch.inf, dtype=matrix.dtype, device=matrix.device)
        weights = None if d is None else d.double()
        for below in range(int(start.max()) - least + 1):
            tops = (start - below).clamp(min=least)
            magnitudes = self.powers.values(tops, matrix.dtype)
            error = _summed(matrix - _signed(self.powers, self._nearest(matrix, magnitudes), magnitudes), weights)
            best = torch.where(error < lowest, tops, best)
            lowest = torch.minimum(error, lowest)
            clipped = (matrix.abs() - magnitudes[:, -1:]).clamp(min=0)
            if bool((_summed(clipped, weights) >= lowest).all()):
                break  # lower tops clip more, whatever their other levels are
        return best

    def _nearest(self, x: Tensor, magnitudes: Tensor) -> Tensor:
        """[blocks, entries] of levels. A boundary belongs to the level above it."""
        boundaries = magnitudes[:, :-1] * self._ratio(0.5)
        if self.zero:
            under = 0.5 if self.rounding is Rounding.LINEAR else 1 / self._ratio(0.5)
            boundaries = torch.cat([magnitudes[:, :1] * under, boundaries], 1)
        size = torch.searchsorted(boundaries, x.abs().contiguous(), right=True) + int(not self.zero)
        return torch.where(x >= 0, size, -size)

    def _cheapest(
        self, matrix: Tensor, d: Tensor | None, magnitudes: Tensor, scales: Code | None, rate: Rate
    ) -> Tensor:
        levels = [level for level in range(-self.magnitudes, self.magnitudes + 1) if level or self.zero]
        values = [_signed(self.powers, torch.full_like(matrix[:, :1], each).long(), magnitudes) for each in levels]
        if scales is not None:
            values = [value * scales.decode()[:, None] for value in values]
        return torch.tensor(levels, device=matrix.device)[rate.cheapest(matrix, d, values)]


def incremental(bits: int) -> Logarithmic:
    """The levels of incremental network quantization at ``bits``, one of which says zero: ``2^(bits−2)`` magnitudes.

    Zhou et al. 2017, arXiv 1702.03044, section 2.1: ``{±2^n₁ … ±2^n₂, 0}`` with ``n₂ = n₁ + 1 − 2^(bits−1)/2``.
    """
    if not 2 <= bits <= 8:
        raise SchemeError(f"{bits} bits are not in 2..8")
    return Logarithmic(2 ** (bits - 2))


@dataclass(frozen=True)
class ShiftSum(Scheme):
    """``w ≈ s Σ_n c_n``, ``c_n ∈ {0, ±2^(1−n), ±2^−n, … ±2^(2−n−K)}``: a sum of ``terms`` powers of two a weight.

    ShiftCNN (Gudovskiy and Rigazio 2017, arXiv 1706.02393, section 3): ``s`` is the largest magnitude of a block, and
    each term the nearest in its own codebook to what the terms before it left, greedily: a rule. ``B`` bits a term are
    ``K = 2^(B−1) − 1`` magnitudes. The code is a sum of logarithmic codes with one scale. Backward: straight through.
    """

    terms: int = 2
    magnitudes: int = 7
    granularity: Granularity = PerTensor()
    promise: ClassVar[Promise] = Promise.RULE

    def __post_init__(self) -> None:
        Powers(self.magnitudes)
        if not 1 <= self.terms <= 5:
            raise SchemeError(f"{self.terms} terms are not in 1..5")

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> Code:
        check_weight(w)
        wide = w.detach().to(number_type(w.dtype))
        scheme = Logarithmic(self.magnitudes, granularity=self.granularity, scaled=True)
        first = scheme.project(wide) if warm is None else _as_log(_summands(warm)[0])
        terms: list[Code] = []
        for number in range(self.terms):
            under = replace(first, tops=torch.full_like(first.tops, -number))
            terms.append(scheme.project(wide, warm=under, rate=rate))
            wide = wide - terms[-1].decode()
        code = terms.pop()
        while terms:
            code = PlusCode(tuple(w.shape), code.dtype, terms.pop(), code)
        return replace(code, dtype=w.dtype)


def _summands(code: Code) -> list[Code]:
    return [code.first, *_summands(code.second)] if isinstance(code, PlusCode) else [code]


def _signed(powers: Powers, levels: Tensor, magnitudes: Tensor) -> Tensor:
    """[blocks, entries]: the numbers that levels stand for."""
    size = levels.abs().long()
    padded = torch.cat([torch.zeros_like(magnitudes[:, :1]), magnitudes], 1) if powers.zero else magnitudes
    value = padded.gather(1, size if powers.zero else size - 1)
    return torch.where(levels < 0, -value, value)


def _divided(matrix: Tensor, scales: Code | None) -> Tensor:
    return matrix if scales is None else matrix / scales.decode()[:, None]


def _summed(differences: Tensor, weights: Tensor | None) -> Tensor:
    squared = differences.square()
    return (squared if weights is None else squared * weights).sum(1)


def _as_log(code: Code) -> LogCode:
    if not isinstance(code, LogCode):
        raise SchemeError(f"a warm start of a logarithmic scheme is a logarithmic code, not {type(code).__name__}")
    return code
