"""The one table of the law suite: every scheme, in representative settings. A new scheme joins by being listed here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featherweight.core.metric import EUCLIDEAN, Diagonal, Metric
from featherweight.core.scheme import Scheme
from featherweight.schemes.allocated import EqualNoise, WithinNoise
from featherweight.schemes.balanced import Balanced
from featherweight.schemes.binary import Binary, glorot, mean_magnitude
from featherweight.schemes.codebook import Codebook, Lloyd, Optimal, Start, Unbiased
from featherweight.schemes.entropy import Cells, EntropyConstrained, MeanBits, Multiplier
from featherweight.schemes.fixed_point import FixedPoint
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.incremental import Choice, Incremental
from featherweight.schemes.joint import Joint
from featherweight.schemes.logarithmic import Base, Logarithmic, Rounding, ShiftSum, incremental
from featherweight.schemes.lowrank import LowRank, Price, Rank
from featherweight.schemes.mixture import Mixture
from featherweight.schemes.multipliers import AugmentedLagrangian, QuadraticPenalty
from featherweight.schemes.plus import Plus
from featherweight.schemes.product import Product
from featherweight.schemes.shifted import Shifted
from featherweight.schemes.shrinkage import L1Ball, L1Penalty, Shrunk
from featherweight.schemes.sparse import (
    Deviations,
    Dropping,
    Fraction,
    Gradient,
    Halves,
    L0Penalty,
    Magnitude,
    NToM,
    PermutedNToM,
    RowFraction,
    Scope,
    Sparse,
    Surgery,
)
from featherweight.schemes.split import Split
from featherweight.schemes.structures import Blocks, Channels, Columns, Filters, Kernels, Norm, Vectors
from featherweight.schemes.tables import Table, Tabled
from featherweight.schemes.tanh import TanhUniform
from featherweight.schemes.ternary import Ternary, ThresholdTernary, TrainedTernary
from featherweight.schemes.uniform import Fit, PerChannel, PerGroup, PerTensor, Uniform, blocks, unblocked
from featherweight.schemes.waterfilling import Waterfilling
from featherweight.solvers.surgeon import Surgeon

Start_ = Callable[[Tensor, Metric], Tensor]
"""(weight, metric) -> the decoded tensor that a local scheme's documentation says it starts from."""


@dataclass(frozen=True)
class Entry:
    """A scheme and what it can take, as its documentation says; laws read nothing else.

    min_dims   the least number of dimensions of a weight
    divides    a number that must divide the rows of a weight (its entries, where it has one dimension)
    diagonal   whether it projects in a diagonal metric
    overflow   the largest magnitude that it can hold
    underflow  the least that the largest magnitude may be: below it there is nothing but zeros to hold
    start      what a local scheme starts from
    drawn      whether learning sees a draw, and not the projection
    """

    scheme: Scheme
    min_dims: int = 0
    divides: int = 1
    diagonal: bool = True
    overflow: float = float("inf")
    underflow: float = 0.0
    start: Start_ | None = None
    drawn: bool = False

    def takes(self, w: Tensor) -> bool:
        row = w[0].numel() if w.ndim > 1 else w.numel()
        return w.ndim >= self.min_dims and row % self.divides == 0 and float(w.abs().max()) <= self.overflow

    def shows(self, w: Tensor) -> bool:
        return float(w.abs().max()) >= self.underflow

    def metrics(self, w: Tensor) -> list[Metric]:
        return [EUCLIDEAN, Diagonal(importances(w))] if self.diagonal else [EUCLIDEAN]


def importances(w: Tensor) -> Tensor:
    """A diagonal with entries of very different size, some of them zero."""
    generator = torch.Generator().manual_seed(w.numel())
    return torch.rand(w.shape, generator=generator).pow(4) * (torch.rand(w.shape, generator=generator) > 0.1)


