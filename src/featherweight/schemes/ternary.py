"""Ternary weights: minus, zero or plus."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, direct, latent, number_type, part_streams, read_part
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight
from featherweight.schemes.floats import positive, stored
from featherweight.schemes.uniform import (
    Granularity,
    Grid,
    PerTensor,
    Uniform,
    UniformCode,
    block_count,
    blocks,
    granularity_of,
    spread_of,
    unblocked,
)

GRID = Grid(2, True)
"""The levels −1, 0 and 1."""


@dataclass(frozen=True)
class Ternary(Scheme):
    """``min Σ d (w − s t)²`` over ``t ∈ {−1, 0, 1}ⁿ`` and one scale ``s`` a block: the global minimum.

    For a support ``S`` the best scale is ``Σ_S d |w| / Σ_S d``, which takes ``(Σ_S d |w|)² / Σ_S d`` off the error; for
    a scale the best support is ``|w| > s/2``. So the best support holds the ``j`` largest magnitudes, and ``j`` is the
    largest gain of a cumulated sum over the sorted block. Without weights the gain is ``(Σ_{i ≤ j} |w|_i)² / j`` (the
    problem of Li, Zhang and Liu 2016, arXiv 1605.04711, equation 5, which they solve by a threshold:
    :class:`ThresholdTernary`). The scale is then rounded to its stored width, and levels to the nearest.

    Latent learning is that of the uniform code with these levels (:class:`featherweight.schemes.uniform.Uniform`).
    """

    granularity: Granularity = PerTensor()
    promise: ClassVar[Promise] = Promise.EXACT

    @property
    def uniform(self) -> Uniform:
        """The scheme of the same codes whose scales are given."""
        return Uniform(2, True, self.granularity)

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> UniformCode:
        check_weight(w)
        if warm is None:
            weights = metric.weights(w)
            d = None if weights is None else blocks(weights, self.granularity).double()
            best = _best_scales(blocks(w.detach(), self.granularity).double(), d)
            warm = _with_scales(w, best, self.granularity)
        return self.uniform.project(w, metric, warm=warm, rate=rate)

    def through(self, w: Tensor, code: Code) -> Tensor:
        return self.uniform.through(w, code)


@dataclass(frozen=True)
class ThresholdTernary(Scheme):
    """``t = sign(w)`` where ``|w| > Δ = share · mean|w|``, else 0, and ``s`` the mean of those ``|w|``.

    Ternary weight networks (Li, Zhang and Liu 2016, arXiv 1605.04711, equations 5 and 6: a share of 0.7 is near the
    optimum of uniform and of normal weights; :class:`Ternary` is at it). It is a rule, and the metric does not matter.
    Threshold and scale follow the weight: a warm start does not keep them. Backward: straight through.
    """

    share: float = 0.7
    granularity: Granularity = PerTensor()
    promise: ClassVar[Promise] = Promise.RULE

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise SchemeError(f"a threshold of {self.share:g} times the mean is not in [0, 1), and could keep nothing")

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> UniformCode:
        check_weight(w)
        matrix = blocks(w.detach(), self.granularity)
        size = matrix.to(number_type(w.dtype)).abs()
        over = size > self.share * size.mean(1, keepdim=True)
        scales = stored(positive((size * over).sum(1) / over.sum(1).clamp(min=1)))
        levels = unblocked((over * matrix.sign()).to(torch.int16), tuple(w.shape), self.granularity)
        return UniformCode(tuple(w.shape), w.dtype, levels, scales, None, GRID, self.granularity)


def _best_scales(matrix: Tensor, d: Tensor | None) -> Tensor:
    """[blocks]: the scale of the best support, the magnitudes in descending order being added one by one."""
    size, order = matrix.abs().sort(dim=1, descending=True)
    mass = torch.ones_like(size) if d is None else d.gather(1, order)
    total, masses = (mass * size).cumsum(1), mass.cumsum(1)
    gain = torch.where(masses > 0, total.square() / masses, 0)
    best = gain.argmax(1, keepdim=True)
    scales = total.gather(1, best) / masses.gather(1, best)
    return torch.where(masses.gather(1, best) > 0, scales, size[:, :1])[:, 0]


def _with_scales(w: Tensor, scales: Tensor, granularity: Granularity) -> UniformCode:
    """A code with these scales, and zeros for levels."""
    levels = torch.zeros(w.shape, dtype=torch.int16, device=w.device)
    kept = stored(positive(scales.to(number_type(w.dtype))))
    return UniformCode(tuple(w.shape), w.dtype, levels, kept, None, GRID, granularity)


@dataclass(frozen=True, eq=False)
class TernaryCode(Code):
    """``decode() = plus`` where the level is 1, ``−minus`` where it is −1, else 0: two numbers a block."""

    levels: Tensor = latent()  # int16 of the code's shape: −1, 0 or 1
    plus: Code = direct()  # of shape [blocks]
    minus: Code = direct()  # of shape [blocks]
    granularity: Granularity = PerTensor()

    @property
    def bits(self) -> int:
        return 2

    def decode(self) -> Tensor:
        levels = blocks(self.levels, self.granularity)
        plus, minus = self.plus.decode()[:, None], self.minus.decode()[:, None]
        matrix = torch.where(levels > 0, plus, torch.where(levels < 0, -minus, torch.zeros_like(minus)))
        return unblocked(matrix, self.shape, self.granularity).to(self.dtype)

    def settings(self) -> tuple[int, ...]:
        return spread_of(self.granularity)

    def streams(self) -> Iterator[Stream]:
        yield Stream("levels", self.levels.long() + 1, 3)
        yield from part_streams("plus", self.plus)
        yield from part_streams("minus", self.minus)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "TernaryCode":
        granularity = granularity_of(layout.settings, shape)
        if granularity is None or len(layout.parts) != 2:
            raise FormatError(
                f"a ternary code of shape {shape} has no settings {layout.settings} and {len(layout.parts)} parts"
            )
        levels = take("levels", shape, 3).to(torch.int16) - 1
        count = (block_count(granularity, shape),)
        numbers = number_type(dtype)
        plus, minus = (read_part(layout, i, count, numbers, take, name) for i, name in enumerate(("plus", "minus")))
        return cls(shape, dtype, levels, plus, minus, granularity)


@dataclass(frozen=True)
class TrainedTernary(Scheme):
    """``W_p`` where ``w > Δ``, ``−W_n`` where ``w < −Δ``, else 0, with ``Δ = threshold · max|w|`` of a block.

    Trained ternary quantization (Zhu, Han, Mao and Dally 2016, arXiv 1612.01064, equations 6 and 9). It is a rule, and
    the metric does not matter. ``W_p`` and ``W_n`` start as the means of the magnitudes that have them, and are there
    to be learned with the latent weight. Backward (equations 7 and 8): ``∂L/∂W_p = Σ g`` over the positive entries,
    ``∂L/∂W_n = −Σ g`` over the negative ones, with ``g = ∂L/∂decoded``, and ``∂L/∂w`` is ``W_p g``, ``W_n g`` or ``g``
    where ``w`` is positive, negative or zero. Stored in float16 where its range holds both, else in float32.
    """

    threshold: float = 0.05
    granularity: Granularity = PerTensor()
    promise: ClassVar[Promise] = Promise.RULE

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise SchemeError(f"a threshold of {self.threshold:g} times the largest magnitude is not in [0, 1)")

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> TernaryCode:
        check_weight(w)
        matrix = blocks(w.detach(), self.granularity)
        matrix = matrix.to(number_type(w.dtype))
        levels = self._levels(matrix)
        if warm is not None:
            plus, minus = _as_ternary(warm).plus, _as_ternary(warm).minus
        else:
            plus, minus = (stored(positive(_mean(matrix.abs(), levels == sign))) for sign in (1, -1))
        kept = unblocked(levels, tuple(w.shape), self.granularity)
        return TernaryCode(tuple(w.shape), w.dtype, kept, plus, minus, self.granularity)

    def through(self, w: Tensor, code: Code) -> Tensor:
        before = _as_ternary(code)
        matrix = blocks(w, self.granularity).to(before.plus.dtype)
        levels = self._levels(matrix.detach())
        plus, minus = before.plus.decode()[:, None], before.minus.decode()[:, None]
        y: Tensor = _Trained.apply(matrix, levels, plus, minus)  # type: ignore[no-untyped-call]
        return unblocked(y, before.shape, self.granularity).to(w.dtype)

    def _levels(self, matrix: Tensor) -> Tensor:
        over = matrix.abs() > self.threshold * matrix.abs().amax(1, keepdim=True)
        return (over * matrix.sign()).to(torch.int16)


class _Trained(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, w: Tensor, levels: Tensor, plus: Tensor, minus: Tensor) -> Tensor:
        ctx.save_for_backward(levels, plus, minus)  # type: ignore[attr-defined]
        return torch.where(levels > 0, plus, torch.where(levels < 0, -minus, torch.zeros_like(minus)))

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        levels, plus, minus = ctx.saved_tensors  # type: ignore[attr-defined]
        factor = torch.where(levels > 0, plus, torch.where(levels < 0, minus, torch.ones_like(minus)))
        of_plus = (gradient * (levels > 0)).sum(1, keepdim=True)
        of_minus = -(gradient * (levels < 0)).sum(1, keepdim=True)
        return gradient * factor, None, of_plus, of_minus


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum(1) / where.sum(1).clamp(min=1)


def _as_ternary(code: Code) -> TernaryCode:
    if not isinstance(code, TernaryCode):
        raise SchemeError(f"a warm start of a trained ternary scheme is a ternary code, not {type(code).__name__}")
    return code
