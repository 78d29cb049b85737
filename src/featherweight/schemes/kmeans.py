"""Values on a line for weighted entries, in float64: k-means, exact and by Lloyd's iteration; levels to round to."""

from collections.abc import Callable

import torch
from torch import Tensor

Cost = Callable[[Tensor, Tensor], Tensor]
"""cost(i, j): the error of the sorted values i .. j - 1 as one cluster, or between the levels i and j."""


def spread(low: Tensor, high: Tensor, count: int) -> Tensor:
    """``count`` numbers from ``low`` to ``high``, evenly."""
    return low + (high - low) * torch.arange(count, dtype=low.dtype, device=low.device) / max(count - 1, 1)


def lloyd(x: Tensor, d: Tensor | None, start: Tensor, iterations: int) -> Tensor:
    """A local minimum of ``Σ d (x − c)²`` from centroids ``start`` (Lloyd 1982); empty clusters stay where they are.

    On the sorted line clusters are intervals, so a step is two reads of prefix sums a cluster and one binary search.
    """
    ordered, order = x.sort()
    weights = torch.ones_like(ordered) if d is None else d[order]
    zero = ordered.new_zeros(1)
    mass = torch.cat([zero, weights.cumsum(0)])
    moment = torch.cat([zero, (weights * ordered).cumsum(0)])
    centroids = start.sort().values
    ends = torch.full((1,), len(ordered), device=x.device)
    for _ in range(iterations):
        cuts = torch.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2, right=True)
        edges = torch.cat([torch.zeros_like(ends), cuts, ends])
        weight = mass[edges[1:]] - mass[edges[:-1]]
        total = moment[edges[1:]] - moment[edges[:-1]]
        means = torch.where(weight > 0, total / weight.clamp(min=torch.finfo(x.dtype).tiny), centroids)
        if torch.equal(means, centroids):
            break
        centroids = means.sort().values
    return centroids


def optimal(x: Tensor, d: Tensor | None, k: int) -> Tensor:
    """The global minimum of ``Σ d (x − c)²`` over ``k`` centroids.

    Dynamic programming over the sorted distinct values (Bruce 1965; Wang and Song 2011): ``D[m][j] = min_i D[m−1][i] +
    cost(i, j)``. The best ``i`` does not decrease with ``j``, so every row is solved by divide and conquer, one
    vectorised sweep a level: ``O(k n log n)`` operations, ``O(k n)`` memory for the cuts.
    """
    values, inverse = x.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    n = len(values)
    weights = torch.zeros_like(values).index_add_(0, inverse, torch.ones_like(x) if d is None else d)
    if not bool((weights > 0).any()):
        weights = torch.ones_like(weights)
    centre = (weights * values).sum() / weights.sum()  # nearer zero, prefix sums of squares lose fewer digits
    zero = values.new_zeros(1)
    mass = torch.cat([zero, weights.cumsum(0)])
    moment = torch.cat([zero, (weights * (values - centre)).cumsum(0)])
    square = torch.cat([zero, (weights * (values - centre).square()).cumsum(0)])

    def cost(i: Tensor, j: Tensor) -> Tensor:
        """Weighted squared error of one cluster holding values ``i .. j − 1``."""
        weight, total = mass[j] - mass[i], moment[j] - moment[i]
        return (square[j] - square[i] - total.square() / weight.clamp(min=torch.finfo(x.dtype).tiny)).clamp(min=0)

    ends = torch.arange(n + 1, device=x.device)
    best = cost(torch.zeros_like(ends), ends)
    cuts = []
    for _ in range(1, min(k, n)):
        best, cut = _row(best, cost, n)
        cuts.append(cut)
    edges = [n]
    for cut in reversed(cuts):
        edges.append(int(cut[edges[-1]]))
    edges_t = torch.tensor([0, *reversed(edges)], device=x.device).unique()  # type: ignore[no-untyped-call]
    weight = mass[edges_t[1:]] - mass[edges_t[:-1]]
    total = moment[edges_t[1:]] - moment[edges_t[:-1]]
    middle = (values[edges_t[1:] - 1] + values[edges_t[:-1]]) / 2
    return torch.where(weight > 0, total / weight.clamp(min=torch.finfo(x.dtype).tiny) + centre, middle)


