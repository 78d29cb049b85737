"""Activations whose range is found anew whenever the model runs, and the rule that places them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from featherweight.activations.rules import layers_of
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import TapRule
from featherweight.core.tap import StoredFunction, TapSite
from featherweight.core.task import Task
from featherweight.graph.sites import linear_inputs

TOP = 255
"""The largest of the levels 0, 1 … of eight bits."""


class DynamicQuantizer(StoredFunction):
    """``x̂ = s · (clamp(round(x / s) + z, 0, 255) − z)`` over the range of each batch, found as the model runs.

    ``s = (max(x, 0) − min(x, 0)) / 255`` over all entries of the batch, ``z = round(clamp(−min(x, 0) / s, 0, 255))``;
    a batch of zeros has ``s = 1``. All in float32, ties to even: the arithmetic of ONNX's DynamicQuantizeLinear. The
    levels of a sample therefore depend on those that it shares a batch with. It has no settings, and needs no data.

    Backward: straight through; the range is taken as given, and everything lies within it.
    """

    identifier = "dynamic"
    bits = 8

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            whole: Tensor = dynamically_quantized(x)
            return whole
        y: Tensor = _Quantize.apply(x)  # type: ignore[no-untyped-call]
        return y

    def to_json(self) -> list[Any]:
        return []

    @classmethod
    def from_json(cls, record: list[Any]) -> "DynamicQuantizer":
        if record:
            raise FormatError(f"a dynamic quantizer has no settings, not {record}")
        return cls()


def dynamic_numbers(x: Tensor) -> Tensor:
    """What :class:`DynamicQuantizer` computes, in operators of PyTorch."""
    low, high = x.amin().float().clamp(max=0), x.amax().float().clamp(min=0)
    scale = torch.where(high > low, (high - low) / TOP, 1.0)
    zero = (-low / scale).clamp(0, TOP).round()
    levels = (x.float() / scale).round() + zero
    return ((levels.clamp(0, TOP) - zero) * scale).to(x.dtype)


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return dynamic_numbers(x) if x.numel() else x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


@torch.library.custom_op("featherweight::dynamically_quantized", mutates_args=())
def dynamically_quantized(x: Tensor) -> Tensor:
    """What :class:`DynamicQuantizer` computes, as one operator that stays whole when a model is traced for export."""
    return dynamic_numbers(x)


@dynamically_quantized.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@dataclass(frozen=True)
class DynamicRanges(TapRule):
    """Quantize what linear layers take in to eight bits, over the range of each batch. Needs no calibration data.

    ``weights`` are the parameters whose layers are meant, without those that match ``exclude``. Convolutions, joins
    and averages stay floats: engines run dynamic convolutions slower than float ones. Without any linear layer among
    them nothing is quantized.

    With ``required`` a model that cannot be traced raises ``TraceError``; else its activations stay floats, and the
    stage's coverage says why.
    """

    weights: Sites = WEIGHTS
    exclude: tuple[str, ...] = ()
    required: bool = True

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        found = layers_of(student, task, self.weights, self.exclude)
        if found is None:
            return []
        places = linear_inputs(found.traced, found.meant)
        return [TapSite(place, DynamicQuantizer()) for place in places if place.call in found.shown]

    def without(self, weights: Sequence[str], *, joins: bool = True) -> "DynamicRanges":
        return replace(self, exclude=(*self.exclude, *weights))
