"""A set of tensors that can be written cheaply, and the projection onto it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum
from typing import ClassVar, Self

import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError, naming
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate


class Promise(Enum):
    """What ``project`` promises of ``argmin_c ‖w − decode(c)‖_M``."""

    EXACT = "exact"  # the global minimum
    LOCAL = "local"  # no worse than its start, and no single symbol can be improved
    RULE = "rule"  # a published rule that is no minimum


class Scheme(ABC):
    """Frozen hyper-parameters of a set of representable tensors. Subclasses are frozen dataclasses."""

    promise: ClassVar[Promise]
    scaled_by_metric: ClassVar[bool] = False
    """Whether scales come from the metric, and not from the weight alone: a sweep then starts from them."""

    @abstractmethod
    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> Code:
        """The code that minimises ``‖w − decode(c)‖²`` in ``metric`` (plus λ times its bits, with ``rate``).

        With ``warm`` the real numbers of that code (scales, centroids) and its support are kept and only the symbols
        are chosen again: cheap enough for every training step. Raises ``SchemeError`` on a tensor it cannot take.
        """

    def project_all(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], warm: Mapping[str, Code] | None = None
    ) -> dict[str, Code]:
        """Project several tensors; a scheme with one budget over all of them overrides this."""
        codes = {}
        for name, w in weights.items():
            with naming(name):
                codes[name] = self.project(w, metrics[name], warm=warm[name] if warm else None)
        return codes

    def advance(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], before: Mapping[str, Code]
    ) -> dict[str, Code]:
        """Project again at a later target of a schedule, from weights that learned behind the codes ``before``.

        The default forgets those codes. A scheme whose next code depends on its last one overrides this: entries that
        stay frozen, thresholds with hysteresis, multipliers.
        """
        return self.project_all(weights, metrics)

    def at(self, target: float) -> Self:
        """The scheme at ``target`` of its full effect, 0 < target <= 1; what a schedule steers."""
        if target == 1:
            return self
        raise SchemeError(f"{self} has no gradual form; use the one-shot schedule")

    def through(self, w: Tensor, code: Code) -> Tensor:
        """The decoded weight as a function of a dense *latent* weight, for learning.

        Forward: ``project(w, warm=code).decode()``. Backward: the straight-through estimator (Bengio, Léonard and
        Courville 2013, arXiv 1308.3432), ``∂L/∂w = ∂L/∂decoded``, unless the scheme states its own.
        """
        with torch.no_grad():
            decoded = self.project(w.detach(), warm=code).decode()
        return straight_through(decoded, w)

    def carried(self, w: Tensor, code: Code) -> Tensor:
        """What the next projection starts from, given the latent weight and the code it had."""
        return w


def straight_through(value: Tensor, x: Tensor) -> Tensor:
    """``value`` to the last bit forward, and the gradient of ``x`` backward."""
    return value.detach() + (x - x.detach())


def check_weight(w: Tensor) -> None:
    """Every scheme's first line: a floating, finite tensor that holds something."""
    if not w.is_floating_point():
        raise SchemeError(f"a {w.dtype} tensor of shape {tuple(w.shape)} is not a weight; exclude it from the sites")
    if w.numel() == 0:
        raise SchemeError(f"the tensor of shape {tuple(w.shape)} is empty; exclude it from the sites")
    if not bool(torch.isfinite(w).all()):
        bad = int((~torch.isfinite(w)).sum())
        raise SchemeError(f"{bad} of {w.numel()} entries are not finite; repair the model before compressing it")
