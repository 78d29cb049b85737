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
from featherweight.core.scheme import Promise, Scheme, check_weight, straight_through
from featherweight.schemes.amounts import (
    Amount,
    Deviations,
    Dropping,
    Fraction,
    Halves,
    L0Penalty,
    Magnitude,
    NToM,
    RowFraction,
    Surgery,
)
from featherweight.schemes.floats import Float

__all__ = [
    "Amount",
    "Deviations",
    "Dropping",
    "Fraction",
    "Gradient",
    "Halves",
    "L0Penalty",
    "Magnitude",
    "NToM",
    "RowFraction",
    "Scope",
    "Sparse",
    "SparseCode",
    "Surgery",
]


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


class Scope(Enum):
    """Over what a share is counted."""

    TENSOR = "tensor"
    GLOBAL = "global"  # one threshold for all selected tensors together


class Gradient(Enum):
    """What a *latent* weight under a mask receives."""

    MASKED = "masked"  # ∂L/∂w = support · ∂L/∂decoded: what is pruned stays pruned (Han et al. 2015)
    DENSE = "dense"  # ∂L/∂w = ∂L/∂decoded: weights may return (Guo, Yao and Chen 2016)
    RESTING = "resting"  # as masked, but what is pruned keeps its value, for its return (Jia et al. 2018)


@dataclass(frozen=True)
class Sparse(Scheme):
    """Keep the entries of largest importance, zero the others, and store the survivors by ``values``.

    ``argmin ‖w − v‖²_M`` over all ``v`` with the given number of non-zeros. In a Euclidean or diagonal metric ``d`` the
    minimum keeps the largest ``d w²``: exact where the survivors are kept exactly. With a threshold the survivors are
    those with ``√d |w|`` above it. Survivors that ``values`` rounds to zero leave the support; one entry always stays.
    """

    amount: Amount
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
        if self.amount.promise is Promise.RULE or (isinstance(self.values, Float) and self.values.width is None):
            return self.amount.promise
        stays = isinstance(self.amount, Fraction) or self.amount == Magnitude()
        return Promise.LOCAL if stays and self.values.promise is not Promise.RULE else Promise.RULE

    def then(self, values: Scheme) -> Self:
        """The same support, its survivors stored by another scheme."""
        return replace(self, values=values)

    def at(self, target: float) -> Self:
        return replace(self, amount=self.amount.at(target))

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> SparseCode:
        check_weight(w)
        if warm is not None:
            before = as_sparse(warm)
            values = self.values.project(w[before.support], metric.select(before.support), warm=before.values)
            return SparseCode(tuple(w.shape), w.dtype, before.support, values)
        return self._on(w, metric, self._support(metric.importance(w)), rate)

    def project_all(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], warm: Mapping[str, Code] | None = None
    ) -> dict[str, Code]:
        if warm is not None:
            return super().project_all(weights, metrics, warm)
        for name, w in weights.items():
            with naming(name):
                check_weight(w)
        return dict(self._on_all(weights, metrics, self._supports(weights, metrics)))

    def advance(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], before: Mapping[str, Code]
    ) -> dict[str, Code]:
        """By what the amount makes of the support in force; a global share forgets it."""
        if self.scope is Scope.GLOBAL:
            return self.project_all(weights, metrics)
        codes: dict[str, Code] = {}
        for name, w in weights.items():
            with naming(name):
                check_weight(w)
                importance = metrics[name].importance(w)
                support = self.amount.again(importance, as_sparse(before[name]).support)
                codes[name] = self._on(w, metrics[name], never_empty(support, importance), None)
        return codes

    def through(self, w: Tensor, code: Code) -> Tensor:
        support = as_sparse(code).support
        if isinstance(self.values, Float):
            seen = self.values.through(w * support, code)
            return straight_through(seen, w) if self.gradient is Gradient.DENSE else seen
        if self.gradient is Gradient.DENSE:
            return super().through(w, code)
        values = self.values.through(w[support], as_sparse(code).values)
        return values.new_zeros(w.shape).masked_scatter(support, values)

    def carried(self, w: Tensor, code: Code) -> Tensor:
        return w * as_sparse(code).support if self.gradient is Gradient.MASKED else w

    def _support(self, importance: Tensor) -> Tensor:
        return never_empty(self.amount.support(importance), importance)

    def _supports(self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
        """The support of every tensor, by one threshold or by each tensor's own."""
        scores = {name: metrics[name].importance(w) for name, w in weights.items()}
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


def never_empty(support: Tensor, importance: Tensor) -> Tensor:
    """At least the most important entry stays: a code of nothing would have no numbers to learn."""
    if bool(support.any()):
        return support
    first = torch.zeros_like(support).flatten()
    first[importance.flatten().argmax()] = True
    return first.reshape(support.shape)


def as_sparse(code: Code) -> SparseCode:
    if not isinstance(code, SparseCode):
        raise SchemeError(f"a warm start of a sparse scheme is a sparse code, not {type(code).__name__}")
    return code
