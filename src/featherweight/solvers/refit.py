"""Least squares for the real numbers of a code, after any projection: symbols stay."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from featherweight.core.code import Code, Role
from featherweight.core.errors import SchemeError
from featherweight.core.metric import Full, Metric
from featherweight.core.scheme import Scheme
from featherweight.core.stage import Projector
from featherweight.schemes.uniform import UniformCode

TOLERANCE = 1e-10
"""Of the residual's norm, relative to that of the first."""


@torch.no_grad()
def refit(code: Code, w: Tensor, metric: Metric, iterations: int = 200) -> Code:
    """``min_θ ‖w − V(θ)‖²_M`` over the real numbers ``θ`` of a code: scales, centroids, survivors; symbols stay.

    ``V`` must be linear in ``θ``, else ``SchemeError``. The normal equations ``Dᵀ M D θ = Dᵀ M w``, with ``D`` the
    decoding and ``M`` the metric's matrix (``Σ_r g_r v_r H v_rᵀ`` in the full metric), are solved by conjugate
    gradients with a diagonal preconditioner, in float64 from the numbers as they are (Hestenes and Stiefel 1952): the
    error falls in every step. Numbers are then rounded to their stored width; where that is no nearer than ``code``, or
    a scale would not be positive, ``code`` is returned.
    """
    paths = {path: tensor for path, tensor in code.tensors(Role.DIRECT).items() if tensor.is_floating_point()}
    if not paths:
        raise SchemeError(f"{type(code).__name__} has no real numbers to fit")
    wide = _widened(code)
    sizes = [tensor.numel() for tensor in paths.values()]

    def numbers(theta: Tensor) -> dict[str, Tensor]:
        parts = theta.split(sizes)  # type: ignore[no-untyped-call]
        return {path: part.reshape(paths[path].shape) for path, part in zip(paths, parts, strict=True)}

    def decode(theta: Tensor) -> Tensor:
        return wide.with_tensors(numbers(theta)).decode()

    start = torch.cat([tensor.detach().double().flatten() for tensor in paths.values()])
    _check_linear(decode, start, code)
    solved = _solve(decode, start, w.detach().double(), metric, iterations)
    found = numbers(solved)
    fitted = code.with_tensors({path: each.to(paths[path].dtype) for path, each in found.items()}).stored()
    better = bool(
        metric.distance(w, fitted.decode()) < metric.distance(w, code.decode())
    )  # false for what is not finite
    return fitted if better and _positive(fitted) else code


def _solve(decode: Callable[[Tensor], Tensor], start: Tensor, w: Tensor, metric: Metric, iterations: int) -> Tensor:
    """Preconditioned conjugate gradients from ``start``."""
    adjoint = torch.func.vjp(decode, start)[1]
    ones = decode(torch.ones_like(start))
    weights = metric.weights(w)
    diagonal = adjoint(ones if weights is None else ones * weights.double())[0]
    inverse = torch.where(diagonal > 0, 1 / diagonal.clamp(min=1e-300), torch.zeros_like(diagonal))
    theta = start.clone()
    residual = adjoint(_applied(metric, w - decode(theta)))[0]
    direction = inverse * residual
    product = residual @ direction
    enough = TOLERANCE**2 * float(product)
    for _ in range(iterations):
        if not float(product) > enough:
            break
        curved = adjoint(_applied(metric, decode(direction)))[0]
        bend = direction @ curved
        if not float(bend) > 0:
            break
        theta = theta + product / bend * direction
        residual = residual - product / bend * curved
        steepest = inverse * residual
        product, before = residual @ steepest, product
        direction = steepest + product / before * direction
    return theta


def _applied(metric: Metric, v: Tensor) -> Tensor:
    """``M v``."""
    if isinstance(metric, Full):
        matrix, hessian = metric.grouped(v)
        product = (matrix @ hessian).reshape(v.shape[0], -1)
        weighed = product if metric.rows is None else product * metric.rows.double()[:, None]
        return weighed.reshape(v.shape)
    weights = metric.weights(v)
    return v if weights is None else v * weights.double()


def _widened(code: Code) -> Code:
    """The same code, with its numbers and all that it decodes to in float64."""
    parts: dict[str, Any] = {name: _widened(part) for name, part in code.parts().items()}
    wide = replace(code, dtype=torch.float64, **parts)
    own = {path: t.double() for path, t in code.tensors(Role.DIRECT).items() if "." not in path}
    return wide.with_tensors(own) if own else wide


def _check_linear(decode: Callable[[Tensor], Tensor], theta: Tensor, code: Code) -> None:
    """``V(θ + δ) = V(θ) + V(δ)`` and ``V(0) = 0``, for one ``δ`` of another direction."""
    other = torch.linspace(1, 2, len(theta), dtype=theta.dtype, device=theta.device)
    apart = decode(theta) + decode(other)
    same = torch.allclose(decode(theta + other), apart, rtol=1e-9, atol=1e-9 * float(apart.abs().max()))
    if not same or bool(decode(torch.zeros_like(theta)).any()):
        raise SchemeError(f"{type(code).__name__} does not decode linearly, so that its numbers have no least squares")


def _positive(code: Code) -> bool:
    """Whether all scales of uniform levels, of parts too, are above zero."""
    own = not isinstance(code, UniformCode) or bool((code.scales.decode() > 0).all())
    return own and all(map(_positive, code.parts().values()))


@dataclass(frozen=True)
class Refit(Projector):
    """Another projector's code, or the scheme's own without one, with its real numbers fitted by :func:`refit`.

    Never worse in the metric than what it starts from.
    """

    projector: Projector | None = None
    iterations: int = 200

    def project(self, scheme: Scheme, w: Tensor, metric: Metric) -> Code:
        code = self.projector.project(scheme, w, metric) if self.projector else scheme.project(w, metric)
        return refit(code, w, metric, self.iterations)
