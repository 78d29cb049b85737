"""Rounding at random that is right in the mean, and gradients of quantized samples that stay so."""

from typing import Any

import torch
from torch import Tensor

from featherweight.core.errors import SchemeError


def rounded_at_random(x: Tensor, levels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """``Q(x)`` = ``u`` with probability ``(x − l) / (u − l)``, else ``l``, for the levels ``l ≤ x < u`` next to ``x``.

    ``E Q(x) = x`` and ``Var Q(x) = (u − x)(x − l)``, each entry by itself. ``levels`` ascend, and every entry lies
    between the first and the last; ``SchemeError`` for others. Levels of least variance:
    :func:`featherweight.schemes.kmeans.unbiased`.
    """
    if levels.ndim != 1 or len(levels) < 2 or not bool((levels[1:] > levels[:-1]).all()):
        raise SchemeError(f"levels of shape {tuple(levels.shape)} do not ascend; give two different numbers or more")
    if bool((x < levels[0]).any()) or bool((x > levels[-1]).any()):
        raise SchemeError(
            f"entries from {float(x.min()):g} to {float(x.max()):g} are not all between the levels "
            f"{float(levels[0]):g} and {float(levels[-1]):g}: what is outside cannot be right in the mean, clip it"
        )
    above = torch.bucketize(x.detach().contiguous(), levels[1:-1], right=True) + 1
    low, high = levels[above - 1], levels[above]
    drawn = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return torch.where(drawn * (high - low) < x - low, high, low)


class _DoubleSampled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(first)
        return second @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        (first,) = ctx.saved_tensors
        return None, None, gradients[0].flatten(0, -2).T @ first.flatten(0, -2)


def double_sampled(inputs: Tensor, weight: Tensor, levels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """``Q₂(a) Wᵀ`` of samples ``a`` [..., inputs] and ``W`` [outputs, inputs], with ``Q₁(a)`` in its gradient in ``W``.

    ``Q₁`` and ``Q₂`` are two draws of :func:`rounded_at_random`. For a squared loss the gradient of a sample is ``Q₁(a)
    (Q₂(a)ᵀ x − b)``, in the mean that of the sample itself, ``a (aᵀ x − b)``. One draw in both places is off by the
    variance: ``E Q(a) (Q(a)ᵀ x − b) = a (aᵀ x − b) + diag(Var Q(a)) x`` (Zhang, Li, Kara, Alistarh, Liu and Zhang 2016,
    arXiv 1611.05402). The inputs get no gradient: they are data.
    """
    first, second = (rounded_at_random(inputs.detach(), levels, generator) for _ in range(2))
    product: Tensor = _DoubleSampled.apply(first, second, weight)  # type: ignore[no-untyped-call]
    return product