def full_range(scheme: Uniform) -> Start_:
    """Rounding to nearest, where the largest entry is the largest level (the mean magnitude, for the levels ±1)."""

    def start(w: Tensor, metric: Metric) -> Tensor:
        matrix, grid = blocks(w.double(), scheme.granularity), scheme.grid
        if not scheme.symmetric:
            low, high = matrix.amin(1, keepdim=True).clamp(max=0), matrix.amax(1, keepdim=True).clamp(min=0)
            scale = (high - low) / grid.high
            scale[scale == 0] = 1
            zero = (-low / scale).round()
            decoded = ((matrix / scale + zero).round().clamp(0, grid.high) - zero) * scale
        elif scheme.bits == 1:
            d = torch.ones_like(matrix) if (found := metric.weights(w)) is None else blocks(found, scheme.granularity)
            scale = (matrix.abs() * d).sum(1, keepdim=True) / d.sum(1, keepdim=True).clamp(min=1e-30)
            scale[scale == 0] = 1
            decoded = torch.where(matrix >= 0, scale, -scale)
        elif scheme.odd:
            scale = matrix.abs().amax(1, keepdim=True) / grid.high
            scale[scale == 0] = 1
            levels = torch.arange(grid.low, grid.high + 1, 2, dtype=torch.float64)
            decoded = levels[((matrix / scale)[..., None] - levels).abs().argmin(-1)] * scale
        else:
            scale = matrix.abs().amax(1, keepdim=True) / grid.high
            scale[scale == 0] = 1
            if scheme.fit is Fit.POWER_OF_TWO:
                scale = 2.0 ** torch.log2(scale).ceil()
            decoded = (matrix / scale).round() * scale
        return unblocked(decoded, tuple(w.shape), scheme.granularity)

    return start


def even(size: int) -> Start_:
    """The nearest of ``size`` values that lie evenly from the smallest to the largest entry."""

    def start(w: Tensor, metric: Metric) -> Tensor:
        return nearest(w, torch.linspace(float(w.min()), float(w.max()), size, dtype=torch.float64))

    return start


def quantiles(size: int) -> Start_:
    """The nearest of ``size`` values at evenly spaced quantiles."""

    def start(w: Tensor, metric: Metric) -> Tensor:
        ordered = w.double().flatten().sort().values
        return nearest(w, ordered[torch.linspace(0, len(ordered) - 1, size).long()])

    return start


def nearest(w: Tensor, values: Tensor) -> Tensor:
    return values[(w.double().flatten()[:, None] - values).abs().argmin(1)].reshape(w.shape)


def uniform(scheme: Uniform, **settings: Any) -> Entry:
    return Entry(scheme, start=full_range(scheme), **settings)


