"""Functions that leave an activation as it is, and change the gradient that comes back through it."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from featherweight.core.tap import Function


class GradientFunction(Function):
    """The identity, whose gradient ``g`` becomes :meth:`changed` of it. Learning alone uses it: it does not stay."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Backward.apply(x, self.changed)  # type: ignore[no-untyped-call]
        return y

    @abstractmethod
    def changed(self, g: Tensor) -> Tensor:
        """What is handed on in place of ``g``, of its shape and type."""

    def settled(self) -> None:
        return None


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return ctx.change(g), None
