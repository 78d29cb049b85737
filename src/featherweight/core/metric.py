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
    """``tr (W − V) H (W − V)ᵀ`` for ``W`` of shape [rows, columns] and ``H = E[x xᵀ]`` of shape [columns, columns].

    ``W`` is the weight with all dimensions but the first flattened: the mean squared error of a linear layer's output
    over inputs ``x``. The column sweep of ``featherweight.solvers.sweep`` projects in it.
    """

    hessian: Tensor

    def distance(self, w: Tensor, v: Tensor) -> Tensor:
        difference = (w.double() - v.double()).flatten(1)
        return ((difference @ self.hessian.double()) * difference).sum()

    def weights(self, w: Tensor) -> Tensor | None:
        return self.hessian.diagonal().expand(w.shape[0], -1).reshape(w.shape)


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