TABLE: dict[str, Entry] = {
    "own float": Entry(Float()),
    "float16": Entry(Float(Width.FLOAT16), overflow=6e4),
    "bfloat16": Entry(Float(Width.BFLOAT16)),
    "float32": Entry(Float(Width.FLOAT32)),
    "float64": Entry(Float(Width.FLOAT64)),
    "half zero": Entry(Sparse(Fraction(0.5))),
    "nine in ten zero": Entry(Sparse(Fraction(0.9), gradient=Gradient.DENSE)),
    "none zero": Entry(Sparse(Fraction(0.0))),
    "the non-zero": Entry(Sparse(Magnitude())),
    "above a threshold": Entry(Sparse(Magnitude(0.5))),
    "above a deviation": Entry(Sparse(Deviations(1.0))),
    "surgery": Entry(Sparse(Surgery(0.5), gradient=Gradient.DENSE)),
    "surgery on int4": Entry(Sparse(Surgery(0.2), gradient=Gradient.DENSE).then(Uniform(4))),
    "dropping": Entry(Sparse(Dropping(0.7), gradient=Gradient.RESTING)),
    "from both halves": Entry(Sparse(Halves(0.5))),
    "global share": Entry(Sparse(Fraction(0.7), scope=Scope.GLOBAL)),
    "two of four": Entry(Sparse(NToM(2, 4))),
    "two of four in int4": Entry(Sparse(NToM(2, 4)).then(Uniform(4))),
    "half of every row": Entry(Sparse(RowFraction(0.5))),
    "at a price": Entry(Sparse(L0Penalty(0.1))),
    "two of four channels, permuted": Entry(Sparse(PermutedNToM(2, 4)), min_dims=2),
    "one of three channels, permuted, in int4": Entry(Sparse(PermutedNToM(1, 3)).then(Uniform(4)), min_dims=2),
    "half of the filters": Entry(GroupSparse(Fraction(0.5), structure=Filters()), min_dims=1),
    "half of the channels": Entry(GroupSparse(Fraction(0.5), structure=Channels()), min_dims=2),
    "two columns in three": Entry(GroupSparse(Fraction(0.67), structure=Columns()), min_dims=2),
    "kernels above a threshold": Entry(GroupSparse(Magnitude(0.5), structure=Kernels()), min_dims=2),
    "vectors at a price": Entry(GroupSparse(L0Penalty(0.2), structure=Vectors(1), gradient=Gradient.DENSE)),
    "blocks of two by three": Entry(GroupSparse(Fraction(0.6), structure=Blocks(2, 3))),
    "runs above a deviation": Entry(GroupSparse(Deviations(1.0), structure=Blocks(1, 4, norm=Norm.RMS))),
    "runs of four in int4": Entry(GroupSparse(Fraction(0.5), structure=Blocks(1, 4)).then(Uniform(4))),
    "kernels in a codebook": Entry(
        GroupSparse(Fraction(0.3), structure=Kernels()).then(Codebook(3, Optimal())), min_dims=2
    ),
    "one of two columns by their sums": Entry(GroupSparse(NToM(1, 2), structure=Columns(norm=Norm.L1)), min_dims=2),
    "a global share of runs": Entry(
        GroupSparse(Fraction(0.6), scope=Scope.GLOBAL, structure=Blocks(1, 4, norm=Norm.RMS)).then(Joint(Codebook(4)))
    ),
    "shrunk at a price": Entry(Shrunk(L1Penalty(0.1)), diagonal=False),
    "shrunk into a ball": Entry(Shrunk(L1Ball(3.0)), diagonal=False),
    "under a rising penalty": Entry(QuadraticPenalty(Sparse(Fraction(0.6)))),
    "with multipliers": Entry(AugmentedLagrangian(Codebook(3, Optimal()), growth=1.2)),
    "sparse float16": Entry(Sparse(Fraction(0.5)).then(Float(Width.FLOAT16)), overflow=6e4, underflow=1e-7),
    "sparse codebook": Entry(Sparse(Fraction(0.5)).then(Codebook(4))),
    "sparse best codebook": Entry(Sparse(Magnitude()).then(Codebook(3, Optimal()))),
    "codebook above a deviation": Entry(Sparse(Deviations(0.5)).then(Codebook(3, Optimal()))),
    "sparse uniform": Entry(Sparse(Fraction(0.25), gradient=Gradient.DENSE).then(Uniform(4))),
    "sparse in sparse": Entry(Sparse(Fraction(0.5)).then(Sparse(Fraction(0.5)))),
    "int8": uniform(Uniform()),
    "int8 a channel": uniform(Uniform(8, True, PerChannel()), min_dims=1),
    "int4 an input": uniform(Uniform(4, True, PerChannel(1)), min_dims=2),
    "int4 a group": uniform(Uniform(4, True, PerGroup(4)), divides=4),
    "int3 searched": uniform(Uniform(3, True, PerTensor(), Fit.SEARCH)),
    "int4 searched a channel": uniform(Uniform(4, True, PerChannel(), Fit.SEARCH), min_dims=1),
    "int4 fixed point a channel": uniform(Uniform(4, True, PerChannel(), Fit.POWER_OF_TWO), min_dims=1),
    "equal noise": Entry(EqualNoise(4.5, Uniform())),
    "within noise": Entry(WithinNoise(1e300, Uniform())),
    "int2": uniform(Uniform(2)),
    "odd int2": uniform(Uniform(2, odd=True), underflow=1e-30),
    "odd int3 searched a channel": uniform(
        Uniform(3, True, PerChannel(), Fit.SEARCH, odd=True), min_dims=1, underflow=1e-30
    ),
    "behind a tanh": Entry(TanhUniform(2)),
    "bins of equal population": Entry(Balanced(2)),
    "halves": Entry(Balanced(1)),
    "levels of a layer's size": Entry(Shifted(2), underflow=1.0),
    "fine levels of a layer's size": Entry(Shifted(8), underflow=0.1),
    "signs behind a tanh": Entry(TanhUniform(1)),
    "one bit": uniform(Uniform(1)),
    "one bit a channel": uniform(Uniform(1, True, PerChannel()), min_dims=1),
    "signs of a given magnitude": Entry(Binary(0.25)),
    "signs of Glorot's magnitude": Entry(Binary(glorot), min_dims=2),
    "drawn signs": Entry(Binary(mean_magnitude, stochastic=True), underflow=1e-30, drawn=True),
    "fixed point": Entry(FixedPoint(2, 14), underflow=1e-4),
    "short fixed point": Entry(FixedPoint(1, 3), underflow=0.1),
    "whole numbers": Entry(FixedPoint(8, 0), underflow=1.0),
    "uint8": uniform(Uniform(8, False)),
    "uint4 a channel": uniform(Uniform(4, False, PerChannel()), min_dims=1),
    "uint3 searched a group": uniform(Uniform(3, False, PerGroup(2), Fit.SEARCH), divides=2),
    "uint1": uniform(Uniform(1, False)),
    "powers of two": Entry(Logarithmic(4, search=True)),
    "powers of two a channel": Entry(Logarithmic(3, granularity=PerChannel(), search=True), min_dims=1),
    "powers of two without zero": Entry(Logarithmic(4, zero=False, search=True)),
    "powers of a root a group": Entry(Logarithmic(5, Base.ROOT, granularity=PerGroup(2), search=True), divides=2),
    "incremental": Entry(incremental(3)),
    "rounded exponents": Entry(Logarithmic(8, Base.ROOT, rounding=Rounding.LOGARITHMIC)),
    "scaled powers of two": Entry(Logarithmic(3, scaled=True, granularity=PerChannel()), min_dims=1),
    "shifts": Entry(ShiftSum(2, 3)),
    "three shifts a channel": Entry(ShiftSum(3, 7, PerChannel()), min_dims=1),
    "ternary": Entry(Ternary()),
    "ternary a channel": Entry(Ternary(PerChannel()), min_dims=1),
    "ternary by a threshold": Entry(ThresholdTernary()),
    "trained ternary": Entry(TrainedTernary(0.2)),
    "trained ternary a group": Entry(TrainedTernary(0.05, PerGroup(4)), divides=4),
    "waterfilling": Entry(Waterfilling(1e-3)),
    "waterfilling, few bits": Entry(Waterfilling(1e-6, bits=4, headroom=1.0)),
    "dynamic tree": Entry(Tabled()),
    "minifloat a channel": Entry(Tabled(Table.MINIFLOAT, PerChannel()), min_dims=1),
    "best codebook of 1": Entry(Codebook(1, Optimal())),
    "best codebook of 5": Entry(Codebook(5, Optimal())),
    "codebook": Entry(Codebook(16), start=even(16)),
    "codebook from quantiles": Entry(Codebook(8, Lloyd(Start.DENSITY)), start=quantiles(8)),
    "codebook from a draw": Entry(Codebook(4, Lloyd(Start.RANDOM, seed=3))),
    "codebook of one step": Entry(Codebook(6, Lloyd(iterations=1)), start=even(6)),
    "large codebook": Entry(Codebook(300), start=even(300)),
    "a price a bit": Entry(EntropyConstrained(Multiplier(0.05))),
    "a mean of bits": Entry(EntropyConstrained(MeanBits(1.5))),
    "bins of a mean of bits": Entry(EntropyConstrained(MeanBits(2), Cells.BINS)),
    "sparse at a price a bit": Entry(Sparse(Fraction(0.5)).then(EntropyConstrained(Multiplier(0.01)))),
    "unbiased levels": Entry(Codebook(5, Unbiased())),
    "one codebook": Entry(Joint(Codebook(16)), start=even(16)),
    "one codebook at a price a bit": Entry(Joint(EntropyConstrained(Multiplier(0.05)))),
    "one codebook of a mean of bits": Entry(Joint(EntropyConstrained(MeanBits(1.5)))),
    "one codebook for survivors": Entry(Sparse(Fraction(0.7), scope=Scope.GLOBAL).then(Joint(Codebook(6)))),
    "one unsparse codebook": Entry(Sparse(Magnitude()).then(Joint(EntropyConstrained(Multiplier(0.05))))),
    "rank 1": Entry(LowRank(Rank(1)), min_dims=2, diagonal=False),
    "rank 3": Entry(LowRank(Rank(3)), min_dims=2, diagonal=False),
    "priced rank": Entry(LowRank(Price(0.5)), min_dims=2, diagonal=False),
    "rank 2 in float16": Entry(LowRank(Rank(2)).then(Float(Width.FLOAT16)), min_dims=2, diagonal=False),
    "rank 2 in int8": Entry(LowRank(Rank(2)).then(Uniform(8)), min_dims=2, diagonal=False),
    "large ones in float16": Entry(Split(Float(Width.FLOAT16), Uniform(4), 0.1), overflow=6e4, underflow=1e-7),
    "half in a codebook": Entry(Split(Codebook(4), Sparse(Fraction(0.5)), 0.5)),
    "half quantized": Entry(Incremental(Uniform(4), share=0.5)),
    "a random half quantized": Entry(Incremental(Codebook(2), Choice.RANDOM, 0.5)),
    "all quantized": Entry(Incremental(Codebook(5, Optimal()))),
    "mixture": Entry(Mixture(5, zero=0.5)),
    "operated on": Entry(Surgeon(0.5)),
    "products of pairs": Entry(Product(2, 3), min_dims=2),
    "products of outputs": Entry(Product(3, 4, dimension=0), min_dims=1),
    "one codebook of fours": Entry(Product(4, 5, shared=True), min_dims=2),
    "whole rows": Entry(Product(None, 4), min_dims=2),
    "rows and what is left of them": Entry(Plus(Product(None, 3), Product(None, 3)), min_dims=2),
    "signs plus signs": Entry(Plus(Uniform(1), Uniform(1))),
    "rank 1 plus signs": Entry(Plus(LowRank(Rank(1)), Uniform(1)), min_dims=2, diagonal=False),
    "rank 2 in a codebook": Entry(LowRank(Rank(2)).then(Codebook(8)), min_dims=2, diagonal=False),
}


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _heavy(*shape: int) -> Tensor:
    """Student's t with two degrees of freedom: no variance."""
    return _draw(*shape) / (_draw(2, *shape, seed=1).square().mean(0) + 1e-6).sqrt()


