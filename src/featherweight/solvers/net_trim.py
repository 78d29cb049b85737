"""Net-Trim: the sparsest weight, in the l1 norm, with which a rectified layer still answers what it did."""

from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError
from featherweight.core.metric import Metric
from featherweight.core.scheme import Scheme
from featherweight.core.stage import Projector
from featherweight.metrics.responses import Responses

MARGIN = 0.98
"""The programme is solved for this much of the tolerance: iterations end near its boundary, on either side."""


@dataclass(frozen=True)
class NetTrim(Projector):
    """``min ‖U‖₁`` subject to ``‖(X Uᵀ + b − Y)_Ω‖_F ≤ ε`` and ``(X Uᵀ + b)_Ωᶜ ≤ V``: a convex programme.

    Aghasi, Abdi, Nguyen and Romberg 2017 (arXiv 1611.05162, equations 4 to 8). ``Y`` are the layer's outputs before the
    rectifier in the original model, with its bias ``b``; ``Ω`` are those that the rectifier lets through, ``Y > 0``.
    ``ε`` is ``tolerance`` times ``‖Y_Ω‖_F``. Where the inputs are the original's, ``V`` is 0 (parallel form); where
    they come from layers that were pruned before, ``V`` is what of ``(X Wᵀ + b)_Ωᶜ`` is above 0, and ``ε`` is at least
    ``slack`` times ``‖(X Wᵀ + b − Y)_Ω‖_F``, so that the weight itself is allowed (cascade form, section 3.2). Without
    ``rectified``, for a last layer, all outputs are in ``Ω``.

    Solved by the alternating direction method of multipliers: sparse ``U`` and outputs that satisfy the constraints are
    pulled together through one least-squares weight. Every weight that it passes through is checked, and the one of
    fewest non-zero entries is taken that keeps **the guarantee**: ``‖max(X Uᵀ + b, 0) − max(Y, 0)‖_F ≤ ε + ‖V‖_F``, of
    which the bound on the whole network's error is made (theorem 1). Where none does, the weight stays. The scheme is
    then given ``U``: ``Sparse(Magnitude())`` stores exactly what is not zero.
    """

    tolerance: float = 0.05
    rectified: bool = True
    slack: float = 1.1
    iterations: int = 300

    def __post_init__(self) -> None:
        if self.tolerance <= 0 or self.slack < 1 or self.iterations < 1:
            raise SchemeError(f"{self}: give a tolerance above 0, a slack of 1 or more, and 1 iteration or more")

    def project(self, scheme: Scheme, w: Tensor, metric: Metric) -> Code:
        if not isinstance(metric, Responses):
            raise SchemeError("Net-Trim needs responses of the layer; measure them with LayerResponses")
        flat = w.detach().flatten(1).double()
        limits = Limits.of(flat, metric, self.tolerance, self.slack, self.rectified)
        u = trimmed(flat, metric.inputs.double(), limits, self.iterations)
        return scheme.project(u.reshape(w.shape).to(w.dtype))


@dataclass(frozen=True, eq=False)
class Limits:
    """Outputs [n, rows] that a weight may give: ``(Z − target)_active`` within ``epsilon``, others at most ``above``.

    All are without the bias.
    """

    target: Tensor
    active: Tensor
    above: Tensor
    epsilon: float
    bias: Tensor
    rectified: bool

    @classmethod
    def of(cls, w: Tensor, metric: Responses, tolerance: float, slack: float, rectified: bool) -> "Limits":
        target, bias = metric.outputs.double(), metric.bias.double()
        active = target + bias > 0 if rectified else torch.ones_like(target, dtype=torch.bool)
        own = metric.inputs.double() @ w.T
        epsilon = tolerance * float((target + bias)[active].norm())
        epsilon = max(epsilon, slack * float((own - target)[active].norm()))
        above = torch.where(active, torch.inf, own.clamp(min=-bias))  # 0 with the bias, or what there was above it
        return cls(target, active, above, epsilon, bias, rectified)

    @property
    def guaranteed(self) -> float:
        """``ε + ‖V‖_F``."""
        return self.epsilon + float((self.above + self.bias)[~self.active].norm())

    def nearest(self, z: Tensor, epsilon: float) -> Tensor:
        """The projection of outputs onto what is allowed: a ball for those that are active, a bound for the others."""
        residual = torch.where(self.active, z - self.target, 0.0)
        shrunk = residual * min(1.0, epsilon / max(float(residual.norm()), 1e-300))
        return torch.where(self.active, self.target + shrunk, torch.minimum(z, self.above))

    def error(self, z: Tensor) -> float:
        """``‖max(Z + b, 0) − max(Y, 0)‖_F``, without the maximum where the layer is not rectified."""
        ours, theirs = z + self.bias, self.target + self.bias
        if self.rectified:
            ours, theirs = ours.clamp(min=0), theirs.clamp(min=0)
        return float((ours - theirs).norm())


def trimmed(w: Tensor, x: Tensor, limits: Limits, iterations: int) -> Tensor:
    """The sparsest weight [rows, columns] that the iteration passes through and ``limits`` allow; else ``w``.

    With multipliers ``P`` and ``Q``, scaled: ``Z ← nearest(X Cᵀ − P)``, ``U ← shrink(C − Q, 1/ρ)``,
    ``C ← argmin ‖X Cᵀ − Z − P‖² + γ ‖C − U − Q‖²``, ``P ← P + Z − X Cᵀ``, ``Q ← Q + U − C``: one factorization of
    ``Xᵀ X + γ I`` for all iterations. ``γ`` is the mean of the diagonal of ``Xᵀ X``, so that both pulls are alike, and
    ``1/ρ`` a thirtieth of the mean magnitude of the weight's entries.
    """
    gram = x.T @ x
    gamma = float(gram.diagonal().mean()) or 1.0
    gram.diagonal().add_(gamma)
    factor = torch.linalg.cholesky(gram)
    step = float(w.abs().mean()) / 30
    c, q = w.clone(), torch.zeros_like(w)
    p = torch.zeros_like(limits.target)
    best, least = w, _size(w)
    for _ in range(iterations):
        outputs = x @ c.T
        z = limits.nearest(outputs - p, MARGIN * limits.epsilon)
        shifted = c - q
        u = shifted.sign() * (shifted.abs() - step).clamp(min=0)
        if (size := _size(u)) < least and limits.error(x @ u.T) <= limits.guaranteed:
            best, least = u, size
        c = torch.cholesky_solve((x.T @ (z + p) + gamma * (u + q).T), factor).T
        p += z - x @ c.T
        q += u - c
    return best


def _size(u: Tensor) -> tuple[int, float]:
    """What is least: entries, then the norm."""
    return int((u != 0).sum()), float(u.abs().sum())
