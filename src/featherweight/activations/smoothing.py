"""Scales for each input channel of layers, moved into what is before them: for activations, or for weights.

With ``x̂ = x / s`` and ``Ŵ = W diag(s)`` a layer computes what it did. Large ``s`` make weights that matter large, so
that rounding them costs less of the output (AWQ), and outlying activations small, so that one range suits all (Smooth-
Quant). The division goes into the gain of the norm before, or into the layer before: no operation is added.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.activations.equalization import Layer
from featherweight.activations.repairs import layer_of, relative_change
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, SelectionError, TaskError, naming
from featherweight.core.hooks import hooked
from featherweight.core.scheme import Scheme
from featherweight.core.stage import Repair, Repaired
from featherweight.core.task import Task, call, evaluating, moved
from featherweight.graph.chains import Scaling, find_scalings
from featherweight.graph.trace import trace
from featherweight.metrics.hessian import InputMoment

SMALLEST = 1e-4
"""Channels count as at least this share of the largest: no scale is without bounds."""


def smoothing_scales(inputs: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """``s_j = max|x_j|^α / max|W_·j|^(1−α)``, in float64: [channels], from the two largest magnitudes of each.

    Xiao et al. 2022, arXiv 2211.10438, equation 4: ``α = 1`` leaves all the difficulty to the weights, ``α = 0`` to the
    activations. Channels that no input reaches, or that no weight reads, keep the scale one.
    """
    scales = inputs.double().pow(alpha) / weights.double().pow(1 - alpha)
    return torch.where((inputs > 0) & (weights > 0) & scales.isfinite(), scales, 1.0)


def activation_scales(inputs: Tensor, exponent: float) -> Tensor:
    """``s_j = x̄_j^α`` over the geometric middle of the largest and the least, in float64: [channels].

    ``x̄`` is the mean magnitude of each input channel (Lin et al. 2023, arXiv 2306.00978, equation 5); one factor for
    all channels changes nothing.
    """
    magnitudes = inputs.double()
    floor = SMALLEST * float(magnitudes.max())
    if not floor > 0:
        return torch.ones_like(magnitudes)
    scales = magnitudes.clamp(min=floor).pow(exponent)
    return scales / (scales.max() * scales.min()).sqrt()


@dataclass(frozen=True)
class Smooth(Repair):
    """SmoothQuant: every channel that can be is divided by :func:`smoothing_scales`, for what is quantized afterwards.

    Magnitudes of activations are the largest over ``batches`` calibration batches; those of weights the largest over
    all layers that read the channel. ``SelectionError`` where activations go through functions already, whose ranges
    would be wrong.
    """

    alpha: float = 0.5
    batches: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise SchemeError(f"a migration strength of {self.alpha} is not in [0, 1]; 0.5 suits most models")

    @torch.no_grad()
    def repair(self, student: Compressed, before: Compressed, task: Task) -> Repaired:
        def decide(scaling: Scaling, layers: Sequence[Layer], inputs: Tensor, times: int) -> Tensor:
            weights = torch.stack([layer.input_ranges() for layer in layers]).amax(0)
            return smoothing_scales(_by_channel(inputs, times).amax(1), _by_channel(weights, times).amax(1), self.alpha)

        return _scaled(student, task, self.batches, _largest, decide)


@dataclass(frozen=True)
class ActivationAware(Repair):
    """AWQ: every channel that can be is divided by :func:`activation_scales`, for weights that ``scheme`` stores.

    ``α`` of ``0, 1/steps … 1`` is the one with the least ``Σ E‖(Ŵ diag(s)⁻¹ − W) x‖²`` over the layers that read the
    channels, with ``Ŵ`` what the scheme makes of ``W diag(s)``: the full metric of the inputs over ``batches``
    calibration batches. ``α = 0`` is no scaling, so that the sum is never worse than without. Errors are as for
    :class:`Smooth`.
    """

    scheme: Scheme
    steps: int = 20
    batches: int = 16

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SchemeError(f"a search in {self.steps} steps tries nothing; give 1 or more")

    @torch.no_grad()
    def repair(self, student: Compressed, before: Compressed, task: Task) -> Repaired:
        rule = InputMoment(self.batches)

        def decide(scaling: Scaling, layers: Sequence[Layer], inputs: Tensor, times: int) -> Tensor:
            name = f"{scaling.readers[0]}.weight"
            metric = rule.measure(student, [name], task)[name]
            magnitudes = _by_channel(inputs, times).mean(1)

            def error(scales: Tensor) -> float:
                total = 0.0
                for layer in layers:
                    each = scales.repeat_interleave(times).to(layer.weight)
                    stored = replace(layer, weight=self.scheme.project(layer.with_inputs_times(each).weight).decode())
                    total += float(metric.distance(layer.weight, stored.with_inputs_times(1 / each).weight))
                return total

            tried = [activation_scales(magnitudes, step / self.steps) for step in range(self.steps + 1)]
            return min(tried, key=error)

        return _scaled(student, task, self.batches, _mean, decide)


Reduced = Callable[[Tensor, Tensor, int], Tensor]
"""(so far, magnitudes of a batch [rows, channels], rows so far) -> with the batch."""
Decide = Callable[[Scaling, Sequence[Layer], Tensor, int], Tensor]
"""(scaling, its readers, magnitudes of their inputs, inputs of each channel) -> scales of the channels."""


def _largest(total: Tensor, rows: Tensor, seen: int) -> Tensor:
    return torch.maximum(total, rows.amax(0).double())


def _mean(total: Tensor, rows: Tensor, seen: int) -> Tensor:
    return total + (rows.double().mean(0) - total) * (len(rows) / (seen + len(rows)))


def _by_channel(values: Tensor, times: int) -> Tensor:
    """[channels, times]: more than one input a channel behind a flattening."""
    return values.reshape(-1, times)


def _scaled(student: Compressed, task: Task, batches: int, reduced: Reduced, decide: Decide) -> Repaired:
    """Divide and multiply by what is decided, channel by channel; and what was changed."""
    if student.sites:
        raise SelectionError("activations are quantized already; scale in a stage before the one that does it")
    with evaluating(student.base):
        scalings = find_scalings(trace(student.base, task.example()), student.base)
    first = {name: names[0] for names in student.names.values() for name in names}
    open_, left = [], {}
    for scaling in scalings:
        touched = [first[name] for name in (*scaling.written, *(f"{each}.weight" for each in scaling.readers))]
        if any(name in student.codes for name in touched):
            left[", ".join(scaling.readers)] = "a weight, or the gain before it, is coded already; scale before"
        else:
            open_.append(scaling)
    if not scalings:
        left["scaling"] = "no norm or layer is read by linear layers alone"
    inputs = _magnitudes(student, task, [scaling.readers[0] for scaling in open_], batches, reduced)
    changed: dict[str, float] = {}
    for scaling in open_:
        layers = [layer_of(student.base, name) for name in scaling.readers]
        channels = student.parameter(first[scaling.written[0]]).shape[0]
        times = layers[0].inputs // channels
        with naming(", ".join(scaling.readers)):
            scales = decide(scaling, layers, inputs[scaling.readers[0]], times)
        _move(student, scaling, layers, scales, times, changed)
    return Repaired(changed, left)


def _move(
    student: Compressed,
    scaling: Scaling,
    layers: Sequence[Layer],
    scales: Tensor,
    times: int,
    changed: dict[str, float],
) -> None:
    values: dict[str, Tensor] = {}
    for name in scaling.written:
        value = student.parameter(name).detach()
        values[name] = value / scales.to(value.device).reshape(-1, *[1] * (value.ndim - 1))
    for name, layer in zip(scaling.readers, layers, strict=True):
        each = scales.to(layer.weight.device).repeat_interleave(times)
        wide = replace(layer, weight=layer.weight.double()).with_inputs_times(each)
        values[f"{name}.weight"] = wide.weight
    for name, value in values.items():
        was = student.parameter(name).detach().clone()
        student.renew(name, value)
        changed[name] = max(changed.get(name, 0.0), relative_change(was, student.parameter(name).detach()))


def _magnitudes(
    student: Compressed, task: Task, names: Sequence[str], batches: int, reduced: Reduced
) -> Mapping[str, Tensor]:
    """What each layer takes in, by channels, reduced over all batches."""
    found: dict[str, Tensor] = {}
    seen = dict.fromkeys(names, 0)

    def look(name: str, channel: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            rows = args[0].detach().abs().movedim(channel, -1).flatten(0, -2)
            found[name] = reduced(found.get(name, rows.new_zeros(rows.shape[-1]).double()), rows, seen[name])
            seen[name] += len(rows)

        return note

    handles = []
    for name in names:
        layer = student.base.get_submodule(name)
        channel = -1 if isinstance(layer, nn.Linear) else 1
        handles.append(layer.register_forward_pre_hook(look(name, channel)))
    with hooked(handles), evaluating(student):
        for batch in islice(iter(task.calibration_data()), batches if names else 0):
            call(student, moved(batch, student.device))
    for name in names:
        if not seen[name]:
            raise TaskError(f"no calibration input reached {name}; give data that uses it")
        if not bool(found[name].isfinite().all()):
            raise TaskError(f"what {name} takes in is not finite: look for NaN in model and calibration data")
    return found
