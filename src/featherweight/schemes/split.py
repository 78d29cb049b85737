"""Tensors in two parts: entries inside a mask have one code, those outside another."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, direct, fixed, part_streams, read_part
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight
from featherweight.schemes.floats import Floats, Width


@dataclass(frozen=True, eq=False)
class SplitCode(Code):
    """``decode()`` holds ``inside.decode()`` where ``mask`` is true and ``outside.decode()`` elsewhere, row-major."""

    mask: Tensor = fixed()  # bool, of the code's shape
    inside: Code = direct()  # of shape [entries in the mask]
    outside: Code = direct()  # of shape [the other entries]

    def decode(self) -> Tensor:
        inside, outside = self.inside.decode(), self.outside.decode()
        return merged(self.mask, inside, outside)

    def settings(self) -> tuple[int, ...]:
        return ()

    def streams(self) -> Iterator[Stream]:
        yield Stream("mask", self.mask.to(torch.uint8), 2)
        yield from part_streams("inside", self.inside)
        yield from part_streams("outside", self.outside)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "SplitCode":
        if layout.settings or len(layout.parts) != 2:
            raise FormatError("a split code has two parts and no settings")
        mask = take("mask", shape, 2).bool()
        count = int(mask.sum())
        inside = read_part(layout, 0, (count,), dtype, take, "inside")
        return cls(shape, dtype, mask, inside, read_part(layout, 1, (prod(shape) - count,), dtype, take, "outside"))


def merged(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """The tensor of the mask's shape with these entries where it is true, and those where it is not, row-major."""
    empty = outside.new_zeros(mask.shape)
    return empty.masked_scatter(mask, inside).masked_scatter(~mask, outside)


def largest(score: Tensor, share: float) -> Tensor:
    """The mask of the ``round(share · n)`` entries with the largest score; of equal ones, those that come first."""
    mask = torch.zeros_like(score, dtype=torch.bool).flatten()
    mask[score.flatten().argsort(descending=True, stable=True)[: round(share * score.numel())]] = True
    return mask.reshape(score.shape)


@dataclass(frozen=True)
class Split(Scheme):
    """The ``share`` of entries with the largest ``√d |w|`` is coded by ``inside``, the others by ``outside``.

    Few large entries stretch the range of all levels; kept as floats, they leave the others a finer step (Park, Yoo and
    Vajda 2018, arXiv 1804.07802, of activations and gradients; Kim et al. 2023, arXiv 2306.07629, of weights). The mask
    is chosen before the two codes are known, so the whole is a rule, whatever its parts promise. A part without entries
    is stored as floats.
    """

    inside: Scheme
    outside: Scheme
    share: float = 0.01
    promise: ClassVar[Promise] = Promise.RULE

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise SchemeError(f"a share of {self.share} is not between 0 and 1; 0.01 puts one entry in 100 inside")

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> SplitCode:
        check_weight(w)
        before = None if warm is None else as_split(warm)
        mask = largest(metric.importance(w), self.share) if before is None else before.mask
        inside = _part(self.inside, w[mask], metric.select(mask), before and before.inside)
        outside = _part(self.outside, w[~mask], metric.select(~mask), before and before.outside)
        return SplitCode(tuple(w.shape), w.dtype, mask, inside, outside)

    def through(self, w: Tensor, code: Code) -> Tensor:
        """Each part's own backward rule on its entries."""
        split = as_split(code)
        inside = _through(self.inside, w[split.mask], split.inside)
        return merged(split.mask, inside, _through(self.outside, w[~split.mask], split.outside))


def _part(scheme: Scheme, w: Tensor, metric: Metric, warm: Code | None) -> Code:
    if w.numel():
        return scheme.project(w, metric, warm=warm)
    return Floats.holding(w.detach().clone(), Width.of(w.dtype))


def _through(scheme: Scheme, w: Tensor, code: Code) -> Tensor:
    return scheme.through(w, code) if w.numel() else w


def as_split(code: Code) -> SplitCode:
    if not isinstance(code, SplitCode):
        raise SchemeError(f"a warm start of a split scheme is a split code, not {type(code).__name__}")
    return code
