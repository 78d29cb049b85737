"""Pruning by what a layer gives out: more than enough goes by magnitude, and what is missed most comes back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.scheme import Scheme
from featherweight.core.stage import Projector
from featherweight.metrics.responses import Responses
from featherweight.schemes.sparse import Sparse
from featherweight.solvers.channels import damped


@dataclass(frozen=True)
class Restoration(Projector):
    """``min_V ‖Y − X Vᵀ‖`` over the weights ``V`` of as many entries in every row as the scheme's own projection has.

    Yang, Chen and Sze 2017 (arXiv 1611.05128, section 4): of each row's entries

    1. the largest stay, fewer than may by a share ``restored``;
    2. in ``rounds``, those of the others come back that lower the row's output error ``‖y − X vᵀ‖₁`` most as they are,
       given all that stay by then: what of two correlated inputs does is seen with the other in place;
    3. the values of all that stay are those of least ``‖y − X vᵀ‖²``, in closed form, drawn towards their own by
       ``damping`` times the mean of the diagonal of ``Xᵀ X``.

    ``X`` and ``Y`` are :class:`Responses`; the scheme is a :class:`Sparse` one, whose values store the survivors.
    """

    restored: float = 0.3
    rounds: int = 5
    damping: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.restored <= 1 or self.rounds < 1 or self.damping <= 0:
            raise SchemeError(f"{self}: give a share of 0 to 1, 1 round or more, and a damping above 0")

    @torch.no_grad()
    def project(self, scheme: Scheme, w: Tensor, metric: Metric) -> Code:
        if not isinstance(metric, Responses) or not isinstance(scheme, Sparse):
            raise SchemeError("restoration needs a sparse scheme, and responses of the layer: LayerResponses")
        start = scheme.project(w, EUCLIDEAN)
        counts = start.support.flatten(1).sum(1)
        support = self.support(w.flatten(1), metric, counts)
        fitted = fit(w.flatten(1), support, metric, self.damping).reshape(w.shape).to(w.dtype)
        form = start.form(support.reshape(w.shape))
        return form.code(w.dtype, scheme.values.project(fitted[form.entries]))

    def support(self, w: Tensor, metric: Responses, counts: Tensor) -> Tensor:
        """Which entries of ``w`` [rows, columns] stay, ``counts`` [rows] of each row."""
        x, y = metric.inputs.to(w), metric.outputs.to(w)
        back = (self.restored * counts).round().long()
        rank = w.abs().argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        support = rank < (counts - back)[:, None]
        for number in range(self.rounds):
            each = (back * (number + 1)) // self.rounds - (back * number) // self.rounds
            residual = y - x @ (w * support).T
            for row in each.nonzero().flatten().tolist():
                errors = _errors(x, residual[:, row], w[row]).masked_fill(support[row], torch.inf)
                support[row, errors.topk(int(each[row]), largest=False).indices] = True
        return support


def _errors(x: Tensor, residual: Tensor, w: Tensor) -> Tensor:
    """``‖r − w_j x_j‖₁`` of every column, [columns]."""
    return (residual[:, None] - x * w).abs().sum(0)


def fit(w: Tensor, support: Tensor, metric: Responses, damping: float) -> Tensor:
    """``argmin_V ‖Y − X Vᵀ‖² / n + λ ‖V − w‖²`` over ``V`` [rows, columns] on ``support``, in float64."""
    h = damped(metric.hessian, damping)
    w = torch.where(support, w.double(), 0.0)
    x, y = metric.inputs.double(), metric.outputs.double()
    pull = (y - x @ w.T).T @ x / len(x)
    for row, kept in enumerate(support):
        at = kept.nonzero().flatten()
        w[row, at] += torch.linalg.solve(h[at[:, None], at], pull[row, at])
    return w
