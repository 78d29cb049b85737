"""The column sweep: quantize column by column, and let the columns to come make up for the error."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from featherweight.core.code import Code, Stream
from featherweight.core.errors import SchemeError
from featherweight.core.metric import DAMPING, EUCLIDEAN, Diagonal, Full, Metric, inverse_factor
from featherweight.core.rate import Rate, bits_of
from featherweight.core.scheme import Scheme
from featherweight.core.stage import Projector
from featherweight.schemes.sparse import Sparse, SparseCode
from featherweight.schemes.supports import RunSparseCode

LAZY = 128
"""Columns between two updates of all columns to come; within them only these are kept up to date."""


class ColumnRule(Protocol):
    """Writes one column at a time of a weight that is flattened to [rows, columns]."""

    @property
    def run(self) -> int:
        """How many columns it looks ahead, at most :data:`LAZY`."""

    def look_ahead(self, values: Tensor, first: int, costs: Tensor) -> None:
        """Told of the next ``run`` columns before the first of them is written.

        ``values`` as they stand then, and what squared errors in them cost, [rows, run]; fewer columns at the end.
        """

    def __call__(self, values: Tensor, column: int, costs: Tensor) -> Tensor:
        """What ``values`` [rows] decode to, where a squared error in each row costs ``costs`` [rows]."""


@torch.no_grad()
def sweep(w: Tensor, hessian: Tensor, rule: ColumnRule, rows: Tensor | None = None, damping: float = DAMPING) -> Tensor:
    """Minimise ``Σ_r g_r (w_r − q_r) H (w_r − q_r)ᵀ`` over ``Q`` whose columns ``rule`` can write, from left to right.

    After column ``j`` is written, all later ones take ``w_k −= (w_j − q_j) U_jk / U_jj``, the exact minimiser for fixed
    earlier columns, with ``U`` of :func:`featherweight.core.metric.inverse_factor` (Frantar et al. 2022, arXiv
    2210.17323, algorithm 1, with its lazy blocks; optimal brain surgeon, Hassibi and Stork 1993). The whole sum is then
    ``Σ_j Σ_r g_r (w_rj − q_rj)² / U_jj²``, with ``w_rj`` as it stands when its column is written: these are the costs
    that the rule is told, so that whatever it trades against errors it trades rightly. ``w`` is [groups, rows, columns]
    in float64, ``hessian`` [groups, columns, columns], ``rows`` [groups · rows]; the result is like ``w``.
    """
    upper = inverse_factor(hessian, damping)
    groups, height, width = w.shape
    w, q = w.clone(), torch.empty_like(w)
    g = torch.ones(groups * height, dtype=w.dtype, device=w.device) if rows is None else rows.to(w)
    price = upper.diagonal(dim1=-2, dim2=-1).square().reciprocal().repeat_interleave(height, 0) * g[:, None]
    lazy = max(LAZY // rule.run, 1) * rule.run
    for first in range(0, width, lazy):
        last = min(first + lazy, width)
        errors = torch.empty_like(w[:, :, first:last])
        for j in range(first, last):
            if (j - first) % rule.run == 0:
                ahead = slice(j, min(j + rule.run, last))
                rule.look_ahead(w[:, :, ahead].flatten(0, 1), j, price[:, ahead])
            q[:, :, j] = rule(w[:, :, j].flatten(), j, price[:, j]).reshape(groups, height)
            error = (w[:, :, j] - q[:, :, j]) / upper[:, None, j, j]
            errors[:, :, j - first] = error
            w[:, :, j + 1 : last] -= error[:, :, None] * upper[:, None, j, j + 1 : last]
        w[:, :, last:] -= errors @ upper[:, first:last, last:]
    return q


@dataclass(frozen=True)
class ColumnSweep(Projector):
    """Project in the full metric: scales and centroids from the scheme's own projection, symbols from the sweep.

    The column rule is the scheme's own warm projection of one column, so any scheme whose warm projection chooses every
    symbol by itself can be swept: uniform, ternary, powers of two, codebooks. Of a :class:`Sparse` scheme the support
    is chosen too, as the sweep reaches them ``LAZY`` columns by ``LAZY`` columns, or run by run of an amount that has
    runs, by ``w²/U_jj²`` (Frantar and Alistarh 2023, arXiv 2301.00774, sections 3.2 and 3.3), and its survivors are
    written by their own scheme: pruning and quantizing in one sweep.

    With ``price`` λ, symbols minimise ``g (w − q)² / U_jj² + λ bits``, by the bits of the symbols that the sweep before
    ended with, ``rounds`` times. The result is never worse than rounding to nearest in the metric (with λ: than the
    sweep without): where it is, that is returned. Another metric than the full one raises ``SchemeError``, or is
    projected in by the scheme itself where the sweep is not ``required``.
    """

    damping: float = DAMPING
    required: bool = True
    price: float = 0.0
    rounds: int = 2

    def project(self, scheme: Scheme, w: Tensor, metric: Metric) -> Code:
        if not isinstance(metric, Full) and not self.required:
            return scheme.project(w, metric)
        if not isinstance(metric, Full):
            raise SchemeError("a column sweep needs the full metric; measure it with InputMoment or Kronecker")
        start = scheme.project(w, metric if scheme.scaled_by_metric else EUCLIDEAN)
        if not self.price and not isinstance(scheme, Sparse) and _diagonal(metric.hessian):
            return start  # no column can make up for another
        code = self._swept(scheme, w, metric, start, None)
        if not bool(metric.distance(w, code.decode()) <= metric.distance(w, start.decode())):
            return start
        for _ in range(self.rounds if self.price else 0):
            symbols = _symbols(code)
            bits = bits_of(symbols.values, symbols.alphabet)
            tried = self._swept(scheme, w, metric, start, Rate(self.price, bits))
            if self._cost(tried, w, metric, bits) >= self._cost(code, w, metric, bits):
                break
            code = tried
        return code

    def _swept(self, scheme: Scheme, w: Tensor, metric: Full, start: Code, rate: Rate | None) -> Code:
        matrix, hessian = metric.grouped(w)
        rule: _Dense | _Pruning
        if isinstance(scheme, Sparse):
            assert isinstance(start, SparseCode)
            rule = _Pruning(scheme, start, w)
        else:
            rule = _Dense(scheme, start, w, rate)
        swept = sweep(matrix, hessian, rule, metric.rows, self.damping)
        return rule.code(swept.reshape(w.shape).to(w.dtype))

    def _cost(self, code: Code, w: Tensor, metric: Full, bits: Tensor) -> float:
        symbols = _symbols(code).values.flatten().long()
        return float(metric.distance(w, code.decode())) + self.price * float(bits[symbols].sum())


def _diagonal(hessian: Tensor) -> bool:
    """Whether inputs are uncorrelated: an embedding's are."""
    return bool(hessian.count_nonzero() == hessian.diagonal(dim1=-2, dim2=-1).count_nonzero())


