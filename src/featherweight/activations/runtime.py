"""Runtime pruning: channels that are read or not from sample to sample, as agents decide that look at the map."""

from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.core.errors import FormatError, SelectionError
from featherweight.core.tap import StoredFunction

HIGHEST = 3e38
"""Numbers of an agent are below this: they are stored in float32."""


class RuntimeGate(StoredFunction):
    """Lets the first channels of a map [n, C, …] pass, as many as its agent says for each sample, and zeros the others.

    ``Q = V m + b`` [choices], with the means ``m`` of the channels over all positions; at the first largest entry ``a``
    of ``k``, the first ``ceil((a + 1) C / k)`` channels pass: choices are nested, and the last is all. A layer that
    reads the map could leave out the others; the engines here do not, and compute with zeros.
    """

    identifier = "runtime"
    values: Tensor
    bias: Tensor

    def __init__(self, values: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return prefixed(x, action_values(x, self.values, self.bias).argmax(1), len(self.bias))

    def to_json(self) -> list[Any]:
        return [self.values.tolist(), self.bias.tolist()]

    @classmethod
    def from_json(cls, record: list[Any]) -> "RuntimeGate":
        match record:
            case [[list(first), *rest], list(bias)] if all(_numbers(row, len(first)) for row in (first, *rest)):
                if first and _numbers(bias, 1 + len(rest)):
                    return cls(torch.tensor([first, *rest]), torch.tensor(bias))
        raise FormatError("an agent is a row of numbers for every choice, and as many biases")


def _numbers(row: Any, length: int) -> bool:
    alike = isinstance(row, list) and len(row) == length and all(type(number) is float for number in row)
    return alike and all(isfinite(number) and abs(number) < HIGHEST for number in row)


def action_values(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """``Q``, [n, choices], of a map [n, C, …]."""
    if x.ndim < 3 or x.shape[1] != values.shape[1]:
        raise SelectionError(f"an agent of {values.shape[1]} channels was shown an activation {tuple(x.shape)}")
    return nn.functional.linear(x.flatten(2).mean(2).to(values.dtype), values, bias)


def prefixed(x: Tensor, chosen: Tensor, choices: int) -> Tensor:
    """The map with the first ``ceil((a + 1) C / k)`` channels of each sample, ``a`` [n] its choice of ``k``."""
    channels = torch.arange(x.shape[1], device=x.device)
    passes = channels * choices < (chosen[:, None] + 1) * x.shape[1]
    return x * passes.view(*passes.shape, *[1] * (x.ndim - 2)).to(x.dtype)