def _outlier(*shape: int) -> Tensor:
    w = _draw(*shape).flatten()
    w[3] = 3e4
    return w.reshape(shape)


WEIGHTS: dict[str, Tensor] = {
    "normal": _draw(6, 8),
    "heavy-tailed": _heavy(8, 12),
    "zeros in it": _draw(6, 8) * (_draw(6, 8, seed=2) > 0),
    "all zeros": torch.zeros(4, 4),
    "constant": torch.full((4, 8), 0.3),
    "negative constant": torch.full((4, 8), -0.3),
    "one outlier": _outlier(6, 8),
    "tiny": _draw(4, 8) * 1e-9,
    "huge": _draw(4, 8) * 1e9,
    "near each other": 1 + 1e-5 * _draw(4, 4),
    "all positive": _draw(4, 8).abs() + 0.1,
    "mirrored": torch.cat([_draw(4, 4), -_draw(4, 4)], 1),
    "tiny and mirrored": torch.cat([_draw(4, 4, seed=2), -_draw(4, 4, seed=2)], 1) * 1e-9,
    "rows of one": _draw(8, 1),
    "one row": _draw(1, 8),
    "one entry": _draw(1),
    "rank 0": _draw(),
    "rank 1": _draw(24),
    "rank 3": _draw(3, 2, 4),
    "rank 4": _draw(4, 3, 2, 2),
    "rank 5": _draw(2, 2, 2, 1, 2),
    "transposed": _draw(8, 6).t(),
    "float64": _draw(6, 8, seed=5).double() * torch.tensor(1 + 2**-40, dtype=torch.float64),
    "float16": _draw(6, 8).half(),
    "bfloat16": _draw(6, 8).bfloat16(),
}

PAIRS = [(name, weight) for name in TABLE for weight in WEIGHTS]
"""(name in TABLE, name in WEIGHTS)"""

CASES = [(n, w) for n, w in PAIRS if TABLE[n].takes(WEIGHTS[w]) and TABLE[n].shows(WEIGHTS[w])]
REFUSED = [(n, w) for n, w in PAIRS if not TABLE[n].takes(WEIGHTS[w])]

FAMILIES = ("bfloat16", "nine in ten zero", "int4 a group", "uint8", "best codebook of 5", "sparse uniform", "rank 3")
"""One of every family, names in TABLE; none can write all that another one makes."""
