"""The column sweep: quantize column by column, and let the columns to come make up for the error."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError
from featherweight.core.metric import Full, Metric
from featherweight.core.scheme import Scheme
from featherweight.core.stage import Projector


class ColumnRule(Protocol):
    """Rounds one column [rows] of the flattened weight, ``column`` being its number; returns what it decodes to."""

    def __call__(self, values: Tensor, column: int) -> Tensor: ...


def sweep(w: Tensor, hessian: Tensor, rule: ColumnRule, damping: float = 0.01) -> Tensor:
    """Minimise ``tr (W − Q) H (W − Q)ᵀ`` over ``Q`` whose columns ``rule`` can write, greedily from the left.

    After column ``j`` is rounded, all later ones take ``w_k −= (w_j − q_j) U_jk / U_jj``, the exact minimiser for fixed
    earlier columns, with ``U`` the upper Cholesky factor of ``(H + damping · mean(diag H) · I)⁻¹`` (Frantar et al.
    2022, arXiv 2210.17323, algorithm 1; optimal brain surgeon, Hassibi and Stork 1993). Columns no input reached keep
    their values. ``w`` is [rows, columns], in float64; so is the result.
    """
    h = hessian.clone()
    dead = h.diagonal() == 0
    h.diagonal().add_(damping * h.diagonal().mean() + dead.to(h.dtype))
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    w, q = w.clone(), torch.empty_like(w)
    for j in range(w.shape[1]):
        q[:, j] = rule(w[:, j], j)
        error = (w[:, j] - q[:, j]) / upper[j, j]
        w[:, j + 1 :] -= error[:, None] * upper[j, j + 1 :]
    return q


@dataclass(frozen=True)
class ColumnSweep(Projector):
    """Project in the full metric: scales and centroids from the Euclidean projection, symbols from the sweep.

    The column rule is the scheme's own warm projection of one column, so any scheme whose warm projection chooses every
    symbol by itself can be swept: uniform and codebook. The result is never worse than rounding to nearest in the
    metric: where the greedy sweep is, the rounding is returned. Another metric than the full one raises
    ``SchemeError``, or is projected in by the scheme itself where the sweep is not ``required``.
    """

    damping: float = 0.01
    required: bool = True

    def project(self, scheme: Scheme, w: Tensor, metric: Metric) -> Code:
        if not isinstance(metric, Full) and not self.required:
            return scheme.project(w, metric)
        if not isinstance(metric, Full):
            raise SchemeError("a column sweep needs the full metric; measure it with InputMoment")
        start = scheme.project(w)
        levels = _levels(scheme, start, w)
        swept = sweep(w.flatten(1).double(), metric.hessian, levels, self.damping)
        code = scheme.project(swept.reshape(w.shape).to(w.dtype), warm=start)
        better = metric.distance(w, code.decode()) <= metric.distance(w, start.decode())
        return code if bool(better) else start


def _levels(scheme: Scheme, start: Code, w: Tensor) -> ColumnRule:
    """Round one column by the scheme's warm projection: of the column alone where the code allows it.

    Slow but general is to project the whole tensor with that column in place, and the start's own values elsewhere.
    """
    scratch = start.decode().flatten(1).clone()

    def alone(values: Tensor, column: int) -> Tensor:
        return scheme.project(values[:, None].to(w.dtype), warm=start).decode()[:, 0].double()

    def within(values: Tensor, column: int) -> Tensor:
        scratch[:, column] = values.to(scratch.dtype)
        return scheme.project(scratch.reshape(w.shape), warm=start).decode().flatten(1)[:, column].double()

    return alone if start.columnwise else within
