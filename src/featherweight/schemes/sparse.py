"""Sparsity: which entries stay, and how the survivors are stored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError, naming
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
    PermutedNToM,
    RowFraction,
    Surgery,
)
from featherweight.schemes.floats import Float
from featherweight.schemes.runs import Runs
from featherweight.schemes.supports import RunSupport, SparseCode, Support, never_empty

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
    "PermutedNToM",
    "RowFraction",
    "Scope",
    "Sparse",
    "SparseCode",
    "Surgery",
    "never_empty",
]


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
            return before.form(before.support).code(w.dtype, values)
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
                support = self._again(metrics[name].importance(w), as_sparse(before[name]))
                codes[name] = self._on(w, metrics[name], support, None)
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

    def ahead(self, importance: Tensor) -> Tensor:
        """The support of the next columns of a matrix, as a sweep reaches them; it may be none."""
        return self.amount.support(importance)

    def columns(self, most: int) -> int:
        """How many columns of a matrix a sweep decides on together, of the ``most`` that it can."""
        run = self.amount.run or most
        if run > most:
            raise SchemeError(f"{self.amount} decides on {run} columns at once, and the sweep on {most} at most")
        return run

    def _scores(self, importance: Tensor) -> Tensor:
        """What the amount decides on."""
        return importance

    def _formed(self, chosen: Tensor, importance: Tensor) -> Support:
        """The support of what the amount chose; something always stays."""
        return Support(never_empty(chosen, importance))

    def _support(self, importance: Tensor) -> Support:
        runs = self.amount.runs(importance)
        if runs is None:
            return self._formed(self.amount.support(self._scores(importance)), importance)
        return _in_runs(runs, importance)

    def _again(self, importance: Tensor, before: SparseCode) -> Support:
        runs = self.amount.runs(importance)
        if runs is None:
            return self._formed(self.amount.again(importance, before.support), importance)
        return _in_runs(runs, importance)

    def _supports(self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric]) -> dict[str, Support]:
        """The support of every tensor, by one threshold or by each tensor's own."""
        importances = {name: metrics[name].importance(w) for name, w in weights.items()}
        if self.scope is Scope.TENSOR:
            return {name: self._support(importance) for name, importance in importances.items()}
        scores = {name: self._scores(importance) for name, importance in importances.items()}
        together = torch.cat([score.flatten() for score in scores.values()])
        chosen = never_empty(self.amount.support(together), together)
        split = chosen.split([score.numel() for score in scores.values()])  # type: ignore[no-untyped-call]
        parts = zip(scores.items(), split, strict=True)
        return {name: self._formed(part.reshape(score.shape), weights[name].abs()) for (name, score), part in parts}

    def _on_all(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], supports: Mapping[str, Support]
    ) -> dict[str, SparseCode]:
        """Codes on given supports, less what ``values`` rounds to zero; all survivors are projected together."""
        survivors = {name: w[supports[name].entries] for name, w in weights.items()}
        selected = {name: metrics[name].select(support.entries) for name, support in supports.items()}
        values = self.values.project_all(survivors, selected)
        codes = {name: supports[name].code(w.dtype, values[name]) for name, w in weights.items()}
        alive = {name: _alive(supports[name], codes[name], w, metrics[name]) for name, w in weights.items()}
        if all(torch.equal(alive[name].entries, supports[name].entries) for name in codes):
            return codes
        return self._on_all(weights, metrics, alive)

    def _on(self, w: Tensor, metric: Metric, support: Support, rate: Rate | None) -> SparseCode:
        """The same for one tensor."""
        values = self.values.project(w[support.entries], metric.select(support.entries), rate=rate)
        code = support.code(w.dtype, values)
        alive = _alive(support, code, w, metric)
        return code if torch.equal(alive.entries, support.entries) else self._on(w, metric, alive, rate)


def _in_runs(runs: Runs, importance: Tensor) -> Support:
    return RunSupport(never_empty(runs.support(importance), importance), runs)


def _alive(support: Support, code: SparseCode, w: Tensor, metric: Metric) -> Support:
    """The support, less what decodes to zero, or to what the metric does not see."""
    alive, weights = code.decode() != 0, metric.weights(w)
    return support.less(alive if weights is None else alive & (weights != 0), w.abs())


def as_sparse(code: Code) -> SparseCode:
    if not isinstance(code, SparseCode):
        raise SchemeError(f"a warm start of a sparse scheme is a sparse code, not {type(code).__name__}")
    return code
