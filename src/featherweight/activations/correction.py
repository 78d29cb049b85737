"""Bias correction: the mean that quantized weights or inputs shift is given back. Pure functions of tensors."""

from math import inf, pi, sqrt

import torch
from torch import Tensor

from featherweight.core.errors import SchemeError


def corrected_bias(bias: Tensor | None, float_mean: Tensor, quantized_mean: Tensor) -> Tensor:
    """``b − (E[ỹ] − E[y])``: the bias with which the quantized layer's outputs ``ỹ`` have the means of the float ones.

    All are of shape [channels]; the means are those of the layer's outputs, before the activation function, over the
    same data, ``ỹ`` computed with ``bias``. ``None`` is a bias of zero. Nagel et al. 2019, arXiv 1906.04721,
    section 4.2. Raises ``SchemeError`` where shapes differ or a mean is not finite.
    """
    shapes = [tuple(x.shape) for x in (float_mean, quantized_mean, *(() if bias is None else (bias,)))]
    if len(set(shapes)) != 1:
        raise SchemeError(f"bias and means have one number a channel, not shapes {' and '.join(map(str, shapes))}")
    shift = quantized_mean.detach() - float_mean.detach()
    if not bool(shift.isfinite().all()):
        raise SchemeError("a mean of the outputs is not finite; find the layer that makes NaN or infinity")
    return (-shift if bias is None else bias.detach() - shift).to(float_mean.dtype if bias is None else bias.dtype)


def constant_response(weight: Tensor, inputs: Tensor, groups: int = 1) -> Tensor:
    """What a layer without bias answers to inputs that are constant over space, and to the mean of inputs that vary.

    ``weight`` is [out, in / groups, ...] of a linear layer or a convolution, ``inputs`` [in]; the answer is [out]: the
    kernel's sum times the input. With the error of the weights, ``Wq − W``, and the means ``E[x]`` of the inputs it is
    the shift of the outputs' means, which :func:`corrected_bias` takes back (Nagel et al. 2019, arXiv 1906.04721,
    section 4.2.1 and appendix). Exact but at borders that are padded with zeros.
    """
    out, per_group = weight.shape[:2]
    if inputs.shape != (per_group * groups,) or out % groups:
        raise SchemeError(
            f"a weight of shape {tuple(weight.shape)} in {groups} groups takes {per_group * groups} inputs, not shape "
            f"{tuple(inputs.shape)}"
        )
    kernels = weight.reshape(groups, out // groups, per_group, -1).sum(3)
    return (kernels @ inputs.reshape(groups, per_group, 1)).reshape(out)


def clipped_normal_mean(weight: Tensor, bias: Tensor, *, low: float = 0.0, high: float = inf) -> Tensor:
    """``E[min(max(x, low), high)]`` of ``x ~ N(β, γ²)``, elementwise: what follows a batch norm and an activation.

    With ``a = (low − β)/|γ|`` and ``b = (high − β)/|γ|``: ``|γ| (φ(a) − φ(b)) + β (Φ(b) − Φ(a)) + low Φ(a) +
    high (1 − Φ(b))``. ``weight`` is γ and ``bias`` β; 0 and ∞ are a ReLU, 0 and 6 a ReLU6. Where γ = 0 it is the
    clipped β. Nagel et al. 2019, arXiv 1906.04721, section 4.2.1 and appendix.
    """
    if weight.shape != bias.shape or not low < high:
        raise SchemeError(
            f"γ of shape {tuple(weight.shape)}, β of shape {tuple(bias.shape)}, clipped to {low} .. {high}: the shapes "
            "must be the same, and low < high"
        )
    spread, centre = weight.detach().double().abs(), bias.detach().double()
    safe = torch.where(spread > 0, spread, 1.0)
    total = centre
    # E[min(max(x, low), high)] = β + E[(low − x)⁺] − E[(x − high)⁺], and each bend is the mean of a rectified normal.
    if low > -inf:
        total = total + _rectified_mean(low - centre, safe)
    if high < inf:
        total = total - _rectified_mean(centre - high, safe)
    return torch.where(spread > 0, total, centre.clamp(low, high)).to(bias.dtype)


def _rectified_mean(mean: Tensor, spread: Tensor) -> Tensor:
    """``E[max(y, 0)]`` of ``y ~ N(m, s²)``: ``s φ(m/s) + m Φ(m/s)``."""
    z = mean / spread
    below: Tensor = torch.special.ndtr(z)
    return spread * torch.exp(-(z**2) / 2) / sqrt(2 * pi) + mean * below
