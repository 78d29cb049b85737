"""Sums: a tensor as one code plus another."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, direct, number_type, part_streams, read_part
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight


@dataclass(frozen=True, eq=False)
class PlusCode(Code):
    """``decode() = first.decode() + second.decode()``; both of the code's shape, added in float32 or wider."""

    first: Code = direct()
    second: Code = direct()

    def decode(self) -> Tensor:
        return (self.first.decode() + self.second.decode()).to(self.dtype)

    def settings(self) -> tuple[int, ...]:
        return ()

    def streams(self) -> Iterator[Stream]:
        yield from part_streams("first", self.first)
        yield from part_streams("second", self.second)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "PlusCode":
        if layout.settings or len(layout.parts) != 2:
            raise FormatError("a sum has two parts and no settings")
        numbers = number_type(dtype)
        first = read_part(layout, 0, shape, numbers, take, "first")
        return cls(shape, dtype, first, read_part(layout, 1, shape, numbers, take, "second"))


@dataclass(frozen=True)
class Plus(Scheme):
    """``first`` projects the weight, and ``second`` what ``first`` leaves of it: the greedy residual.

    Residual binarization is a sum of signs with a scale each (Guo, Yao, Zhao and Chen 2017, arXiv 1706.02021); low rank
    plus sparse, and values with outliers, are sums too. The first code is not chosen again once the second is known, so
    it is a rule. Sums of more than two nest in ``second``.

    Backward: straight through to the weight; the numbers of both codes get the derivative of decoding, symbols fixed.
    """

    first: Scheme
    second: Scheme
    promise: ClassVar[Promise] = Promise.RULE

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> PlusCode:
        check_weight(w)
        before = None if warm is None else _as_plus(warm)
        wide = w.detach().to(number_type(w.dtype))
        first = self.first.project(wide, metric, warm=before and before.first, rate=rate)
        left = wide - first.decode()
        second = self.second.project(left, metric, warm=before and before.second, rate=rate)
        return PlusCode(tuple(w.shape), w.dtype, first, second)

    def through(self, w: Tensor, code: Code) -> Tensor:
        with torch.no_grad():
            chosen = self.project(w.detach(), warm=code)  # its numbers are the code's own, which may learn
        return chosen.decode() + (w - w.detach())


def _as_plus(code: Code) -> PlusCode:
    if not isinstance(code, PlusCode):
        raise SchemeError(f"a warm start of a sum is a sum, not {type(code).__name__}")
    return code
