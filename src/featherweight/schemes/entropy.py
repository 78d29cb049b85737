"""Entropy-constrained scalar quantization: few bits an entry once indices are entropy coded, not few values."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import log
from typing import ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight
from featherweight.schemes.codebook import CodebookCode, as_codebook, dropped, nearest, stored_centroids

T = TypeVar("T")

EDGES = 1024
"""Groups of neighbouring entries that the first cells are made of; each distinct entry is one where there are fewer."""
ROUNDS = 25
"""Of assignments, centroids and shares in turns, at most: later ones change next to nothing."""
PASSES = 100
"""Of assignments and shares with the stored centroids, at most; a few are usual."""
HALVINGS = 20
"""Of the range of λ in which a mean of bits is looked for."""


@dataclass(frozen=True)
class Multiplier:
    """λ: the squared error, in the metric, that a bit is worth."""

    value: float

    def __post_init__(self) -> None:
        if not 0 <= self.value < float("inf"):
            raise SchemeError(f"λ = {self.value} is no number from 0; take more for fewer bits")


@dataclass(frozen=True)
class MeanBits:
    """The largest entropy of the indices, in bits an entry; λ is the smallest that meets it."""

    bits: float

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= 32:
            raise SchemeError(f"a mean of {self.bits} bits an entry is not in 0..32")


class Cells(Enum):
    """How entries are put together."""

    ITERATED = "iterated"  # the best intervals, then Lloyd's iteration with the rate in the assignment
    BINS = "bins"  # bins of one width, one of them centred at zero


@dataclass(frozen=True)
class EntropyConstrained(Scheme):
    """``min Σ d_i (w_i − c_{a(i)})² + λ Σ −log₂ p_{a(i)}`` over any number of centroids ``c`` and assignments ``a``.

    ``p_k`` is the share of the entries in cell ``k``: the second sum is the entropy of the indices (Chou, Lookabaugh
    and Gray 1989; with ``d`` a diagonal of the loss's second derivatives, Choi, El-Khamy and Lee 2016, arXiv
    1612.01543, section 4). λ is given, or is the smallest that meets a mean of bits.

    *Iterated*: in the Euclidean metric the best cells are intervals, which a shortest path over all of them finds: the
    minimum itself for up to :data:`EDGES` distinct entries. From there assignments with the rate, centroids ``Σ d w /
    Σ d`` and shares take turns until little changes; empty cells are dropped. *Bins*: the practical variant of the
    same section, bins of the width ``Δ = √(6 λ / (ln 2 · mean d))`` that high-rate theory gives (Gish and Pierce 1968)
    with the same centroids; entries go to the nearest.

    Centroids are stored as a :class:`featherweight.schemes.codebook.Codebook` stores its own. The promise is a rule, as
    no nearest point is sought but the least sum. With ``warm`` the shares are that code's too, and the mean of bits
    what that code has.
    """

    rate: Multiplier | MeanBits
    cells: Cells = Cells.ITERATED
    promise: ClassVar[Promise] = Promise.RULE

    def __post_init__(self) -> None:
        if self.cells is Cells.BINS and self.rate == Multiplier(0):
            raise SchemeError("λ = 0 makes bins of no width; give more, or take iterated cells")

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> CodebookCode:
        if rate is not None:
            raise SchemeError("an entropy-constrained scheme has a rate of its own; take a Codebook to give another")
        check_weight(w)
        x = w.detach().flatten().to(torch.float64)
        weights = metric.weights(w)
        d = torch.ones_like(x) if weights is None else weights.flatten().to(torch.float64)
        if not bool((d > 0).any()):
            d = torch.ones_like(d)
        if warm is not None:
            before = as_codebook(warm)
            centroids: Code = before.centroids
            indices = self._renewed(x, d, _values(centroids), before.indices.flatten().long())
        else:
            centroids, indices = self._settled(x, d, *self._fitted(x, d, w.dtype))
        return CodebookCode(tuple(w.shape), w.dtype, indices.reshape(w.shape).to(torch.int32), centroids)

    def _fitted(self, x: Tensor, d: Tensor, dtype: torch.dtype) -> tuple[Code, Tensor]:
        """Centroids as they are stored and the cell of every entry."""
        at = self._bins(x, d) if self.cells is Cells.BINS else _iterated(x, d)

        def priced(price: float) -> tuple[Code, Tensor]:
            cells = at(price)
            means = _means(x, d, cells)
            centroids = stored_centroids(means, dtype)
            if self.cells is Cells.BINS:
                return centroids, nearest(x, _values(centroids))
            return centroids, nearest(means, _values(centroids))[cells]

        match self.rate:
            case Multiplier(price):
                return priced(price)
            case MeanBits(bits):
                return _bisected(priced, lambda found: entropy(found[1]) <= bits, _spread(x, d))

    @staticmethod
    def _bins(x: Tensor, d: Tensor) -> Callable[[float], Tensor]:
        def cells(price: float) -> Tensor:
            width = (6 * price / (log(2) * float(d.mean()))) ** 0.5
            numbers: Tensor = (x / width).round().unique(return_inverse=True)[1]
            return numbers

        return cells

    def _settled(self, x: Tensor, d: Tensor, centroids: Code, indices: Tensor) -> tuple[Code, Tensor]:
        """Renewed until nothing changes: then projecting again from the code gives the code."""
        for _ in range(PASSES):
            renewed = self._renewed(x, d, _values(centroids), indices)
            if torch.equal(renewed, indices):
                break
            indices = renewed
        return dropped(centroids, indices)

    def _renewed(self, x: Tensor, d: Tensor, values: Tensor, before: Tensor) -> Tensor:
        """The cells for these centroids under the shares that cells had ``before``."""
        if self.cells is Cells.BINS:
            return nearest(x, values)
        match self.rate:
            case Multiplier(price):
                return _assigned(x, d, values, before, price)
            case MeanBits():
                bits = entropy(before)
                found = _bisected(
                    lambda price: _assigned(x, d, values, before, price),
                    lambda cells: entropy(cells) <= bits,
                    _spread(x, d),
                )
                return found if _error(x, d, values, found) < _error(x, d, values, before) else before


def entropy(cells: Tensor) -> float:
    """``−Σ p log₂ p``, bits an entry."""
    shares = torch.bincount(cells.flatten()).double() / cells.numel()
    shares = shares[shares > 0]
    return float(-(shares * shares.log2()).sum()) + 0.0


def _values(centroids: Code) -> Tensor:
    return centroids.decode().detach().double()


def _error(x: Tensor, d: Tensor, values: Tensor, cells: Tensor) -> float:
    return float((d * (x - values[cells]).square()).sum())


def _spread(x: Tensor, d: Tensor) -> float:
    """The mean weighted squared distance from the mean, or the plain one where that is nothing."""
    for weights in (d, torch.ones_like(d)):
        centre = (weights * x).sum() / weights.sum()
        spread = float((weights * (x - centre).square()).mean())
        if spread > 0:
            return spread
    return 1.0


def _bisected(priced: Callable[[float], T], meets: Callable[[T], bool], spread: float) -> T:
    """What the smallest λ gives that meets a condition which a larger λ makes easier.

    The largest is far over ``2 ln 2 · spread``, what a bit is worth where the error is all of the spread.
    """
    low, high = spread * 2.0**-40, spread * 16
    best = priced(high)
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        found = priced(middle)
        if meets(found):
            best, high = found, middle
        else:
            low = middle
    return best


def _assigned(x: Tensor, d: Tensor, values: Tensor, before: Tensor, price: float) -> Tensor:
    """``argmin_k d (x − c_k)² − λ log₂ p_k`` with the shares of ``before``; of equals, the cell that an entry had."""
    counts = torch.bincount(before, minlength=len(values))
    alive = counts.nonzero().squeeze(1)
    values, bits = values[alive], price * (len(x) / counts[alive].double()).log2()
    if bool((d == d[0]).all()):
        return alive[_between(x, values, bits / d[0])]
    at = torch.empty_like(before)
    rows = max(1, (1 << 17) // len(values))
    for start in range(0, len(x), rows):
        piece = slice(start, start + rows)
        cost = d[piece, None] * (x[piece, None] - values).square() + bits
        old = torch.searchsorted(alive, before[piece])
        least, best = cost.min(1)
        at[piece] = torch.where(cost.gather(1, old[:, None]).squeeze(1) <= least, old, best)
    return alive[at]


def _between(x: Tensor, values: Tensor, bits: Tensor) -> Tensor:
    """``argmin_k (x − c_k)² + b_k``: cells are the intervals of a lower envelope of lines, in the order of ``c``."""
    values, order = values.sort()
    base = values.square() + bits[order]
    step = (values[None, :] - values[:, None]).clamp(min=torch.finfo(x.dtype).tiny)
    crossing = (base[None, :] - base[:, None]) / (2 * step)  # of lines j < k; above it k is cheaper
    later = torch.ones_like(crossing, dtype=torch.bool).triu(1)
    begins = crossing.masked_fill(~later, -torch.inf).amax(0)
    ends = crossing.masked_fill(~later, torch.inf).amin(1)
    cells = (begins < ends).nonzero().squeeze(1)
    return order[cells[torch.searchsorted(begins[cells[1:]], x)]]


def _means(x: Tensor, d: Tensor, cells: Tensor) -> Tensor:
    """``Σ d x / Σ d`` of every cell, the plain mean where the metric does not care."""
    count = int(cells.max()) + 1
    zero = x.new_zeros(count)
    mass, number = zero.index_add(0, cells, d), zero.index_add(0, cells, torch.ones_like(x))
    plain = zero.index_add(0, cells, x) / number.clamp(min=1)
    weighted = zero.index_add(0, cells, d * (x - plain[cells])) / mass.clamp(min=torch.finfo(x.dtype).tiny)
    return torch.where(mass > 0, plain + weighted, plain)


def _iterated(x: Tensor, d: Tensor) -> Callable[[float], Tensor]:
    """λ -> cells: the best intervals, then assignments, centroids and shares in turns."""
    intervals = _Intervals(x, d)

    def cells(price: float) -> Tensor:
        found = intervals.best(price)
        for _ in range(ROUNDS):
            renewed = _renumbered(_assigned(x, d, _means(x, d, found), found, price))
            if torch.equal(renewed, found):
                break
            found = renewed
        return found

    return cells


def _renumbered(cells: Tensor) -> Tensor:
    """The cells that have entries, numbered from 0 in their order: counting is faster than sorting."""
    used = torch.bincount(cells) > 0
    return (used.cumsum(0) - 1)[cells]


class _Intervals:
    """Entries cut into intervals with the least weighted squared error and rate, by a shortest path over all cuts.

    The rate ``−n log₂ (n / N)`` of an interval is concave in its entries: the best cuts are not monotone, as those of
    k-means are, so that all pairs of edges are looked at. Their errors are computed once for all λ.
    """

    def __init__(self, x: Tensor, d: Tensor) -> None:
        distinct, self._group = x.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        self._device = x.device
        values, weights = distinct.cpu().numpy(), d.cpu().numpy()
        group = self._group.cpu().numpy()
        counts = np.bincount(group, minlength=len(values)).astype(float)
        mass = np.bincount(group, weights, minlength=len(values))
        self._edges = _edges(values, counts)
        centred = values - (mass * values).sum() / mass.sum()
        number, mass, moment, square = (
            np.concatenate([[0.0], np.cumsum(each)])[self._edges]
            for each in (counts, mass, mass * centred, mass * centred**2)
        )
        n, m, s, q = (each[None, :] - each[:, None] for each in (number, mass, moment, square))
        self._error = np.maximum(q - s * np.divide(s, m, out=np.zeros_like(s), where=m > 0), 0)
        n = np.maximum(n, 1)
        self._rate = -n * np.log2(n / number[-1])

    def best(self, price: float) -> Tensor:
        """The cell of every entry."""
        cost = self._error + price * self._rate
        count = len(self._edges)
        least, cut = np.zeros(count), np.zeros(count, dtype=int)
        for end in range(1, count):
            total = least[:end] + cost[:end, end]
            cut[end] = total.argmin()
            least[end] = total[cut[end]]
        ends = [count - 1]
        while ends[-1] > 0:
            ends.append(int(cut[ends[-1]]))
        bounds = torch.from_numpy(self._edges[ends[-2::-1]]).to(self._device)
        return torch.searchsorted(bounds, self._group, right=True)


def _edges(values: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where cells of distinct values may begin: everywhere, or evenly by value and by number of entries."""
    count = len(values)
    if count <= EDGES:
        return np.arange(count + 1)
    half = EDGES // 2
    even = np.searchsorted(values, np.linspace(values[0], values[-1], half))
    ranked = np.searchsorted(np.cumsum(counts), np.linspace(0, counts.sum(), half))
    return np.unique(np.concatenate([[0, count], even, ranked])).clip(0, count)
