"""Gradients that are compressed before the optimizer sees them, as they would be to be sent."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from featherweight.core.scheme import Scheme
from featherweight.core.stage import adam
from featherweight.training.optimizers import parameters_of


@dataclass(frozen=True)
class CompressedGradients:
    """An optimizer whose steps take ``decode(project(g))`` of every gradient ``g``, a tensor at a time.

    It stands where a :class:`featherweight.core.stage.Training` has an optimizer. What parallel training would send
    instead of 32-bit gradients are the codes (Dettmers 2015, arXiv 1511.04561, section 3: each of several workers
    decodes the others' before they are summed; here there is one). A gradient that is zero stays so.
    """

    scheme: Scheme
    optimizer: Callable[[Iterable[Any], float], torch.optim.Optimizer] = adam

    def __call__(self, parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
        made = self.optimizer(parameters, lr)
        made.register_step_pre_hook(self._compress)
        return made

    @torch.no_grad()
    def _compress(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for parameter in parameters_of(optimizer):
            if parameter.grad is not None and parameter.grad.numel():
                parameter.grad.copy_(self.scheme.project(parameter.grad).decode())
