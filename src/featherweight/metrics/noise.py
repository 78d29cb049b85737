"""How much of the noise that is put on weights and activations reaches a network's outputs, to first order.

A rounding error ``ε`` somewhere changes the outputs by ``∂f/∂(·) ε``, and errors of many places are taken to be
independent, so that variances add up, each times the square of its derivative (Holt and Hwang 1993, IEEE Transactions
on Computers 42(3), doi 10.1109/12.210171). Rounding to levels a step ``s`` apart has the variance ``s²/12`` and the
mean zero; truncation has the same variance and the mean ``−s/2``, which adds up before it is squared.

A weight's error is the same for every sample: no noise, but one draw, made once. What is predicted is the mean over
draws. An average over positions or samples does not lower it, as derivatives with respect to a weight tell, which are
sums over all positions.

Noise is relative: its power over that of the outputs, ``E‖Δf‖² / E‖f‖²``, all outputs together.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import inf, log10
from typing import Any

import torch
from torch import Tensor

from featherweight.core.compressed import Compressed
from featherweight.core.errors import TaskError
from featherweight.core.metric import Diagonal, Metric
from featherweight.core.stage import MetricRule
from featherweight.core.tap import Place, watching
from featherweight.core.task import Task, calibration_batches, call, evaluating, tensors_of
from featherweight.metrics.diagonal import Curvature, arguments
from featherweight.training.loop import seeded

VARIANCE = 1 / 12
"""Of a rounding error, in units of a squared step."""


def decibels(noise: float) -> float:
    """The signal-to-noise ratio of a relative noise; of none, infinity."""
    return -10 * log10(noise) if noise > 0 else inf


def relative_noise(snr: float) -> float:
    """Inverse of :func:`decibels`."""
    return float(10 ** (-snr / 10))


@dataclass(frozen=True)
class NoiseGain(MetricRule):
    """The noise at the outputs for unit variance in each weight: ``d = E‖∂f/∂w‖² / E‖f‖²``.

    That is the :class:`~featherweight.metrics.diagonal.Curvature` over the power of the outputs, so that
    ``Σ d (Δw)²`` is the relative noise of errors ``Δw``, if cross terms cancel.
    """

    batches: int = 4
    draws: int = 2
    seed: int = 0

    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Metric]:
        power = output_power(student, task, self.batches)
        measured = Curvature(self.batches, self.draws, self.seed).measure(student, names, task)
        gains: dict[str, Metric] = {}
        for name, each in measured.items():
            assert isinstance(each, Diagonal)
            gains[name] = Diagonal(each.diagonal / power)
        return gains


def activation_gains(
    student: Compressed, task: Task, places: Sequence[Place], batches: int = 4, draws: int = 2, seed: int = 0
) -> dict[Place, float]:
    """The relative noise at the outputs for unit variance in each entry at a place that is not exactly zero.

    Zeros, of which rectifiers make many, are levels of every quantizer and have no error. Estimated as in
    :class:`~featherweight.metrics.diagonal.Curvature`: by derivatives of random projections of the outputs.
    """
    gains = dict.fromkeys(places, 0.0)
    seen: dict[Place, Tensor] = {}

    def note(place: Place, x: Tensor) -> Tensor:
        seen[place] = x if x.requires_grad else x.detach().clone().requires_grad_()
        return seen[place].clone()  # what is seen must not be written to

    samples = 0
    with seeded(seed, 0), torch.enable_grad(), watching(student.base, note, places):
        for batch in _batches(student, task, batches):
            for _ in range(draws):
                seen.clear()
                outputs = _outputs(student, batch)
                value = torch.stack([(each * torch.randn_like(each)).sum() for each in outputs]).sum()
                found = torch.autograd.grad(value, list(seen.values()), allow_unused=True)
                samples += len(outputs[0])
                for (place, x), gradient in zip(seen.items(), found, strict=True):
                    if gradient is not None:
                        gains[place] += float((gradient * (x != 0)).square().sum())
    power = output_power(student, task, batches)
    return {place: gain / samples / power for place, gain in gains.items()}


@torch.no_grad()
def output_power(student: Compressed, task: Task, batches: int = 4) -> float:
    """``E‖f‖²``: the mean over samples of the outputs' sum of squares."""
    found = [_outputs(student, batch) for batch in _batches(student, task, batches)]
    total = sum(float(each.double().square().sum()) for outputs in found for each in outputs)
    if total == 0:
        raise TaskError(f"the outputs of task {task.name!r} are zero on its calibration data: there is no signal")
    return total / sum(len(outputs[0]) for outputs in found)


@torch.no_grad()
def truncation_mean(
    student: Compressed, task: Task, weights: Mapping[str, Tensor], activations: Mapping[Place, float], batches: int = 4
) -> float:
    """What the means of truncation add to the relative noise: ``E‖f(w − s/2, x − s/2) − f(w, x)‖² / E‖f‖²``.

    Steps ``s`` of weights broadcast against them. Zeros stay zeros. Not to first order: means are no noise, and the
    network is run with them.
    """
    shifted = {name: _truncated(student.weight(name), step) for name, step in weights.items()}

    def shift(place: Place, x: Tensor) -> Tensor:
        return _truncated(x, activations[place])

    total = 0.0
    count = 0
    for batch in _batches(student, task, batches):
        exact = _outputs(student, batch)
        with watching(student.base, shift, list(activations)) if activations else nullcontext():
            args, kwargs = arguments(batch)
            moved_by = tensors_of(torch.func.functional_call(student.base, _weights(student) | shifted, args, kwargs))
        total += sum(float((a - b).double().square().sum()) for a, b in zip(moved_by, exact, strict=True))
        count += len(exact[0])
    return total / count / output_power(student, task, batches)


def _truncated(x: Tensor, step: Tensor | float) -> Tensor:
    """``x`` less the mean error of truncation, where it is not zero."""
    return x - 0.5 * step * (x != 0)


def _weights(student: Compressed) -> dict[str, Tensor]:
    return {name: student.weight(name).detach() for name in student.names}


def _batches(student: Compressed, task: Task, count: int) -> Iterator[Any]:
    """Calibration batches, with the student in evaluation mode."""
    with evaluating(student):
        yield from calibration_batches(student, task, count)


def _outputs(student: Compressed, batch: Any) -> list[Tensor]:
    return tensors_of(call(student, batch))
