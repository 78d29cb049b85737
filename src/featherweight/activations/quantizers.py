"""Quantizers of activations."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.tap import StoredFunction


class Quantizer(StoredFunction):
    """``x̂ = s · clamp(round(x / s), l, h)``: a scale ``s > 0``, ``2ᵇ`` integer levels ``l ≤ 0 ≤ h = l + 2ᵇ − 1``.

    Zero is always a level. What an engine stores is the unsigned integer ``round(x / s) − l``: the zero point is
    ``−l``. Ties go to even levels. ``l = 0`` is for what is never negative, ``l = −2ᵇ⁻¹`` is symmetric.

    Backward: straight through strictly inside the range, zero outside; where the scale is ``learned``,
    ``∂x̂/∂s = round(x/s) − x/s`` inside and the bound outside, times ``1/√(n · h)`` for ``n`` features of a sample
    (Esser et al. 2019, arXiv 1902.08153, equations 3 and 5 and section 2.2).
    """

    identifier = "uniform"

    def __init__(self, bits: int, lowest: int, scale: Tensor, *, learned: bool = False) -> None:
        super().__init__()
        if not 1 <= bits <= 8 or not 1 - 2**bits <= lowest <= 0:
            raise SchemeError(f"{bits} bits from level {lowest}: give 1 to 8 bits, with zero among the levels")
        self.bits, self.lowest, self.highest = bits, lowest, lowest + 2**bits - 1
        self.scale = nn.Parameter(scale.detach().clone(), requires_grad=learned)

    @classmethod
    def covering(cls, low: float, high: float, bits: int, *, symmetric: bool = False, learned: bool = False) -> Self:
        """The levels over ``[low, high]``, stretched to hold zero and moved so that zero is a level.

        Symmetric about zero with ``symmetric``, unless nothing is negative.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if low < 0 and symmetric:
            scale, lowest = max(-low / 2 ** (bits - 1), high / max(2 ** (bits - 1) - 1, 1)), -(2 ** (bits - 1))
        else:
            scale = (high - low) / (2**bits - 1)
            lowest = -round(-low / scale) if scale > 0 else 0
        return cls(bits, lowest, torch.tensor(scale if scale > 0 else 1.0, dtype=torch.float32), learned=learned)

    @classmethod
    def starting_from(cls, x: Tensor, bits: int) -> Self:
        """A learned scale from ``2 · mean|x| / √h`` (Esser et al. 2019, section 2.1); unsigned where ``x`` is."""
        lowest = -(2 ** (bits - 1)) if bool((x < 0).any()) else 0
        step = 2 * x.detach().float().abs().mean() / max(lowest + 2**bits - 1, 1) ** 0.5
        return cls(bits, lowest, step.clamp(min=1e-8), learned=True)

    @property
    def symmetric(self) -> bool:
        return self.lowest == -(1 << (self.bits - 1))

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            whole: Tensor = quantized(x, self.scale.detach(), self.lowest, self.highest)
            return whole
        y: Tensor = _Quantize.apply(x, self.scale, self.lowest, self.highest)  # type: ignore[no-untyped-call]
        return y

    def to_json(self) -> list[Any]:
        return [self.bits, self.lowest, self.scale.item()]

    @classmethod
    def from_json(cls, record: list[Any]) -> "Quantizer":
        if [type(value) for value in record] == [int, int, float]:
            bits, lowest, scale = record
            stored = torch.tensor(scale, dtype=torch.float32)
            if 1 <= bits <= 8 and 1 - 2**bits <= lowest <= 0 and 0 < stored < torch.inf:
                return cls(bits, lowest, stored)
        raise FormatError(f"{record} is no quantizer of activations")

    def extra_repr(self) -> str:
        return f"bits={self.bits}, levels {self.lowest}..{self.highest}, scale={self.scale.item():.4g}"


class _Quantize(torch.autograd.Function):
    """Elementwise work in few passes over memory: an operation a pass would double the time of a training step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
        y = torch.div(x, scale).round_().clamp_(lowest, highest).mul_(scale)
        ctx.save_for_backward(x, y, scale)
        ctx.bounds = (lowest, highest)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, y, scale = ctx.saved_tensors
        lowest, highest = ctx.bounds
        s = float(scale)
        inside = torch.ops.aten.hardtanh_backward(gradient, x, lowest * s, highest * s)
        if not ctx.needs_input_grad[1]:
            return inside, None, None, None
        # Σ g ∂x̂/∂s = Σ g x̂/s − Σ_inside g x/s
        total = (gradient * y).sum(dtype=scale.dtype) - (inside * x).sum(dtype=scale.dtype)
        share = (x[0].numel() * max(highest, 1)) ** -0.5
        return inside, total / scale * share, None, None


@torch.library.custom_op("featherweight::quantized", mutates_args=())
def quantized(x: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    """What :class:`Quantizer` computes, as one operator that stays whole when a model is traced for export."""
    return torch.div(x, scale).round_().clamp_(lowest, highest).mul_(scale)


@quantized.register_fake
def _(x: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    return torch.empty_like(x)


class Sign(StoredFunction):
    """``+1`` where ``x ≥ 0``, else ``−1``; backward: straight through where ``|x| ≤ 1``, else 0.

    Hubara et al. 2016, arXiv 1602.02830, section 1.3.
    """

    identifier = "sign"

    def to_json(self) -> list[Any]:
        return []

    @classmethod
    def from_json(cls, record: list[Any]) -> "Sign":
        if record:
            raise FormatError(f"a sign has no settings, not {record}")
        return cls()

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return _signs(x)
        y: Tensor = _Binarize.apply(x)  # type: ignore[no-untyped-call]
        return y


def _signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


class _Binarize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _signs(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        through: Tensor = gradient * (x.abs() <= 1)
        return through
