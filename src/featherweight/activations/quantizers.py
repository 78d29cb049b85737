"""Fake quantization of activations, with learned ranges."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SelectionError
from featherweight.core.stage import TapRule, TapSite
from featherweight.core.task import Task, call, evaluating, moved


class LearnedStep(nn.Module):
    """``s · round(clamp(x / s, low, high))``, with a learned step ``s``.

    Esser et al. 2019, arXiv 1902.08153: straight through inside the range; ``∂/∂s = round(x/s) − x/s`` inside, the
    bound outside (equation 3), times ``1/√(n · high)`` for ``n`` features of a sample (section 2.2); ``s`` starts at
    ``2 · mean|x| / √high`` (section 2.1). Unsigned where no input it started from was negative.
    """

    def __init__(self, bits: int, step: Tensor, signed: bool) -> None:
        super().__init__()
        self.low = -(2 ** (bits - 1)) if signed else 0
        self.high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.step = nn.Parameter(step)

    @classmethod
    def starting_from(cls, x: Tensor, bits: int) -> "LearnedStep":
        signed = bool((x < 0).any())
        high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        return cls(bits, (2 * x.abs().mean() / high**0.5).clamp(min=1e-8), signed)

    def forward(self, x: Tensor) -> Tensor:
        factor = (x[0].numel() * self.high) ** -0.5
        step = self.step * factor + (self.step * (1 - factor)).detach()
        inside: Tensor = (x / step).clamp(self.low, self.high)
        quantized: Tensor = (inside + (inside.round() - inside).detach()) * step
        return quantized


class Sign(nn.Module):
    """``+1`` where ``x ≥ 0``, else ``−1``; backward: straight through where ``|x| ≤ 1``, else 0.

    Hubara et al. 2016, arXiv 1602.02830, section 1.3.
    """

    def forward(self, x: Tensor) -> Tensor:
        bounded = x.clamp(-1, 1)
        return bounded + (torch.where(x >= 0, 1.0, -1.0).to(x.dtype) - bounded).detach()


def modules_at(student: Compressed, patterns: tuple[str, ...]) -> list[str]:
    """Names of the modules that match a pattern. Raises ``SelectionError`` where none does."""
    names = [name for name, _ in student.base.named_modules() if any(fnmatchcase(name, p) for p in patterns)]
    if not names:
        raise SelectionError(f"no module matches {', '.join(patterns)}; `model.named_modules()` lists them")
    return names


@dataclass(frozen=True)
class LearnedSteps(TapRule):
    """Quantize the inputs of the matching modules to ``bits``, steps started from one calibration batch."""

    modules: tuple[str, ...]
    bits: int = 4

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        inputs = _inputs(student, modules_at(student, self.modules), task)
        return [TapSite(name, LearnedStep.starting_from(x, self.bits)) for name, x in inputs.items()]


@dataclass(frozen=True)
class Signs(TapRule):
    """Binarize the inputs of the matching modules."""

    modules: tuple[str, ...]

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        return [TapSite(name, Sign()) for name in modules_at(student, self.modules)]


@torch.no_grad()
def _inputs(student: Compressed, names: list[str], task: Task) -> dict[str, Tensor]:
    """What reaches the modules for the first calibration batch."""
    found: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            found.setdefault(name, args[0].detach())

        return hook

    handles = [student.base.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]
    try:
        with evaluating(student):
            call(student, moved(next(iter(task.calibration_data())), student.device))
    finally:
        for handle in handles:
            handle.remove()
    return {name: found[name] for name in names if name in found}
