"""Optimal brain surgeon: delete one weight after the other, and let all others make up for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Full, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight
from featherweight.metrics.inverse import JointInverse
from featherweight.schemes.floats import Float
from featherweight.schemes.sparse import Fraction, Scope, Sparse, SparseCode, as_sparse

LAZY = 64
"""Deletions after which the inverse itself is brought up to date."""


def operate(w: Tensor, inverse: Tensor, deletions: int) -> tuple[Tensor, Tensor]:
    """Delete ``deletions`` of the weights ``w`` [n], in float64; what they are then, and which stay.

    Each time the ``q`` of least ``L_q = w_q² / (2 [H⁻¹]_qq)`` goes, and ``δw = −w_q / [H⁻¹]_qq · H⁻¹ e_q`` moves all
    others: the minimum of ``½ δwᵀ H δw`` with ``w_q + δw_q = 0`` (Hassibi and Stork 1993, equation 5). The inverse over
    the weights that are left is ``H⁻¹ − H⁻¹ e_q e_qᵀ H⁻¹ / [H⁻¹]_qq``, so that for a quadratic error every set that is
    left has its least error. Weights that are zero go first, and move nothing.
    """
    w, inverse = w.clone(), inverse.clone()
    kept = torch.ones_like(w, dtype=torch.bool)
    diagonal = inverse.diagonal().clone()
    recent = w.new_zeros(len(w), LAZY)  # columns u with H⁻¹ = inverse − Σ u uᵀ
    for done in range(deletions):
        pending = done % LAZY
        if done and pending == 0:
            inverse -= recent @ recent.T
        cost = torch.where(kept, w.square() / diagonal, torch.inf)
        q = int(cost.argmin())
        pivot = diagonal[q].clone()
        column = inverse[:, q] - recent[:, :pending] @ recent[q, :pending]
        column = torch.where(kept, column, 0.0)
        w -= w[q] / pivot * column
        recent[:, pending] = column / pivot.sqrt()
        diagonal = (diagonal - recent[:, pending].square()).clamp(min=torch.finfo(w.dtype).tiny)
        kept[q] = False
        w[q] = 0.0
    return torch.where(kept, w, 0.0), kept


@dataclass(frozen=True)
class Surgeon(Scheme):
    """``share`` of the entries of all tensors together is zero, deleted one by one by :func:`operate`.

    It works on all tensors of a stage at once, in the metric of :class:`featherweight.metrics.inverse.InverseHessian`,
    and moves the weights that stay: the best change for each deletion, while the order of deletions is greedy. In a
    Euclidean or diagonal metric nothing moves, and it is exactly ``Sparse(Fraction(share), scope=Scope.GLOBAL)``.
    """

    promise: ClassVar[Promise] = Promise.EXACT

    share: float

    def __post_init__(self) -> None:
        Fraction(self.share)

    @property
    def plain(self) -> Sparse:
        return Sparse(Fraction(self.share), scope=Scope.GLOBAL)

    def at(self, target: float) -> Self:
        return replace(self, share=target * self.share)

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> SparseCode:
        if warm is not None:
            return self.plain.project(w, warm=warm)
        return as_sparse(self.project_all({"w": w}, {"w": metric})["w"])

    def through(self, w: Tensor, code: Code) -> Tensor:
        return self.plain.through(w, code)

    def carried(self, w: Tensor, code: Code) -> Tensor:
        return self.plain.carried(w, code)

    def project_all(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], warm: Mapping[str, Code] | None = None
    ) -> dict[str, Code]:
        joint = {name: metric for name, metric in metrics.items() if isinstance(metric, JointInverse)}
        if warm is not None or not joint:
            if any(isinstance(metric, Full) for metric in metrics.values()):
                raise SchemeError("the surgeon needs the inverse of a whole Hessian; measure it with InverseHessian")
            return self.plain.project_all(weights, metrics, warm)
        inverse = next(iter(joint.values())).inverse
        if len(joint) < len(weights) or any(metric.inverse is not inverse for metric in joint.values()):
            raise SchemeError("the surgeon's tensors need one inverse Hessian; select them in one stage")
        ordered = sorted(weights, key=lambda name: joint[name].first)
        for w in weights.values():
            check_weight(w)
        alive = torch.cat([weights[name][joint[name].alive] for name in ordered]).double()
        if len(alive) != len(inverse):
            raise SchemeError(f"{len(alive)} weights, and an inverse Hessian of {len(inverse)}; give all it is of")
        entries = sum(w.numel() for w in weights.values())
        deletions = round(self.share * entries) - (entries - len(alive))
        left, kept = operate(alive, inverse, min(max(deletions, 0), len(alive) - 1))
        codes: dict[str, Code] = {}
        for name in ordered:
            w, mask, at = weights[name], joint[name].alive, joint[name].first
            part = slice(at, at + int(mask.sum()))
            dense = torch.zeros_like(w).masked_scatter(mask, left[part].to(w.dtype))
            support = torch.zeros_like(mask).masked_scatter(mask, kept[part])
            codes[name] = self._code(dense, support)
        return {name: codes[name] for name in weights}

    def _code(self, w: Tensor, support: Tensor) -> SparseCode:
        """One entry stays in every tensor, be it zero: a code of nothing would have no numbers to learn."""
        if not bool(support.any()):
            support = torch.zeros_like(support).flatten().index_fill(0, torch.tensor([0], device=w.device), True)
            support = support.reshape(w.shape)
        return SparseCode(tuple(w.shape), w.dtype, support, Float().project(w[support]))
