"""Which errors matter: the norm in which a scheme projects.

``distance(w, v)`` is a squared norm of ``w - v``, summed over the tensor.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.core.errors import SchemeError


class Metric(ABC):
    """A positive semi-definite quadratic form over one tensor."""

    @abstractmethod
    def distance(self, w: Tensor, v: Tensor) -> Tensor:
        """``‖w − v‖²`` in this metric, a scalar in float64."""

    @abstractmethod
    def weights(self, w: Tensor) -> Tensor | None:
        """The diagonal, of the shape of ``w``, or ``None`` where every error counts the same."""

    def importance(self, w: Tensor) -> Tensor:
        """What decides which entries of ``w`` stay: ``√d |w|``, the root of the error that zeroing an entry makes."""
        weights = self.weights(w)
        return w.abs() if weights is None else weights.double().sqrt() * w.double().abs()

    def sensitivity(self, w: Tensor) -> Tensor | None:
        """What one error of one costs in each row of ``w``, [rows]: the geometric mean over columns, float64.

        ``None`` where every error counts the same.
        """
        weights = self.weights(w)
        if weights is None:
            return None
        each = weights.double().reshape(w.shape[0], -1)
        return each.clamp(min=float(each.max().clamp(min=1e-30)) * 1e-12).log().mean(1).exp()

    def select(self, mask: Tensor) -> "Metric":
        """The metric of the vector ``w[mask]``."""
        raise SchemeError(f"{type(self).__name__} cannot be restricted to some entries; use a diagonal metric")


@dataclass(frozen=True)
class Euclidean(Metric):
    """``Σ (w − v)²``: magnitude decides."""

    def distance(self, w: Tensor, v: Tensor) -> Tensor:
        return (w.double() - v.double()).square().sum()

    def weights(self, w: Tensor) -> Tensor | None:
        return None

    def select(self, mask: Tensor) -> Metric:
        return self


EUCLIDEAN = Euclidean()


@dataclass(frozen=True, eq=False)
class Diagonal(Metric):
    """``Σ d (w − v)²`` with ``d ≥ 0`` of the shape of ``w``: Fisher information, OBD saliencies, activation norms."""

    diagonal: Tensor

    def __post_init__(self) -> None:
        if not bool(torch.isfinite(self.diagonal).all()) or bool((self.diagonal < 0).any()):
            raise SchemeError("a diagonal metric must be finite and non-negative")

    def distance(self, w: Tensor, v: Tensor) -> Tensor:
        return (self.diagonal.double() * (w.double() - v.double()).square()).sum()

    def weights(self, w: Tensor) -> Tensor | None:
        if self.diagonal.shape != w.shape:
            raise SchemeError(f"the metric's diagonal is {tuple(self.diagonal.shape)}, the tensor {tuple(w.shape)}")
        return self.diagonal

    def select(self, mask: Tensor) -> Metric:
        return Diagonal(self.diagonal[mask])


@dataclass(frozen=True, eq=False)
class Full(Metric):
    """``Σ_r g_r (w_r − v_r) H (w_r − v_r)ᵀ`` over the rows ``r`` of the weight, flattened to [rows, columns].

    hessian  ``H = E[x xᵀ]``, [columns, columns]: with ``g = 1`` the mean squared error of a linear layer's output over
             inputs ``x``. Or [groups, columns, columns], one for every run of ``rows / groups`` rows, as the groups of
             a convolution have
    rows     ``g``, [rows]: how much an error of each output counts; ``None`` for ones. With the outputs' curvature it
             is the Kronecker-factored curvature of the loss, its second factor a diagonal (Martens and Grosse 2015,
             arXiv 1503.05671)

    The column sweep of ``featherweight.solvers.sweep`` projects in it.
    """

    hessian: Tensor
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        for name, values in (("second moment of inputs", self.hessian), ("outputs' weights", self.rows)):
            if values is not None and not bool(torch.isfinite(values).all()):
                raise SchemeError(f"the {name} is not finite: look for infinities and NaN in the calibration data")

    def grouped(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The weight as [groups, rows / groups, columns] and ``H`` as [groups, columns, columns], in float64."""
        hessian = self.hessian.double()
        hessian = hessian if hessian.ndim == 3 else hessian[None]
        matrix = w.detach().double().flatten(1)
        groups, columns = hessian.shape[:2]
        if matrix.shape[0] % groups or matrix.shape[1] != columns:
            raise SchemeError(f"a metric of {groups} groups and {columns} columns is not of a weight {tuple(w.shape)}")
        return matrix.reshape(groups, -1, columns), hessian

    def distance(self, w: Tensor, v: Tensor) -> Tensor:
        difference, hessian = self.grouped(w.double() - v.double())
        errors = ((difference @ hessian) * difference).sum(-1).flatten()
        return (errors if self.rows is None else errors * self.rows.double()).sum()

    def weights(self, w: Tensor) -> Tensor | None:
        matrix, hessian = self.grouped(w)
        diagonal = hessian.diagonal(dim1=-2, dim2=-1)[:, None].expand_as(matrix).reshape(w.shape[0], -1)
        return (diagonal if self.rows is None else diagonal * self.rows.double()[:, None]).reshape(w.shape)

    def sensitivity(self, w: Tensor) -> Tensor | None:
        factor = inverse_factor(self.grouped(w)[1])
        conditional = factor.diagonal(dim1=-2, dim2=-1).log().mul(-2).mean(-1).exp()
        each = conditional.repeat_interleave(w.shape[0] // len(conditional))
        return each if self.rows is None else each * self.rows.double()


DAMPING = 0.01
"""The share of its mean that is added to the diagonal of ``H`` before it is inverted (Frantar et al. 2022)."""


def inverse_factor(hessian: Tensor, damping: float = DAMPING) -> Tensor:
    """The upper Cholesky factor ``U`` of ``(H + damping · mean(diag H) · I)⁻¹ = Uᵀ U``, of [..., n, n] in float64.

    ``1 / U_jj²`` is what an error in column ``j`` costs once all later columns have made up for it as well as they can.
    Columns that no input reached count as if they had unit input.
    """
    h = hessian.clone()
    diagonal = h.diagonal(dim1=-2, dim2=-1)
    diagonal += damping * diagonal.mean(-1, keepdim=True) + (diagonal == 0).to(h.dtype)
    h, failed = torch.linalg.cholesky_ex(h)  # under one name: each of them is as large as H
    if bool(failed.any()):
        raise SchemeError("the second moment of inputs is not positive definite: raise the damping")
    h = torch.cholesky_inverse(h)
    upper: Tensor = torch.linalg.cholesky(h, upper=True)
    return upper


@dataclass(frozen=True, eq=False)
class Scores(Metric):
    """Importances that are no norm: ``scores``, of the shape of ``w`` and of any sign, decide which entries stay.

    They say nothing of how far an entry may move: distances, and the values that survivors are given, are Euclidean.
    For criteria such as correlations, movements and gates.
    """

    scores: Tensor

    def __post_init__(self) -> None:
        if not bool(torch.isfinite(self.scores).all()):
            raise SchemeError("scores must be finite")

    def distance(self, w: Tensor, v: Tensor) -> Tensor:
        return EUCLIDEAN.distance(w, v)

    def weights(self, w: Tensor) -> Tensor | None:
        return None

    def importance(self, w: Tensor) -> Tensor:
        if self.scores.shape != w.shape:
            raise SchemeError(f"the scores are {tuple(self.scores.shape)}, the tensor {tuple(w.shape)}")
        return self.scores

    def select(self, mask: Tensor) -> Metric:
        return EUCLIDEAN
