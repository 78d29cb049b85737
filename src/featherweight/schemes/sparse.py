"""Unstructured sparsity: which entries stay, and how the survivors are stored."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, direct, fixed, part_streams, read_part
from featherweight.core.errors import FormatError, SchemeError, naming
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight
from featherweight.schemes.floats import Float


@dataclass(frozen=True, eq=False)
class SparseCode(Code):
    """``decode()`` is zero outside ``support`` and holds ``values.decode()`` on it, in row-major order."""

    support: Tensor = fixed()  # bool, of the code's shape
    values: Code = direct()  # of shape [survivors]

    def decode(self) -> Tensor:
        values = self.values.decode()
        return values.new_zeros(self.shape).masked_scatter(self.support, values)

    def settings(self) -> tuple[int, ...]:
        return ()

    def streams(self) -> Iterator[Stream]:
        yield Stream("support", self.support.to(torch.uint8), 2)
        yield from part_streams("values", self.values)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "SparseCode":
        if layout.settings or len(layout.parts) != 1:
            raise FormatError("a sparse code has one part and no settings")
        support = take("support", shape, 2).bool()
        return cls(shape, dtype, support, read_part(layout, 0, (int(support.sum()),), dtype, take, "values"))


@dataclass(frozen=True)
class Fraction:
    """A share of the entries is zero: ``round(share · n)`` of them, the least important."""

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise SchemeError(f"a sparsity of {self.share} is not in [0, 1); 0.9 zeroes nine entries in ten")


@dataclass(frozen=True)
class Magnitude:
    """Entries of importance ``|w|`` at or below ``threshold`` are zero; 0 keeps exactly the non-zero entries."""

    threshold: float = 0.0


@dataclass(frozen=True)
class Deviations:
    """Entries at or below ``quality`` times the layer's deviation about zero are zero (Han et al. 2015, section 3).

    The deviation is the root mean square, which pruning cannot raise: pruning again by the same rule changes nothing.
    """

    quality: float


@dataclass(frozen=True)
class L0Penalty:
    """``min_v ½ ‖w − v‖² + price · ‖v‖₀``: entries of importance ``|w|`` at or below ``√(2 · price)`` are zero.

    Hard thresholding: the compression step of learning-compression with an l0 penalty, where ``price = α/μ``
    (Carreira-Perpiñán and Idelbayev 2018, CVPR, section 4).
    """

    price: float

    def __post_init__(self) -> None:
        if self.price < 0:
            raise SchemeError(f"a price of {self.price} for an entry is below 0")


class Scope(Enum):
    """Over what a share is counted."""

    TENSOR = "tensor"
    GLOBAL = "global"  # one threshold for all selected tensors together


class Gradient(Enum):
    """What a *latent* weight under a mask receives."""

    MASKED = "masked"  # ∂L/∂w = support · ∂L/∂decoded: what is pruned stays pruned (Han et al. 2015)
    DENSE = "dense"  # ∂L/∂w = ∂L/∂decoded: weights may return (Guo, Yao and Chen 2016)


@dataclass(frozen=True)
class Sparse(Scheme):
    """Keep the entries of largest importance, zero the others, and store the survivors by ``values``.

    ``argmin ‖w − v‖²_M`` over all ``v`` with the given number of non-zeros. In a Euclidean or diagonal metric ``d`` the
    minimum keeps the largest ``d w²``: exact where the survivors are kept exactly. With a threshold the survivors are
    those with ``√d |w|`` above it. Survivors that ``values`` rounds to zero leave the support; one entry always stays.
    """

    amount: Fraction | Magnitude | Deviations | L0Penalty
    values: Scheme = Float()
    scope: Scope = Scope.TENSOR
    gradient: Gradient = Gradient.MASKED

    def __post_init__(self) -> None:
        if self.scope is Scope.GLOBAL and not isinstance(self.amount, Fraction):
            raise SchemeError("a global scope needs a Fraction: a threshold is the same for every tensor as it is")

    @property
    def promise(self) -> Promise:  # type: ignore[override]
        """Exact where survivors are kept as they are. Else on the exact support, its values as good as their scheme's;
        a rule where those values can fall below a threshold.
        """
        if isinstance(self.values, Float) and self.values.width is None:
            return Promise.EXACT
        stays = isinstance(self.amount, Fraction) or self.amount == Magnitude()
        return Promise.LOCAL if stays and self.values.promise is not Promise.RULE else Promise.RULE

    def then(self, values: Scheme) -> Self:
        """The same support, its survivors stored by another scheme."""
        return replace(self, values=values)

    def at(self, target: float) -> Self:
        match self.amount:
            case Fraction(share):
                return replace(self, amount=Fraction(target * share))
            case Magnitude(threshold):
                return replace(self, amount=Magnitude(target * threshold))
            case Deviations(quality):
                return replace(self, amount=Deviations(target * quality))
            case L0Penalty(price):
                return replace(self, amount=L0Penalty(target * price))

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> SparseCode:
        check_weight(w)
        if warm is not None:
            before = as_sparse(warm)
            values = self.values.project(w[before.support], metric.select(before.support), warm=before.values)
            return SparseCode(tuple(w.shape), w.dtype, before.support, values)
        return self._on(w, metric, self._support(importance(w, metric)), rate)

    def project_all(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], warm: Mapping[str, Code] | None = None
    ) -> dict[str, Code]:
        if warm is not None:
            return super().project_all(weights, metrics, warm)
        for name, w in weights.items():
            with naming(name):
                check_weight(w)
        return dict(self._on_all(weights, metrics, self._supports(weights, metrics)))

    def through(self, w: Tensor, code: Code) -> Tensor:
        support = as_sparse(code).support
        if self.gradient is Gradient.DENSE:
            return super().through(w, code)
        if isinstance(self.values, Float):
            return self.values.through(w * support, code)
        values = self.values.through(w[support], as_sparse(code).values)
        return values.new_zeros(w.shape).masked_scatter(support, values)

    def carried(self, w: Tensor, code: Code) -> Tensor:
        return w * as_sparse(code).support if self.gradient is Gradient.MASKED else w

    def _support(self, score: Tensor) -> Tensor:
        match self.amount:
            case Fraction(share):
                kept = score.numel() - round(share * score.numel())
                order = score.flatten().argsort(descending=True, stable=True)
                support = torch.zeros_like(score, dtype=torch.bool).flatten()
                support[order[:kept]] = True
                support = support.reshape(score.shape) & (score > 0)
            case Magnitude(threshold):
                support = score > threshold
            case L0Penalty(price):
                support = score > (2 * price) ** 0.5
            case Deviations(quality):
                support = score > quality * score.double().square().mean().sqrt().to(score.dtype)
        return never_empty(support, score)

    def _supports(self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
        """The support of every tensor, by one threshold or by each tensor's own."""
        scores = {name: importance(w, metrics[name]) for name, w in weights.items()}
        if self.scope is Scope.TENSOR:
            return {name: self._support(score) for name, score in scores.items()}
        together = self._support(torch.cat([score.flatten() for score in scores.values()]))
        split = together.split([w.numel() for w in weights.values()])  # type: ignore[no-untyped-call]
        pairs = zip(weights.items(), split, strict=True)
        return {name: never_empty(support.reshape(w.shape), w.abs()) for (name, w), support in pairs}

    def _on_all(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], supports: Mapping[str, Tensor]
    ) -> dict[str, SparseCode]:
        """Codes on given supports, less what ``values`` rounds to zero; all survivors are projected together."""
        survivors = {name: w[supports[name]] for name, w in weights.items()}
        values = self.values.project_all(survivors, {name: metrics[name].select(s) for name, s in supports.items()})
        codes = {name: SparseCode(tuple(w.shape), w.dtype, supports[name], values[name]) for name, w in weights.items()}
        alive = {name: _alive(code, weights[name]) for name, code in codes.items()}
        if all(bool((alive[name] == supports[name]).all()) for name in codes):
            return codes
        return self._on_all(weights, metrics, alive)

    def _on(self, w: Tensor, metric: Metric, support: Tensor, rate: Rate | None) -> SparseCode:
        """The same for one tensor."""
        values = self.values.project(w[support], metric.select(support), rate=rate)
        code = SparseCode(tuple(w.shape), w.dtype, support, values)
        alive = _alive(code, w)
        return code if bool((alive == support).all()) else self._on(w, metric, alive, rate)


def _alive(code: SparseCode, w: Tensor) -> Tensor:
    """The support, less what decodes to zero."""
    return never_empty(code.support & (code.decode() != 0), w.abs())


def never_empty(support: Tensor, score: Tensor) -> Tensor:
    """At least the most important entry stays: a code of nothing would have no numbers to learn."""
    if bool(support.any()):
        return support
    first = torch.zeros_like(support).flatten()
    first[score.flatten().argmax()] = True
    return first.reshape(support.shape)


def importance(w: Tensor, metric: Metric) -> Tensor:
    """``√d |w|``: the root of the error that zeroing an entry makes."""
    weights = metric.weights(w)
    return w.abs() if weights is None else weights.double().sqrt() * w.double().abs()


def as_sparse(code: Code) -> SparseCode:
    if not isinstance(code, SparseCode):
        raise SchemeError(f"a warm start of a sparse scheme is a sparse code, not {type(code).__name__}")
    return code