def _symbols(code: Code) -> Stream:
    """The stream of a code that has a symbol for every entry."""
    for stream in code.streams():
        if tuple(stream.values.shape) == code.shape:
            return stream
    raise SchemeError(f"{type(code).__name__} has no symbol for every entry, so that it has no rate to trade")


class _Dense:
    """Every entry is written by the scheme's warm projection: of the column alone where the code allows it.

    Slow but general is to project the whole tensor with that column in place, and the start's own values elsewhere.
    """

    run = LAZY

    def __init__(self, scheme: Scheme, start: Code, w: Tensor, rate: Rate | None) -> None:
        self.scheme, self.start, self.like, self.rate = scheme, start, w, rate
        self.scratch = start.decode().flatten(1).clone()

    def look_ahead(self, values: Tensor, first: int, costs: Tensor) -> None:
        """Nothing is decided for several columns together."""

    def __call__(self, values: Tensor, column: int, costs: Tensor) -> Tensor:
        if self.start.columnwise:
            metric = Diagonal(costs[:, None]) if self.rate is not None else EUCLIDEAN
            w = values[:, None].to(self.like.dtype)
            decoded = self.scheme.project(w, metric, warm=self.start, rate=self.rate).decode()[:, 0]
        elif self.rate is not None:
            raise SchemeError(f"{self.scheme} cannot be swept with a rate: its scales are not those of rows")
        else:
            self.scratch[:, column] = values.to(self.scratch.dtype)
            whole = self.scheme.project(self.scratch.reshape(self.like.shape), warm=self.start)
            decoded = whole.decode().flatten(1)[:, column]
        return decoded.double()

    def code(self, swept: Tensor) -> Code:
        return self.scheme.project(swept, warm=self.start)


class _Pruning:
    """Runs of columns keep the entries of largest importance, which the scheme of the survivors writes."""

    def __init__(self, scheme: Sparse, start: SparseCode, w: Tensor) -> None:
        self.scheme, self.start = scheme, start
        self.run = scheme.columns(LAZY)
        if isinstance(start, RunSparseCode) and start.members is not None:
            raise SchemeError("a sweep keeps the order of columns; take NToM, or project with PermutedNToM itself")
        self.support = torch.zeros(w.flatten(1).shape, dtype=torch.bool, device=w.device)
        self.like = w

    def look_ahead(self, values: Tensor, first: int, costs: Tensor) -> None:
        importance = costs.sqrt() * values.abs()
        self.support[:, first : first + values.shape[1]] = self.scheme.ahead(importance)

    def __call__(self, values: Tensor, column: int, costs: Tensor) -> Tensor:
        kept = self.support[:, column]
        written = torch.zeros_like(values)
        if bool(kept.any()):
            survivors = values[kept].to(self.like.dtype)
            written[kept] = self.scheme.values.project(survivors, warm=self.start.values).decode().to(values.dtype)
        return written

    def code(self, swept: Tensor) -> Code:
        entries = self.support.reshape(swept.shape)
        support = self.start.form(entries).less(entries, swept.abs())
        values = self.scheme.values.project(swept[support.entries], warm=self.start.values)
        return support.code(swept.dtype, values)
