"""Students whose weights are integers and whose activations are quantized, made without training."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from featherweight.activations.quantizers import Quantizer
from featherweight.activations.rules import Calibrated
from featherweight.core.compressed import Compressed
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import Task
from featherweight.graph.fold import FoldNorms
from featherweight.run import run
from featherweight.schemes.uniform import PerChannel, Uniform

INT8 = Uniform(8, granularity=PerChannel())


def coded(model: nn.Module, scheme: Uniform = INT8) -> Compressed:
    """The model with integer codes for its weights."""
    student = Compressed(model.eval())
    weights = {name: p for name, p in model.named_parameters() if name.endswith("weight")}
    student.encode({name: scheme.project(p) for name, p in weights.items()}, dict.fromkeys(weights, scheme))
    return student


def calibrated(model: nn.Module, task: Task) -> Compressed:
    """The model after training: norms folded, weights and activations in 8 bits."""
    stage = Stage("int8", {WEIGHTS: INT8}, edit=FoldNorms(), tap=Calibrated(batches=2))
    return run(model, task, Recipe("int8", (stage,)))[0].eval()


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, *x: Tensor) -> Tensor:
        return self.function(*self.layers, *x)


class Between(nn.Module):
    """An operation between quantizers: one for each input, by their shares of channels, and one for the result."""

    def __init__(self, operation: nn.Module, x: Tensor, ranges: tuple[tuple[float, float], ...] = ((-3, 4),)) -> None:
        super().__init__()
        self.operation = operation
        self.before = nn.ModuleList([Quantizer.covering(*each, 8) for each in ranges])
        with torch.no_grad():
            y = self.between(x)
        # A little less than all: some saturates, and scales are in no simple ratio, in which roundings would tie.
        self.behind = Quantizer.covering(0.9737 * float(y.min()), 0.9611 * float(y.max()), 8)

    def between(self, x: Tensor) -> Tensor:
        """The operation's result before it is quantized."""
        y: Tensor = self.operation(*(quantizer(x) for quantizer in self.before))
        return y

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.behind(self.between(x))
        return y
