"""Optimizers that keep what learns within bounds, or on a grid, after every step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.schemes.fixed_point import FixedPoint, Rounding
from featherweight.schemes.shifted import nearest_power

Make = Callable[[Iterable[Any], float], torch.optim.Optimizer]
"""(parameters, learning rate) -> an optimizer: what :class:`featherweight.core.stage.Training` takes."""


@dataclass(frozen=True)
class Clipped:
    """``optimizer``, and after its step ``w ← clip(w, −b, b)`` for parameters of ``min_dims`` dimensions or more.

    For latent weights behind signs, which no longer change where a weight is beyond the magnitude (Courbariaux, Bengio
    and David 2015, section 2.4). ``bound`` is ``b``, or a function of the parameter.
    """

    optimizer: Make
    bound: float | Callable[[Tensor], float] = 1.0
    min_dims: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.bound, int | float) and not self.bound > 0:
            raise SchemeError(f"a bound of {self.bound} leaves nothing to learn; give one above zero")

    def __call__(self, parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
        made = self.optimizer(parameters, lr)
        made.register_step_post_hook(self._clip)
        return made

    @torch.no_grad()
    def _clip(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for parameter in parameters_of(optimizer):
            if parameter.ndim >= self.min_dims:
                bound = self.bound(parameter) if callable(self.bound) else self.bound
                parameter.clamp_(-bound, bound)


@dataclass(frozen=True)
class OnGrid:
    """``optimizer`` with every parameter on a fixed-point ``grid`` after each step: ``w ← round(w + Δw)``.

    There is no copy of higher precision. As ``w`` is on the grid, ``round(w + Δw) = w + round(Δw)``: an update of less
    than half a step is lost to nearest rounding every time, and happens with the probability of its size with
    stochastic rounding (Gupta et al. 2015, arXiv 1502.02551, sections 3.1 and 4). ``gradients`` is the grid that
    gradients are rounded to before the step, once a product has been accumulated; ``moments`` rounds what the optimizer
    keeps of the parameter's shape (the velocity of momentum). ``None`` leaves them float32, as the sum ``w + Δw`` is.
    ``grid`` may be a function of the parameter.

    The parameters that the optimizer is given must be on the grid: encode them with it first, to learn them freely
    (``Learn.FREE``), or they are rounded in the first step.
    """

    optimizer: Make
    grid: FixedPoint | Callable[[Tensor], FixedPoint] = FixedPoint()
    rounding: Rounding = Rounding.STOCHASTIC
    gradients: FixedPoint | None = None
    moments: FixedPoint | None = None

    def __call__(self, parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
        made = self.optimizer(parameters, lr)
        if self.gradients is not None:
            made.register_step_pre_hook(self._before)
        made.register_step_post_hook(self._after)
        return made

    @torch.no_grad()
    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        assert self.gradients is not None
        for parameter in parameters_of(optimizer):
            if parameter.grad is not None:
                parameter.grad.copy_(self.gradients.rounded(parameter.grad, self.rounding))

    @torch.no_grad()
    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for parameter in parameters_of(optimizer):
            grid = self.grid if isinstance(self.grid, FixedPoint) else self.grid(parameter)
            parameter.copy_(grid.rounded(parameter, self.rounding))
            if self.moments is not None:
                for kept in optimizer.state[parameter].values():
                    if isinstance(kept, Tensor) and kept.shape == parameter.shape:
                        kept.copy_(self.moments.rounded(kept, self.rounding))


@dataclass(frozen=True)
class Directions:
    """``optimizer`` that takes ``unit · g / 2^round(log₂ max|g|)`` for every gradient ``g``: of it, how large is lost.

    What is left are the proportions of a tensor's entries, the largest within ``unit · [1/√2, √2]`` (Wu, Li, Chen and
    Shi 2018, arXiv 1802.04680, section 3.3.3). ``unit`` is a function of the parameter. Zeros stay zeros.
    """

    optimizer: Make
    unit: Callable[[Tensor], float]

    def __call__(self, parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
        made = self.optimizer(parameters, lr)
        made.register_step_pre_hook(self._before)
        return made

    @torch.no_grad()
    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for parameter in parameters_of(optimizer):
            if parameter.grad is not None:
                parameter.grad.div_(nearest_power(parameter.grad)).mul_(self.unit(parameter))


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All that an optimizer steps, group by group."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
