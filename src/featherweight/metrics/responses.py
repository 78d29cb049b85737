"""What a layer should answer: inputs of its weight, and the outputs that the original model gives there."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.metric import Full, Metric
from featherweight.core.stage import MetricRule
from featherweight.core.tap import Operator, Place, watching
from featherweight.core.task import Task, call, device_of, evaluating, moved
from featherweight.metrics.hessian import patches


@dataclass(frozen=True, eq=False, kw_only=True)
class Responses(Full):
    """Inputs ``X`` [n, columns] of a weight, and outputs ``Y`` [n, rows] that it should have there, without the bias.

    As a norm it is the full metric of its inputs, ``H = Xᵀ X / n``. A solver may ask for more: ``Y`` need not be what
    the weight makes of ``X``, where ``X`` comes from a compressed model and ``Y`` from the original.
    """

    inputs: Tensor
    outputs: Tensor
    bias: Tensor  # [rows]; zeros where the layer has none
    rectified: bool = False  # whether all that is made of the outputs is their rectification

    def answered(self, outputs: Tensor) -> Tensor:
        """What is seen of outputs: themselves, or ``max(y + b, 0)``."""
        return (outputs + self.bias.to(outputs)).relu() if self.rectified else outputs

    def error(self, v: Tensor) -> Tensor:
        """``‖f(Y) − f(X Vᵀ)‖² / n``, a scalar in float64, with ``f`` what is seen of outputs."""
        answers = self.answered(self.inputs.double() @ v.flatten(1).double().T)
        residual = self.answered(self.outputs.double()) - answers
        return residual.square().sum() / len(residual)


@dataclass(frozen=True)
class LayerResponses(MetricRule):
    """Responses of linear and convolution layers, sampled: at most ``samples`` rows of inputs a layer, drawn evenly.

    Outputs are those of the task's own model, ``task.model()``, whose parameters must have the shapes of the
    student's. With ``corrected``, inputs are the student's own, from behind the layers that are compressed already, so
    that a layer can make up for them (error correction, Wu et al. 2016, arXiv 1512.06473, section 3.3; the cascade of
    Aghasi et al. 2017, arXiv 1611.05162, section 3.2); else the original's. ``SchemeError`` for layers whose inputs are
    not known as rows (:func:`featherweight.metrics.hessian.patches`).
    """

    batches: int = 16
    samples: int = 8192
    corrected: bool = True
    seed: int = 0

    @torch.no_grad()
    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Metric]:
        original = self._original(student, task)
        return {name: self._one(student, original, name, task) for name in names}

    def _original(self, student: Compressed, task: Task) -> nn.Module:
        return task.model()

    def _rectified(self, original: nn.Module, layer: nn.Module, batch: Any) -> bool:
        """Whether outputs are to be seen through a rectifier."""
        return False

    def _one(self, student: Compressed, original: nn.Module, name: str, task: Task) -> Metric:
        owner = name.rpartition(".")[0]
        layer = original.get_submodule(owner)
        w = original.get_parameter(name).detach()
        if w.shape != student.parameter(name).shape:
            raise SchemeError(f"{name} has another shape than in the task's model; fit responses before cutting it")
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        theirs, ours = [], []
        batches = list(islice(iter(task.calibration_data()), self.batches))
        sizes = [batch_size(batch) for batch in batches]
        for batch, size in zip(batches, sizes, strict=True):
            rows = input_rows(original, layer, batch)
            share = max(self.samples * size // max(sum(sizes), 1), 1)
            drawn = torch.randperm(len(rows), generator=generator, device="cpu")[:share]
            theirs.append(rows[drawn.to(rows.device)])
            if self.corrected:
                rows = input_rows(student, student.base.get_submodule(owner), batch)
                ours.append(rows[drawn.to(rows.device)])
        if sum(map(len, theirs)) == 0:
            raise TaskError(f"no calibration input reached the layer of {name}; give data that uses it")
        outputs = torch.cat(theirs).to(student.device) @ w.flatten(1).T.to(student.device)
        inputs = torch.cat(ours if self.corrected else theirs).to(student.device)
        if not bool(torch.isfinite(inputs).all() and torch.isfinite(outputs).all()):
            raise TaskError(f"calibration inputs of the layer of {name} are not finite; clean the data")
        bias = layer.bias if isinstance(layer, nn.Linear | nn.Conv2d) else None
        found = torch.zeros(len(w), dtype=w.dtype) if bias is None else bias.detach()
        x = inputs.double()
        return Responses(
            x.T @ x / len(x),
            inputs=inputs,
            outputs=outputs,
            bias=found.to(student.device),
            rectified=self._rectified(original, layer, batches[0]),
        )


@dataclass(frozen=True)
class StudentResponses(LayerResponses):
    """The same, where outputs are those of the student as the stage found it, so that it may have learned before."""

    original: Compressed | None = field(default=None, repr=False, compare=False)

    def begun(self, student: Compressed, names: Sequence[str], task: Task) -> Self:
        return replace(self, original=Compressed(student.base).eval())

    def _original(self, student: Compressed, task: Task) -> nn.Module:
        return (self.original or Compressed(student.base).eval()).base


@dataclass(frozen=True)
class RectifiedResponses(StudentResponses):
    """The same, where outputs that a rectifier follows count as it leaves them (Nagel et al. 2020, section 3.5).

    Norms may be folded before. A layer is followed by a rectifier where that takes in the very tensor that the layer
    gives, and nothing in between.
    """

    def _rectified(self, original: nn.Module, layer: nn.Module, batch: Any) -> bool:
        given: list[Tensor] = []
        rectified = False

        def note(place: Place, x: Tensor) -> Tensor:
            nonlocal rectified
            rectified |= place.call.operator is Operator.RELU and place.operand == 0 and any(x is y for y in given)
            return x

        hook = layer.register_forward_hook(lambda module, args, y: given.append(y))
        with hook, evaluating(original), watching(original, note):
            call(original, moved(batch, device_of(original)))
        return rectified


def batch_size(batch: Any) -> int:
    """How many samples a batch holds, by its first tensor."""
    inputs = batch[0] if isinstance(batch, tuple | list) else batch
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    return len(first)


def input_rows(model: nn.Module, layer: nn.Module, batch: Any) -> Tensor:
    """What the layer's weight is multiplied with while the model runs on the batch."""
    found: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: found.append(patches(module, args[0])))
    with hook, evaluating(model):
        call(model, moved(batch, device_of(model)))
    return torch.cat(found) if found else torch.zeros(0, 1)
