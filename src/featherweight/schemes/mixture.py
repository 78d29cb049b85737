"""Soft weight-sharing: weights as draws of a mixture of Gaussians, one of them at zero."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Self

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, direct, latent, number_type, part_streams, read_part
from featherweight.core.errors import FormatError, SchemeError, naming
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight
from featherweight.core.shared import Reference
from featherweight.schemes.floats import Floats, Width

MILLION = 1_000_000


@dataclass(frozen=True, eq=False)
class MixtureCode(Code):
    """``decode()[i] = μ_{a(i)}``: every entry is the mean of its component; ``μ_0 = 0``.

    The density is ``p(w) = Σ_{j=0..J} π_j N(w; μ_j, σ_j²)`` with ``π_0 = zero / 10⁶`` and, for ``j ≥ 1``,
    ``π_j = (1 − π_0) softmax(logits)_j``.
    """

    assigned: Tensor = latent()  # int32, of the code's shape: 0 … J
    means: Code = direct()  # [J]: of the components 1 … J
    log_deviations: Code = direct()  # [J + 1]
    logits: Code = direct()  # [J]
    zero: int = 0  # millionths

    @property
    def size(self) -> int:
        """Components, with the one at zero."""
        return self.log_deviations.shape[0]

    def centres(self) -> Tensor:
        """``μ``, [J + 1]."""
        means = self.means.decode()
        return torch.cat([means.new_zeros(1), means])

    def log_mixing(self) -> Tensor:
        """``log π``, [J + 1]."""
        logits = self.logits.decode()
        share = torch.tensor(self.zero / MILLION, dtype=logits.dtype, device=logits.device)
        return torch.cat([share.log().reshape(1), logits.log_softmax(0) + torch.log1p(-share)])

    def decode(self) -> Tensor:
        return self.centres()[self.assigned.long()].to(self.dtype)

    def settings(self) -> tuple[int, ...]:
        return (self.size, self.zero)

    def streams(self) -> Iterator[Stream]:
        for name, part in self.parts().items():
            yield from part_streams(name, part)
        yield Stream("assigned", self.assigned, self.size)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "MixtureCode":
        match layout.settings:
            case (size, zero) if 2 <= size <= Mixture.LARGEST and 0 < zero < MILLION:
                pass
            case _:
                raise FormatError(f"a mixture has no settings {layout.settings}")
        if len(layout.parts) != 3 or any(part.kind not in (Floats, Reference) for part in layout.parts):
            raise FormatError("a mixture has three parts, which are floats, or those of another mixture")
        if prod(shape) == 0:
            raise FormatError("a mixture of no entries is none that is written")
        numbers = number_type(dtype)
        means = read_part(layout, 0, (size - 1,), numbers, take, "means")
        log_deviations = read_part(layout, 1, (size,), numbers, take, "log_deviations")
        logits = read_part(layout, 2, (size - 1,), numbers, take, "logits")
        return cls(shape, dtype, take("assigned", shape, size).to(torch.int32), means, log_deviations, logits, zero)


@dataclass(frozen=True)
class Mixture(Scheme):
    """One mixture of ``size`` Gaussians for all tensors; every entry goes to its most responsible component.

    ``a(i) = argmax_j log π_j + log N(w_i; μ_j, σ_j²)``. A cold projection starts the mixture: means evenly from
    ``−reach`` to ``reach``, the largest magnitude at most, deviations ``deviation`` times a step between two means,
    equal mixing but for the component at zero, which has the fixed share ``zero`` (whole millionths). The numbers learn
    together with the weights (``Learn.MUTUAL``) under :class:`featherweight.training.penalties.MixturePrior`; all codes
    of one projection hold the very same numbers, so that they learn as one mixture.

    At later targets of a schedule (:meth:`advance`), components that overlap become one: while the least
    ``KL(i‖j) + KL(j‖i)`` of any two is at most ``overlap``, the two are replaced by one with their mass, their mean and
    their variance as a whole; what merges with the component at zero stays at zero.

    Ullrich, Meeds and Welling (2017), arXiv 1702.04008, section 3, after Nowlan and Hinton (1992).
    """

    LARGEST: ClassVar[int] = 256
    promise: ClassVar[Promise] = Promise.RULE

    size: int = 17
    zero: float = 0.99
    reach: float | None = None
    deviation: float = 0.5
    overlap: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.size <= self.LARGEST:
            raise SchemeError(f"a mixture of {self.size} components is not in 2..{self.LARGEST}")
        if not 0 < round(self.zero * MILLION) < MILLION:
            raise SchemeError(f"a share of {self.zero} for the component at zero is not between 0 and 1")
        if self.deviation <= 0 or self.overlap < 0 or (self.reach is not None and self.reach <= 0):
            raise SchemeError("deviation and reach of a mixture are above 0, its overlap is 0 or more")

    def at(self, target: float) -> Self:
        """Itself: how far the prior pulls is the penalty's business."""
        return self

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> MixtureCode:
        check_weight(w)
        return _assigned(w, self._start([w]) if warm is None else _as_mixture(warm))

    def project_all(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], warm: Mapping[str, Code] | None = None
    ) -> dict[str, Code]:
        if warm is not None:
            return super().project_all(weights, metrics, warm)
        for name, w in weights.items():
            with naming(name):
                check_weight(w)
        start = self._start(list(weights.values()))
        return {name: _assigned(w, start) for name, w in weights.items()}

    def advance(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], before: Mapping[str, Code]
    ) -> dict[str, Code]:
        known = merged(_as_mixture(next(iter(before.values()))), self.overlap)
        return {name: _assigned(w, known) for name, w in weights.items()}

    def _start(self, weights: list[Tensor]) -> MixtureCode:
        wide = number_type(weights[0].dtype)
        largest = max(float(w.detach().abs().max()) for w in weights)
        reach = min(self.reach or largest, largest) or 1.0
        means = torch.linspace(-reach, reach, self.size - 1, dtype=wide, device=weights[0].device)
        step = 2 * reach / max(self.size - 2, 1)
        log_deviations = means.new_full((self.size,), self.deviation * step).log()
        return _numbers(means, log_deviations, torch.zeros_like(means), round(self.zero * MILLION))


