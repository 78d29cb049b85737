"""Cross-layer equalization: scales moved between layers, so that one range suits all channels. Pure functions.

Nagel et al. 2019, arXiv 1906.04721, section 4.1. Between two layers stands a function with ``f(s x) = s f(x)`` for
``s > 0``: the identity, ReLU, leaky ReLU, with any pooling. ReLU6 is none: the paper puts ReLU in its place first, and
whether that may be is for the caller to decide. Batch norms are folded into the weights before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featherweight.activations.correction import constant_response
from featherweight.core.errors import SchemeError


@dataclass(frozen=True, eq=False)
class Layer:
    """Weight [out, in / groups, ...] and bias [out] of a linear layer or a convolution; depthwise: ``groups = in``."""

    weight: Tensor
    bias: Tensor | None = None
    groups: int = 1

    def __post_init__(self) -> None:
        if self.weight.ndim < 2 or self.groups < 1 or self.weight.shape[0] % self.groups or not self.weight.numel():
            raise SchemeError(
                f"a weight of shape {tuple(self.weight.shape)} is none of a linear layer or a convolution in "
                f"{self.groups} groups"
            )
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise SchemeError(f"{self.weight.shape[0]} channels have no bias of shape {tuple(self.bias.shape)}")
        if not bool(self.weight.isfinite().all()):
            raise SchemeError("a weight is NaN or infinite; find where training diverged")

    @property
    def inputs(self) -> int:
        return self.weight.shape[1] * self.groups

    def output_ranges(self) -> Tensor:
        """``max |W|`` over the weights of every output channel: [out]."""
        return self.weight.detach().abs().flatten(1).amax(1)

    def input_ranges(self) -> Tensor:
        """``max |W|`` over the weights that read every input channel: [in]."""
        return self._by_input(self.weight.detach().abs()).amax((1, 3)).reshape(-1)

    def with_outputs_over(self, scales: Tensor) -> "Layer":
        """The layer whose output channels are divided by ``scales``."""
        column = scales.reshape(-1, *[1] * (self.weight.ndim - 1))
        bias = None if self.bias is None else self.bias.detach() / scales
        return replace(self, weight=self.weight.detach() / column, bias=bias)

    def with_inputs_times(self, scales: Tensor) -> "Layer":
        """The layer that answers to inputs divided by ``scales`` what this one does to the inputs themselves."""
        scaled = self._by_input(self.weight.detach()) * scales.reshape(self.groups, 1, -1, 1)
        return replace(self, weight=scaled.reshape(self.weight.shape))

    def _by_input(self, weight: Tensor) -> Tensor:
        """[groups, out / groups, in / groups, kernel]"""
        return weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1], -1)


def reads_per_channel(first: Layer, second: Layer) -> int:
    """How many inputs of the second layer each output channel of the first feeds: one, or more after a flattening.

    Raises ``SchemeError`` where the layers do not follow each other.
    """
    outputs = first.weight.shape[0]
    flattened = first.weight.ndim > 2 and second.weight.ndim == 2
    if second.inputs == outputs or flattened and second.inputs % outputs == 0:
        return second.inputs // outputs
    raise SchemeError(f"a layer of {outputs} outputs is not followed by one of {second.inputs} inputs")


def equalization_scales(first: Layer, second: Layer) -> Tensor:
    """``s = √(r₁ r₂) / r₂`` for every channel between the layers: [out of the first].

    ``r₁`` and ``r₂`` are the largest magnitudes of the weights that write and read the channel; after ``W₁ / s`` and
    ``W₂ s`` both are ``√(r₁ r₂)``, which is what maximises the product of their precisions (equation 11). A channel
    that nothing writes or nothing reads keeps the scale one, and so does one whose scale would not be finite.
    """
    times = reads_per_channel(first, second)
    written = first.output_ranges()
    read = second.input_ranges().reshape(len(written), times).amax(1).to(written.dtype)
    scales = (written / read).sqrt()
    return torch.where(scales.isfinite() & (scales > 0), scales, 1.0)


def rescaled(first: Layer, second: Layer, scales: Tensor) -> tuple[Layer, Layer]:
    """``(W₁ / s, b₁ / s)`` and ``(W₂ s, b₂)``: the same function of both, up to rounding.

    Anything else that reads the channels must be rescaled as well; batch-norm statistics of the first layer's outputs,
    kept for :func:`absorbed`, are divided by ``s``.
    """
    times = reads_per_channel(first, second)
    return first.with_outputs_over(scales), second.with_inputs_times(scales.repeat_interleave(times))


def equalize(first: Layer, second: Layer) -> tuple[Layer, Layer, Tensor]:
    """Both layers rescaled by :func:`equalization_scales`, and the scales."""
    scales = equalization_scales(first, second)
    return *rescaled(first, second, scales), scales


def equalize_chain(
    layers: Sequence[Layer], *, tolerance: float = 1e-3, sweeps: int = 100
) -> tuple[list[Layer], list[Tensor]]:
    """Equalize every pair of a chain in turns, until no scale of a sweep differs from one by more than ``tolerance``.

    Each layer of the chain is read by the next alone. Also the product of all scales of every pair of neighbours, for
    what was kept about the channels. After ``sweeps`` it stops wherever it is: the function is the same at any time.
    """
    if len(layers) < 2:
        raise SchemeError(f"a chain has at least two layers, not {len(layers)}")
    chain = list(layers)
    totals = [torch.ones_like(layer.output_ranges()) for layer in chain[:-1]]
    for _ in range(sweeps):
        moved = 0.0
        for at, total in enumerate(totals):
            chain[at], chain[at + 1], scales = equalize(chain[at], chain[at + 1])
            totals[at] = total * scales
            moved = max(moved, float((scales - 1).abs().max()))
        if moved <= tolerance:
            break
    return chain, totals


def absorbed(
    first: Layer, second: Layer, norm_weight: Tensor, norm_bias: Tensor, *, deviations: float = 3.0
) -> tuple[Layer, Layer]:
    """High biases moved on: ``b₁ − c`` and ``b₂ + W₂ c``, with ``c = max(0, β − 3 |γ|)``.

    For a ReLU between the layers, ``relu(x − c) = relu(x) − c`` where ``x ≥ c``, which is all but about a thousandth of
    N(β, γ²). ``norm_weight`` γ and ``norm_bias`` β, [out of the first], are those of the batch norm that was folded
    into the first layer, divided by its equalization scales. Where the second layer pads with zeros the borders shift.
    Nagel et al. 2019, arXiv 1906.04721, section 4.1.3.
    """
    outputs = first.weight.shape[:1]
    if norm_weight.shape != outputs or norm_bias.shape != outputs:
        raise SchemeError(
            f"a layer of {outputs[0]} outputs has no batch norm of shapes {tuple(norm_weight.shape)} and "
            f"{tuple(norm_bias.shape)}"
        )
    if first.bias is None:
        raise SchemeError("the first layer has no bias to take from; fold its batch norm into it first")
    amount = (norm_bias - deviations * norm_weight.abs()).detach().clamp(min=0).to(first.bias.dtype)
    inputs = amount.repeat_interleave(reads_per_channel(first, second)).to(second.weight.dtype)
    answer = constant_response(second.weight.detach(), inputs, second.groups)
    lowered = replace(first, bias=first.bias.detach() - amount)
    return lowered, replace(second, bias=answer if second.bias is None else second.bias.detach() + answer)
