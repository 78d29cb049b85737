"""k-means of vectors whose components are weighed, in float64: a start, Lloyd's iteration, and the nearest."""

import torch
from torch import Tensor

COSTS = 1 << 24
"""Distances that are held at a time."""


def plus_plus(x: Tensor, d: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
    """``k`` of the vectors ``x`` [n, components], each drawn in proportion to its squared distance from those before.

    k-means++ (Arthur and Vassilvitskii 2007, SODA): the expected error is within ``8 (ln k + 2)`` of the least. ``d``,
    of the shape of ``x``, weighs every component of every vector; ``None`` weighs them alike.
    """
    draws = torch.rand(k, generator=generator, dtype=torch.float64, device="cpu").tolist()
    chosen = [min(int(draws[0] * len(x)), len(x) - 1)]
    left = _from(x, d, x[chosen[0]])
    for draw in draws[1:]:
        until = left.cumsum(0)
        at = int(torch.searchsorted(until, draw * until[-1:], right=True))
        chosen.append(min(at, len(x) - 1))
        left = torch.minimum(left, _from(x, d, x[chosen[-1]]))
    return x[torch.tensor(chosen, device=x.device)]


def _from(x: Tensor, d: Tensor | None, centre: Tensor) -> Tensor:
    squared = (x - centre).square()
    return (squared if d is None else squared * d).sum(1)


def lloyd_vectors(x: Tensor, d: Tensor | None, start: Tensor, iterations: int) -> Tensor:
    """A local minimum of ``Σ_i Σ_j d_ij (x_ij − c_a(i)j)²`` from centroids ``start`` [k, components] (Lloyd 1982).

    Centroids are weighted means, component by component. An empty cluster is revived: it gets one of the vectors that
    are farthest from theirs, which lowers the sum at the next assignment.
    """
    centroids, before = start.clone(), torch.full((len(x),), -1, device=x.device)
    mass = torch.ones_like(x) if d is None else d
    for _ in range(iterations):
        nearest, cost = _roughly_nearest(x, d, centroids)
        if torch.equal(nearest, before):
            break
        before = nearest
        weight = torch.zeros_like(centroids).index_add_(0, nearest, mass)
        total = torch.zeros_like(centroids).index_add_(0, nearest, mass * x)
        centroids = torch.where(weight > 0, total / weight.clamp(min=torch.finfo(x.dtype).tiny), centroids)
        empty = torch.bincount(nearest, minlength=len(centroids)) == 0
        farthest = cost.topk(min(int(empty.sum()), len(x))).indices
        centroids[empty.nonzero().flatten()[: len(farthest)]] = x[farthest]
    return centroids


def _roughly_nearest(x: Tensor, d: Tensor | None, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of every vector and its squared distance, by products of matrices: fast, ties by chance."""
    found, costs = [], []
    for part in range(0, len(x), step := max(COSTS // len(centroids), 1)):
        at = slice(part, part + step)
        if d is None:
            cost, rest = centroids.square().sum(1) - 2 * x[at] @ centroids.T, x[at].square().sum(1)
        else:
            weighed = d[at] * x[at]
            cost, rest = d[at] @ centroids.square().T - 2 * weighed @ centroids.T, (weighed * x[at]).sum(1)
        least = cost.min(1)
        found.append(least.indices)
        costs.append((least.values + rest).clamp(min=0))
    return torch.cat(found), torch.cat(costs)


def nearest_vectors(x: Tensor, d: Tensor | None, centroids: Tensor) -> Tensor:
    """``argmin_k Σ_j d_ij (x_ij − c_kj)²`` of every vector, int64; the first of equals, alone or among others."""
    found = []
    for part in range(0, len(x), step := max(COSTS // len(centroids), 1)):
        at = slice(part, part + step)
        cost = x.new_zeros(len(x[at]), len(centroids))
        for component in range(x.shape[1]):
            squared = (x[at, component, None] - centroids[:, component]).square()
            cost += squared if d is None else squared * d[at, component, None]
        found.append(cost.argmin(1))
    return torch.cat(found)