def _numbers(means: Tensor, log_deviations: Tensor, logits: Tensor, zero: int) -> MixtureCode:
    """A mixture that no entry is assigned by yet."""
    centres, deviations, mixing = (
        Floats(tuple(t.shape), t.dtype, t, Width.of(t.dtype)) for t in (means, log_deviations, logits)
    )
    nobody = torch.zeros(0, dtype=torch.int32, device=means.device)
    return MixtureCode((0,), means.dtype, nobody, centres, deviations, mixing, zero)


def joint(w: Tensor, code: MixtureCode) -> Tensor:
    """``log π_j + log N(w_i; μ_j, σ_j²) + ½ log 2π`` for a vector of entries, [J + 1, n]."""
    centres, log_deviations = code.centres(), code.log_deviations.decode()
    z = (w.to(centres.dtype) - centres[:, None]) * (-log_deviations).exp()[:, None]
    return (code.log_mixing() - log_deviations)[:, None] - z.square() / 2


CHUNK = 1 << 13
"""Entries that are looked at together: their exponents stay in a cache, and memory is bounded."""


def _assigned(w: Tensor, known: MixtureCode) -> MixtureCode:
    """The code of ``w`` under the numbers of ``known``, which it shares."""
    chosen = [joint(part, known).argmax(0) for part in w.detach().flatten().split(CHUNK)]  # type: ignore[no-untyped-call]
    assigned = torch.cat(chosen).reshape(w.shape).to(torch.int32)
    return replace(known, shape=tuple(w.shape), dtype=w.dtype, assigned=assigned)


def merged(code: MixtureCode, overlap: float) -> MixtureCode:
    """The mixture with components made one until any two are ``overlap`` apart; it has two components at least."""
    masses = code.log_mixing().detach().double().exp().tolist()
    means = code.centres().detach().double().tolist()
    variances = (2 * code.log_deviations.decode().detach().double()).exp().tolist()
    while len(means) > 2:
        pairs = [(i, j) for j in range(len(means)) for i in range(j)]
        i, j = min(pairs, key=lambda pair: divergence(*((means[k], variances[k]) for k in pair)))
        if divergence((means[i], variances[i]), (means[j], variances[j])) > overlap:
            break
        mass = masses[i] + masses[j]
        mean = 0.0 if i == 0 else (masses[i] * means[i] + masses[j] * means[j]) / mass
        spread = [masses[k] * (variances[k] + (means[k] - mean) ** 2) for k in (i, j)]
        masses[i], means[i], variances[i] = mass, mean, sum(spread) / mass
        del masses[j], means[j], variances[j]
    if len(means) == code.size:
        return code
    numbers = code.means.decode()
    made = [numbers.new_tensor(values) for values in (means[1:], variances, masses[1:])]
    return _numbers(made[0], made[1].log() / 2, made[2].log(), code.zero)


def divergence(one: tuple[float, float], two: tuple[float, float]) -> float:
    """``KL(one‖two) + KL(two‖one)`` of Gaussians given as (mean, variance), in nats."""
    (m, v), (n, u) = one, two
    return ((v - u) ** 2 + (v + u) * (m - n) ** 2) / (2 * v * u)


def _as_mixture(code: Code) -> MixtureCode:
    if not isinstance(code, MixtureCode):
        raise SchemeError(f"a warm start of a mixture is a mixture, not {type(code).__name__}")
    return code
