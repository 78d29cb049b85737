"""Weight sharing: every entry is one of a few centroids."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from math import ceil, log2, prod
from typing import ClassVar

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, direct, latent, number_type, part_streams, read_part
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight
from featherweight.core.shared import Reference
from featherweight.schemes.floats import Floats, Width, narrow, rounded
from featherweight.schemes.kmeans import lloyd, optimal, spread, unbiased


@dataclass(frozen=True, eq=False)
class CodebookCode(Code):
    """``decode()[i] = centroids[indices[i]]``; centroids ascend when they come from ``project``."""

    indices: Tensor = latent()  # int32, of the code's shape
    centroids: Code = direct()  # of shape [size]

    @property
    def size(self) -> int:
        return self.centroids.shape[0]

    def select(self, dim: int, indices: Tensor) -> "CodebookCode | None":
        """Where no fewer entries are left than there are centroids."""
        left = self.indices.index_select(dim, indices)
        if left.numel() < self.size:
            return None
        return replace(self, shape=tuple(left.shape), indices=left)

    @property
    def bits(self) -> int:
        return max(ceil(log2(self.size)), 1)

    @property
    def columnwise(self) -> bool:
        return True

    def decode(self) -> Tensor:
        return self.centroids.decode()[self.indices.long()].to(self.dtype)

    def settings(self) -> tuple[int, ...]:
        return (self.size,)

    def streams(self) -> Iterator[Stream]:
        yield from part_streams("centroids", self.centroids)
        yield Stream("indices", self.indices, self.size)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "CodebookCode":
        match layout.settings:
            case (size,) if 1 <= size <= _largest(layout, shape) and len(layout.parts) == 1:
                pass
            case _:
                raise FormatError(f"a codebook of shape {shape} has no settings {layout.settings}")
        numbers = number_type(dtype)
        centroids = read_part(layout, 0, (size,), numbers, take, "centroids")
        return cls(shape, dtype, take("indices", shape, size).to(torch.int32), centroids)


def _largest(layout: Layout, shape: tuple[int, ...]) -> int:
    """A codebook is no larger than its tensor, so that memory is bounded; one that is held elsewhere takes none."""
    entries = prod(shape)
    elsewhere = entries > 0 and any(part.kind is Reference for part in layout.parts)
    return Codebook.LARGEST if elsewhere else min(Codebook.LARGEST, entries)


class Start(Enum):
    """Where Lloyd's iteration starts (Han et al. 2015, arXiv 1510.00149, section 3.2)."""

    LINEAR = "linear"  # evenly from the smallest to the largest entry: large weights keep centroids of their own
    DENSITY = "density"  # at evenly spaced quantiles
    RANDOM = "random"  # distinct entries, drawn with the seed


@dataclass(frozen=True)
class Optimal:
    """The global minimum, by dynamic programming over the sorted entries."""


@dataclass(frozen=True)
class Lloyd:
    """Alternate assignment and means until nothing changes, or ``iterations`` times."""

    start: Start = Start.LINEAR
    iterations: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Unbiased:
    """The levels with the least variance of rounding at random to the two next to an entry: exact, at entries.

    ``min Σ d (u − w)(w − l)``, :func:`featherweight.schemes.kmeans.unbiased` (ZipML, Zhang et al. 2016, arXiv
    1611.05402). The code itself takes the nearest level; :func:`featherweight.training.stochastic.rounded_at_random`
    rounds as they are made for.
    """


