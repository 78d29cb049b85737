"""The rate term of a projection: λ and the bits of every symbol under a frozen table."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.core.errors import SchemeError


@dataclass(frozen=True, eq=False)
class Rate:
    """``project(w, metric, rate=Rate(λ, bits))`` minimises ``‖w − decode(c)‖² + λ Σ bits[symbol]``.

    ``bits[k]`` is the length of symbol ``k`` under the table that will code it, in bits; ``weight`` is λ, in squared
    error a bit. The table is frozen within one projection: recount and project again to follow it.
    """

    weight: float
    bits: Tensor

    def __post_init__(self) -> None:
        if self.weight < 0 or not bool(torch.isfinite(self.bits).all()):
            raise SchemeError("a rate needs λ ≥ 0 and finite bits for every symbol")

    def cheapest(self, x: Tensor, d: Tensor | None, values: Sequence[Tensor]) -> Tensor:
        """``argmin_k d (x − values[k])² + λ bits[k]`` of every entry, int64; the first of equals.

        Each value is broadcast with ``x``; ``d`` is of its shape, ``None`` for ones.
        """
        if self.bits.numel() != len(values):
            raise SchemeError(f"the rate has {self.bits.numel()} symbols, the code {len(values)}")
        best, least = torch.zeros_like(x, dtype=torch.long), torch.full_like(x, torch.inf)
        for symbol, (value, bits) in enumerate(zip(values, self.bits.tolist(), strict=True)):
            squared = (x - value).square()
            cost = (squared if d is None else squared * d) + self.weight * bits
            best, least = torch.where(cost < least, symbol, best), torch.minimum(cost, least)
        return best


def bits_of(symbols: Tensor, alphabet: int) -> Tensor:
    """Bits of each symbol under the counts of ``symbols``, each count raised by one half (Krichevsky and Trofimov)."""
    counts = torch.bincount(symbols.flatten().long(), minlength=alphabet).double() + 0.5
    return -(counts / counts.sum()).log2()
