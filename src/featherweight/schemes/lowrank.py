"""Low rank: a matrix as the product of a tall and a wide one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, direct, number_type, part_streams, read_part
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight
from featherweight.schemes.floats import Float


@dataclass(frozen=True, eq=False)
class LowRankCode(Code):
    """``decode() = left @ right``, reshaped: the weight is the matrix [first dimension, all others]."""

    left: Code = direct()  # of shape [rows, rank]
    right: Code = direct()  # of shape [rank, columns]

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def decode(self) -> Tensor:
        return (self.left.decode() @ self.right.decode()).reshape(self.shape).to(self.dtype)

    def settings(self) -> tuple[int, ...]:
        return (self.rank,)

    def streams(self) -> Iterator[Stream]:
        yield from part_streams("left", self.left)
        yield from part_streams("right", self.right)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "LowRankCode":
        rows, columns = _matrix(shape)
        match layout.settings:
            case (rank,) if len(layout.parts) == 2 and 1 <= rank <= min(rows, columns):
                pass
            case _:
                raise FormatError(f"a low-rank code of shape {shape} has no settings {layout.settings}")
        numbers = number_type(dtype)
        left = read_part(layout, 0, (rows, rank), numbers, take, "left")
        return cls(shape, dtype, left, read_part(layout, 1, (rank, columns), numbers, take, "right"))


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) < 2:
        raise FormatError(f"a tensor of shape {shape} is no matrix")
    columns = 1
    for size in shape[1:]:
        columns *= size
    return shape[0], columns


@dataclass(frozen=True)
class Rank:
    """Exactly this rank (or the matrix's own, where that is smaller)."""

    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise SchemeError(f"a rank of {self.rank} is not 1 or more")


@dataclass(frozen=True)
class Price:
    """The rank that minimises ``‖W − UV‖² + price · rank · (rows + columns)``; at least 1.

    The compression step of low rank with learned ranks (Idelbayev and Carreira-Perpiñán 2020, CVPR, section 4): the
    rank ``r`` leaves ``Σ_{i>r} σ_i²``, so a singular value stays where ``σ_i² > price · (rows + columns)``.
    """

    price: float


@dataclass(frozen=True)
class LowRank(Scheme):
    """``min ‖W − U V‖²_F`` over ``U`` [rows, r] and ``V`` [r, columns]: the truncated singular value decomposition.

    Exact (Eckart and Young 1936) in the Euclidean metric where ``factors`` keeps the factors as they are, and exact
    over ranks for a :class:`Price`. The singular values are split evenly, ``U √Σ`` and ``√Σ V``.
    """

    rank: Rank | Price
    factors: Scheme = Float()

    @property
    def promise(self) -> Promise:  # type: ignore[override]
        """Exact where the factors are kept as they are; factors that are rounded one by one are a rule."""
        kept = isinstance(self.factors, Float) and self.factors.width is None
        return Promise.EXACT if kept else Promise.RULE

    def then(self, factors: Scheme) -> Self:
        """The same factors, stored by another scheme."""
        return replace(self, factors=factors)

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> LowRankCode:
        check_weight(w)
        if w.ndim < 2:
            raise SchemeError(f"a tensor of shape {tuple(w.shape)} is no matrix; leave it out of the sites")
        if metric.weights(w) is not None:
            raise SchemeError("low rank projects in the Euclidean metric only; take that metric for its stage")
        numbers = number_type(w.dtype)
        u, s, v = torch.linalg.svd(w.detach().flatten(1).double(), full_matrices=False)
        rank = self._rank(s, w) if warm is None else min(_as_low_rank(warm).rank, len(s))
        root = s[:rank].sqrt()
        left = self.factors.project((u[:, :rank] * root).to(numbers))
        right = self.factors.project((root[:, None] * v[:rank]).to(numbers))
        return LowRankCode(tuple(w.shape), w.dtype, left, right)

    def _rank(self, s: Tensor, w: Tensor) -> int:
        match self.rank:
            case Rank(rank):
                return min(rank, len(s))
            case Price(price):
                rows, columns = _matrix(tuple(w.shape))
                return max(1, int((s.square() > price * (rows + columns)).sum()))


def _as_low_rank(code: Code) -> LowRankCode:
    if not isinstance(code, LowRankCode):
        raise SchemeError(f"a warm start of a low-rank scheme is a low-rank code, not {type(code).__name__}")
    return code
