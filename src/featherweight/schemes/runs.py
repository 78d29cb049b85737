"""N:M sparsity: of every m entries in a run at most n stay, in runs along rows or of permuted input channels."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb, prod

import torch
import torch.nn.functional as F
from torch import Tensor

from featherweight.core.errors import SchemeError

LONGEST, PATTERNS = 32, 4096
"""A run whose pattern is stored as one number is no longer, and has no more patterns."""
PARTITIONS, TRIED = 35, 2**24
"""A pair of runs with more partitions than two of four entries is not tried whole; nor where it would be many sums."""


@dataclass(frozen=True, eq=False)
class Runs:
    """Of every run of ``m`` entries at most ``n`` stay; the last run of a line may be shorter, and keeps ``n`` too.

    Without ``members`` a line is a row, all that one output reads, flattened, and runs are of consecutive entries. With
    it a line is what one output reads of all input channels at one kernel position, and channel ``c`` belongs to run
    ``members[c]``: all runs have ``m`` channels, but for the last.
    """

    n: int
    m: int
    members: Tensor | None = None

    @property
    def patterns(self) -> int:
        """How many supports a run can have."""
        return sum(comb(self.m, k) for k in range(self.n + 1))

    def extent(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """How many lines such a tensor has, and of how many entries."""
        if self.members is not None:
            return prod(shape) // max(len(self.members), 1), len(self.members)
        return (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))

    def split(self, entries: Tensor) -> Tensor:
        """[lines, runs, m], with zeros where the last run is shorter."""
        lines, length = self.extent(tuple(entries.shape))
        if self.members is None:
            rows = entries.reshape(lines, length)
        else:
            rows = by_channel(entries)[:, self.members.argsort(stable=True)]
        return F.pad(rows, (0, -length % self.m)).reshape(lines, -(-length // self.m), self.m)

    def joined(self, runs: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Inverse of :meth:`split`."""
        lines, length = self.extent(shape)
        rows = runs.reshape(lines, runs.shape[1] * self.m)[:, :length]
        if self.members is None:
            return rows.reshape(shape)
        back = torch.empty_like(rows)
        back[:, self.members.argsort(stable=True)] = rows
        return back.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)

    def support(self, importance: Tensor) -> Tensor:
        """The ``n`` most important entries of every run, the first of equal ones; none that are zero."""
        runs = self.split(importance)
        order = runs.argsort(dim=-1, descending=True, stable=True)[..., : self.n]
        kept = torch.zeros_like(runs, dtype=torch.bool).scatter_(-1, order, True) & (runs != 0)
        return self.joined(kept, tuple(importance.shape))


def by_channel(entries: Tensor) -> Tensor:
    """[outputs · positions, input channels]."""
    if entries.ndim < 2:
        raise SchemeError(f"a tensor of shape {tuple(entries.shape)} has no input channels; exclude it from the sites")
    return entries.movedim(1, -1).reshape(-1, entries.shape[1])


@lru_cache
def table(n: int, m: int) -> Tensor:
    """All supports of a run, bool, [patterns, m]: those of no entry, of one, of two, each in lexicographic order."""
    found = torch.zeros(Runs(n, m).patterns, m, dtype=torch.bool, device="cpu")
    kept = (positions for k in range(n + 1) for positions in combinations(range(m), k))
    for row, positions in zip(found, kept, strict=True):
        row[list(positions)] = True
    return found


def numbered(runs: Tensor, n: int) -> Tensor:
    """The row of :func:`table` that each run of [..., m] is."""
    m = runs.shape[-1]
    powers = 2 ** torch.arange(m, device=runs.device)
    keys, rows = (table(n, m).to(runs.device).long() @ powers).sort()
    return rows[torch.searchsorted(keys, (runs.long() * powers).sum(-1))]