def unbiased(x: Tensor, d: Tensor | None, k: int) -> Tensor:
    """The global minimum of ``Σ d (u − x)(x − l)`` over ``k ≥ 2`` levels, ``l ≤ x ≤ u`` the two next to an entry.

    It is the variance of rounding to ``u`` with probability ``(x − l) / (u − l)``, else to ``l``, which is right in the
    mean (Zhang, Li, Kara, Alistarh, Liu and Zhang 2016, arXiv 1611.05402). Between two entries it is linear in each
    level, so that some minimum has its levels at entries, the first and the last among them: the same dynamic
    programming as that of :func:`optimal`.
    """
    values: Tensor
    values, inverse = x.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    last = len(values) - 1
    if last == 0:
        return values
    weights = torch.zeros_like(values).index_add_(0, inverse, torch.ones_like(x) if d is None else d)
    centre = values[last // 2]
    centred, zero = values - centre, values.new_zeros(1)
    mass = torch.cat([zero, weights.cumsum(0)])
    moment = torch.cat([zero, (weights * centred).cumsum(0)])
    square = torch.cat([zero, (weights * centred.square()).cumsum(0)])

    def cost(i: Tensor, j: Tensor) -> Tensor:
        """What entries between the values ``i`` and ``j`` vary by, those at the two by nothing."""
        low, high = centred[i], centred[j]
        within = (low + high) * (moment[j] - moment[i]) - low * high * (mass[j] - mass[i])
        return (within - (square[j] - square[i])).clamp(min=0)

    ends = torch.arange(last + 1, device=x.device)
    best, cuts = cost(torch.zeros_like(ends), ends), []
    for _ in range(2, min(k, last + 1)):
        best, cut = _row(best, cost, last)
        cuts.append(cut)
    at = [last]
    for cut in reversed(cuts):
        at.append(int(cut[at[-1]]))
    return values[torch.tensor([0, *reversed(at)], device=x.device).unique()]  # type: ignore[no-untyped-call]


def _row(before: Tensor, cost: Cost, n: int) -> tuple[Tensor, Tensor]:
    """``D[j] = min_{i <= j} before[i] + cost(i, j)`` for every ``j``, and the least ``i`` that attains it.

    Level by level, the middles of all open intervals of ``j`` are solved at once; each looks only between the best
    ``i`` of its solved neighbours.
    """
    device = before.device
    best = torch.full_like(before, torch.inf)
    cut = torch.zeros(n + 1, dtype=torch.long, device=device)
    left, right = torch.tensor([0], device=device), torch.tensor([n], device=device)
    low, high = torch.tensor([0], device=device), torch.tensor([n], device=device)
    while len(left):
        middle = (left + right) // 2
        last = torch.minimum(middle, high)
        lengths = last - low + 1
        owner = torch.repeat_interleave(torch.arange(len(middle), device=device), lengths)
        starts = lengths.cumsum(0) - lengths
        i = torch.arange(len(owner), device=device) - starts[owner] + low[owner]
        total = before[i] + cost(i, middle[owner])
        least = torch.full((len(middle),), torch.inf, dtype=before.dtype, device=device)
        least = least.scatter_reduce(0, owner, total, "amin")
        at = torch.full_like(middle, n + 1).scatter_reduce(
            0, owner, torch.where(total == least[owner], i, n + 1), "amin"
        )
        best[middle], cut[middle] = least, at
        left, right, low, high = (
            torch.cat([left, middle + 1]),
            torch.cat([middle - 1, right]),
            torch.cat([low, at]),
            torch.cat([at, high]),
        )
        open_ = left <= right
        left, right, low, high = left[open_], right[open_], low[open_], high[open_]
    return best, cut