@dataclass(frozen=True)
class Codebook(Scheme):
    """``min Σ d_i (w_i − c_{a(i)})²`` over at most ``size`` centroids ``c`` and assignments ``a``: k-means on a line.

    Exact by dynamic programming (:func:`featherweight.schemes.kmeans.optimal`), or Lloyd's local minimum; in a diagonal
    metric centroids are ``Σ d w / Σ d`` (Choi, El-Khamy and Lee 2016, arXiv 1612.01543, section 3). :class:`Unbiased`
    levels minimise another sum. Centroids are stored in float16 where its range holds them, else in float32; an empty
    cluster is dropped, and those that rounding makes equal are one. A tensor that has no more distinct entries than
    ``size`` is its own codebook. With ``rate``, assignments minimise ``d (w − c)² + λ bits`` for a frozen table;
    :class:`featherweight.schemes.entropy.EntropyConstrained` finds centroids and table too.
    """

    LARGEST: ClassVar[int] = 4096

    size: int = 16
    fit: Optimal | Lloyd | Unbiased = Lloyd()

    def __post_init__(self) -> None:
        if self.size == 1 and isinstance(self.fit, Unbiased):
            raise SchemeError("unbiased rounding needs two levels at least; take a codebook of 2 or more")
        if not 1 <= self.size <= self.LARGEST:
            raise SchemeError(f"a codebook of {self.size} entries is not in 1..{self.LARGEST}")

    @property
    def promise(self) -> Promise:  # type: ignore[override]
        return Promise.EXACT if isinstance(self.fit, Optimal) else Promise.LOCAL

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> CodebookCode:
        check_weight(w)
        x = w.detach().flatten().to(torch.float64)
        weights = metric.weights(w)
        d = None if weights is None else weights.flatten().to(torch.float64)
        if warm is not None:
            centroids = as_codebook(warm).centroids
        else:
            centroids = stored_centroids(self._centroids(x, d), w.dtype)
        return self._assigned(w, x, d, centroids, rate, drop=warm is None and rate is None)

    def _centroids(self, x: Tensor, d: Tensor | None) -> Tensor:
        distinct: Tensor = x.unique()  # type: ignore[no-untyped-call]
        if distinct.numel() <= self.size:
            return distinct
        match self.fit:
            case Optimal():
                return optimal(x, d, self.size)
            case Unbiased():
                return unbiased(x, d, self.size)
            case Lloyd(Start.LINEAR, iterations):
                low, high = x.min(), x.max()
                return lloyd(x, d, spread(low, high, self.size), iterations)
            case Lloyd(Start.DENSITY, iterations):
                at = (spread(low=x.new_zeros(()), high=x.new_ones(()), count=self.size) * (len(distinct) - 1)).long()
                return lloyd(x, d, x.sort().values[(at * (len(x) - 1)) // (len(distinct) - 1)], iterations)
            case Lloyd(Start.RANDOM, iterations, seed):
                generator = torch.Generator(device="cpu").manual_seed(seed)
                chosen = torch.randperm(len(distinct), generator=generator, device="cpu")[: self.size]
                return lloyd(x, d, distinct[chosen.to(x.device)].sort().values, iterations)
            case _:
                raise SchemeError(f"{self.fit} is no way to fit a codebook")

    def _assigned(
        self, w: Tensor, x: Tensor, d: Tensor | None, centroids: Code, rate: Rate | None, drop: bool
    ) -> CodebookCode:
        values = centroids.decode().detach().double()
        indices = nearest(x, values) if rate is None else rate.cheapest(x, d, values.unbind())
        if drop:
            centroids, indices = dropped(centroids, indices)
        return CodebookCode(tuple(w.shape), w.dtype, indices.reshape(w.shape).to(torch.int32), centroids)


def nearest(x: Tensor, values: Tensor) -> Tensor:
    """The index of the value that is nearest to each entry; of two that are as near, the lower value's."""
    order = values.argsort()
    ascending = values[order]
    return order[torch.bucketize(x, (ascending[1:] + ascending[:-1]) / 2)]


def stored_centroids(means: Tensor, dtype: torch.dtype) -> Floats:
    """Centroids of a weight of type ``dtype``: ascending, in float16 where its range holds them, equal ones once."""
    numbers = means.to(number_type(dtype))
    width = narrow(numbers)
    return Floats.holding(rounded(numbers, width).unique(), width)  # type: ignore[no-untyped-call]


def dropped(centroids: Code, indices: Tensor) -> tuple[Code, Tensor]:
    """The centroids that are used, and indices of these."""
    used, among = indices.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    if len(used) == centroids.shape[0]:
        return centroids, indices
    width = centroids.width if isinstance(centroids, Floats) else Width.FLOAT32
    return Floats.holding(centroids.decode()[used], width), among


def as_codebook(code: Code) -> CodebookCode:
    if not isinstance(code, CodebookCode):
        raise SchemeError(f"a warm start of a codebook scheme is a codebook code, not {type(code).__name__}")
    return code
