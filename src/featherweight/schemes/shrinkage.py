"""Sparsity by the l1 norm: every entry comes nearer to zero by the same amount, and small ones reach it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError, naming
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight
from featherweight.schemes.floats import Float
from featherweight.schemes.sparse import SparseCode, as_sparse, never_empty


@dataclass(frozen=True)
class L1Penalty:
    """``min_v ½ ‖w − v‖² + price · ‖v‖₁``: ``v = sign(w) max(|w| − price, 0)``, soft thresholding."""

    price: float

    def __post_init__(self) -> None:
        if self.price < 0:
            raise SchemeError(f"a price of {self.price} for a weight's magnitude is below 0")


@dataclass(frozen=True)
class L1Ball:
    """``min_v ‖w − v‖²  s.t.  ‖v‖₁ ≤ radius``, over all tensors of a stage jointly: each learns its share."""

    radius: float

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise SchemeError(f"a ball of radius {self.radius} holds nothing; give a radius above 0")


@dataclass(frozen=True)
class Shrunk(Scheme):
    """Soft thresholding at a price, or at the level that brings the weights onto an l1 ball.

    Both minima are exact, in the Euclidean metric: the ball's threshold ``τ`` solves ``Σ max(|w_i| − τ, 0) = radius``,
    by sorting (Duchi, Shalev-Shwartz, Singer and Chandra 2008, figure 1), and is 0 where the weights lie in the ball.
    Compression steps of learning-compression pruning, with ``price = α/μ`` (Carreira-Perpiñán and Idelbayev 2018, CVPR,
    section 4). To the law suite it is a rule: what it minimises is not the distance to a set of codes of one size.
    Where all would be zero one entry stays in the support, of value zero. There are no symbols to choose again, so a
    warm projection is its start: the scheme is for weights that are pulled, not for latent ones.
    """

    amount: L1Penalty | L1Ball
    promise: ClassVar[Promise] = Promise.RULE

    def at(self, target: float) -> Self:
        match self.amount:
            case L1Penalty(price):
                return replace(self, amount=L1Penalty(target * price))
            case _:
                return super().at(target)

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> SparseCode:
        check_weight(w)
        if metric.weights(w) is not None:
            raise SchemeError("shrinkage is exact in the Euclidean metric only; take that metric for its stage")
        if warm is not None:
            return as_sparse(warm)
        return _shrunk(w, self._threshold(w.detach().abs().double().flatten()))

    def project_all(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], warm: Mapping[str, Code] | None = None
    ) -> dict[str, Code]:
        if isinstance(self.amount, L1Penalty) or warm is not None:
            return super().project_all(weights, metrics, warm)
        for name, w in weights.items():
            with naming(name):
                self.project(w, metrics[name])  # refuses what it cannot take
        together = torch.cat([w.detach().abs().double().flatten() for w in weights.values()])
        threshold = self._threshold(together)
        return {name: _shrunk(w, threshold) for name, w in weights.items()}

    def _threshold(self, magnitudes: Tensor) -> float:
        match self.amount:
            case L1Penalty(price):
                return price
            case L1Ball(radius):
                return ball_threshold(magnitudes, radius)


def ball_threshold(magnitudes: Tensor, radius: float) -> float:
    """The ``τ ≥ 0`` with ``Σ max(m − τ, 0) = radius``; 0 where the magnitudes' sum is no more than that."""
    descending = magnitudes.sort(descending=True).values
    sums = descending.cumsum(0)
    if float(sums[-1]) <= radius:
        return 0.0
    counts = torch.arange(1, len(sums) + 1, dtype=sums.dtype, device=sums.device)
    last = int((descending * counts > sums - radius).sum()) - 1  # true for the survivors, which come first
    return float((sums[last] - radius) / counts[last])


def _shrunk(w: Tensor, threshold: float) -> SparseCode:
    v = (w.detach().double().sign() * (w.detach().double().abs() - threshold).clamp(min=0)).to(w.dtype)
    support = never_empty(v != 0, v.abs())
    return SparseCode(tuple(w.shape), w.dtype, support, Float().project(v[support]))