@torch.no_grad()
def permuted(importance: Tensor, n: int, m: int, rounds: int) -> Runs:
    """Runs of input channels in which ``n`` of ``m`` keep a large ``Σ importance²``.

    A round computes for all pairs of channels in different runs what their swap would gain, and makes the best swaps
    that share no run. Where none gains, all partitions of every pair of runs are tried, if there are few enough, and
    the best that share no run are made; where none of these gains either, or ``rounds`` are over, the search ends. It
    begins with the channels as they stand, and never keeps less than those; of two whole runs with few partitions it
    finds the best. Swaps are those of Ji et al. 2018 (TETRIS, NeurIPS), partitions those of Pool and Yu 2021 (NeurIPS,
    section 4), who take larger groups of runs too, disturb a search that is stuck, and count magnitudes, not squares. A
    round takes time in proportion to lines · channels².
    """
    squares = by_channel(importance).double().square()
    channels = squares.shape[1]
    count = -(-channels // m)
    order = torch.arange(count * m, device=squares.device)  # those beyond the channels are zeros, and stay
    padded = F.pad(squares, (0, count * m - channels))
    least = 1e-9 * float(squares.sum())
    for _ in range(rounds if n < m and count > 1 else 0):
        gains = _gains(padded[:, order], n, m)
        gains[order >= channels] = gains[:, order >= channels] = 0
        swaps = _best(gains, m, least)
        for i, j in swaps:
            order[[i, j]] = order[[j, i]]
        if not swaps and not _repartitioned(order, padded, channels // m, n, m, least):
            break
    return Runs(n, m, _canonical(order, channels, m))


def _gains(squares: Tensor, n: int, m: int) -> Tensor:
    """What each swap would gain, [slots, slots]; slots ``m i … m i + m − 1`` are run ``i``.

    Without slot ``i`` a run keeps ``base_i``, and its ``n``-th largest is ``t_i``: with ``x`` in that slot it keeps
    ``base_i + max(x − t_i, 0)``.
    """
    lines, slots = squares.shape
    runs = squares.reshape(lines, -1, m)
    values, at = runs.sort(dim=-1, descending=True, stable=True)
    best = values[..., :n].sum(-1, keepdim=True)
    inside = at.argsort(dim=-1) < n
    base = torch.where(inside, best + values[..., n : n + 1] - runs, best).reshape(lines, slots)
    least = torch.where(inside, values[..., n : n + 1], values[..., n - 1 : n]).reshape(lines, slots)
    replaced = base.sum(0)[:, None].expand(-1, slots).clone()
    step = max(2**22 // max(lines * slots, 1), 1)
    for first in range(0, slots, step):
        part = squares[:, None, :] - least[:, first : first + step, None]
        replaced[first : first + step] += part.clamp_(min=0).sum(0)
    now = best.sum(0).flatten().repeat_interleave(m)
    gains = replaced + replaced.T - now[:, None] - now
    run = torch.arange(slots, device=squares.device) // m
    return gains.masked_fill(run[:, None] == run, 0)


def _best(gains: Tensor, m: int, least: float) -> list[tuple[int, int]]:
    """Swaps of the largest gains, above ``least``, each run in one of them at most."""
    gains, swaps = gains.clone(), []
    while float(gains.max()) > least:
        i, j = divmod(int(gains.argmax()), gains.shape[1])
        swaps.append((i, j))
        for run in (i // m, j // m):
            gains[run * m : (run + 1) * m] = 0
            gains[:, run * m : (run + 1) * m] = 0
    return swaps


def _repartitioned(order: Tensor, squares: Tensor, whole: int, n: int, m: int, least: float) -> bool:
    """Put pairs of the first ``whole`` runs into their best partitions, in place; whether any gained.

    Nothing is tried where a pair has more than ``PARTITIONS``, or where it would take more than ``TRIED`` sums.
    """
    pairs = list(combinations(range(whole), 2))
    ways = comb(2 * m, m) // 2
    if not pairs or ways > PARTITIONS or len(pairs) * ways * len(squares) > TRIED:
        return False
    first = [(0, *others) for others in combinations(range(1, 2 * m), m - 1)]
    parts = torch.tensor([(*a, *(k for k in range(2 * m) if k not in a)) for a in first], device=squares.device)
    slots = torch.tensor(
        [[*range(a * m, a * m + m), *range(b * m, b * m + m)] for a, b in pairs], device=squares.device
    )
    kept = torch.stack([_kept(squares[:, order[each]][:, parts], n, m) for each in slots])  # [pairs, ways]
    best, way = kept.max(1)
    gains, used = best - kept[:, 0], set[int]()
    for pair in gains.argsort(descending=True, stable=True).tolist():
        if float(gains[pair]) <= least:
            break
        if used.isdisjoint(pairs[pair]):
            used.update(pairs[pair])
            order[slots[pair]] = order[slots[pair]][parts[way[pair]]]
    return bool(used)


def _kept(squares: Tensor, n: int, m: int) -> Tensor:
    """What is kept of [lines, ways, 2 m], for each way to make two runs of it."""
    runs = squares.reshape(*squares.shape[:-1], 2, m)
    return runs.topk(n, dim=-1).values.sum((0, 2, 3))


def _canonical(order: Tensor, channels: int, m: int) -> Tensor:
    """The run of every channel; runs are numbered by their first channels, and the shorter one is the last."""
    runs = order.reshape(-1, m).sort(dim=1).values
    first = runs[:, 0].clone()
    first[(runs >= channels).any(1)] = channels
    ranks = torch.empty_like(order)
    ranks[runs[first.argsort()]] = torch.arange(len(runs), device=order.device)[:, None].expand(-1, m)
    return ranks[:channels]
