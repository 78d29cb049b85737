"""Quantization that is left out at random, while something else learns behind it."""

from typing import Any

import torch
from torch import Tensor

from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.tap import Function, StoredFunction


class QuantizationDrop(Function):
    """``f(x)`` in every entry with probability ``1 − p``, else ``x`` itself, drawn anew each time.

    Wei et al. 2022, arXiv 2203.05740, section 4.2. Draws from torch's global generator. When learning ends,
    ``f`` stays.
    """

    identifier = "dropping"

    def __init__(self, function: Function, share: float) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise SchemeError(f"quantization cannot be left out with probability {share}; give 0 to 1")
        self.function, self.share = function, share

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(torch.rand_like(x) < self.share, x, self.function(x))

    def settled(self) -> StoredFunction | None:
        return self.function.settled()

    def to_json(self) -> list[Any]:
        raise FormatError("quantization that is left out at random is of use to one projection, and is never kept")

    @classmethod
    def from_json(cls, record: list[Any]) -> "QuantizationDrop":
        raise FormatError("no file holds quantization that is left out at random")
