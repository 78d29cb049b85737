"""Activations and their gradients in fixed point while a model learns."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featherweight.activations.rules import inputs
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError
from featherweight.core.stage import TapRule
from featherweight.core.tap import Function, Place, TapSite
from featherweight.core.task import Task
from featherweight.schemes.fixed_point import FixedPoint, Rounding


class LimitedPrecision(Function):
    """``x`` rounded to ``grid``, and the gradient that reaches it to ``gradients``; each saturates at its ends.

    A product accumulates in float32 and is rounded once, where its result goes through this function (Gupta et al.
    2015, arXiv 1502.02551, section 3.2). Rounding is to nearest when the model does not train. Learning alone uses it:
    it does not stay.
    """

    identifier = "limited-precision"

    def __init__(self, grid: FixedPoint, gradients: FixedPoint, rounding: Rounding = Rounding.STOCHASTIC) -> None:
        super().__init__()
        self.grid, self.gradients, self.rounding = grid, gradients, rounding

    def forward(self, x: Tensor) -> Tensor:
        rounding = self.rounding if self.training else Rounding.NEAREST
        y: Tensor = _Round.apply(x, self.grid, self.gradients, rounding)  # type: ignore[no-untyped-call]
        return y

    def settled(self) -> None:
        return None

    def to_json(self) -> list[Any]:
        grids = [[each.integer, each.fraction] for each in (self.grid, self.gradients)]
        return [*grids, self.rounding.value]

    @classmethod
    def from_json(cls, record: list[Any]) -> "LimitedPrecision":
        match record:
            case [[int(i), int(f)], [int(j), int(g)], "nearest" | "stochastic" as rounding]:
                return cls(FixedPoint(i, f), FixedPoint(j, g), Rounding(rounding))
        raise FormatError(f"{record} is no limited precision")

    def extra_repr(self) -> str:
        return f"{self.grid}, gradients {self.gradients}, {self.rounding.value}"


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: FixedPoint, gradients: FixedPoint, rounding: Rounding) -> Tensor:
        ctx.gradients, ctx.rounding = gradients, rounding
        return grid.rounded(x, rounding)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.gradients.rounded(g, ctx.rounding), None, None, None


@dataclass(frozen=True)
class LimitedPrecisions(TapRule):
    """What the matching modules' convolutions and linear layers take in and give out, in fixed point."""

    modules: tuple[str, ...] = ("*",)
    grid: FixedPoint = FixedPoint(6, 10)
    gradients: FixedPoint = FixedPoint(2, 14)
    rounding: Rounding = Rounding.STOCHASTIC

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        found = [place.call for place in inputs(student, task, self.modules)]
        places = [Place(call, operand) for call in found for operand in (0, None)]
        return [TapSite(place, LimitedPrecision(self.grid, self.gradients, self.rounding)) for place in places]
