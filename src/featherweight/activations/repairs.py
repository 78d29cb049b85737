"""Values that compression shifted, given back; and values moved so that it shifts less: repairs for stages."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from featherweight.activations.correction import corrected_bias
from featherweight.activations.equalization import Layer, equalize_chain
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SelectionError, naming
from featherweight.core.hooks import Seen
from featherweight.core.stage import Repair, Repaired
from featherweight.core.tap import Call, Operator, Place, watching
from featherweight.core.task import Task, call, evaluating, moved
from featherweight.graph.chains import find_chains
from featherweight.graph.fold import LAYERS, own_layer, own_norm
from featherweight.graph.sites import WEIGHTED
from featherweight.graph.trace import trace


class Moments:
    """Count, mean and summed squared deviation of every channel, pooled over batches in float64.

    Chan, Golub and LeVeque 1979, Updating formulae and a pairwise algorithm for computing sample variances.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.deviation = torch.zeros(())

    def add(self, x: Tensor, channel: int) -> None:
        """Take in a batch whose channels are dimension ``channel``."""
        rows = x.detach().movedim(channel, -1).flatten(0, -2).double()
        mean = rows.mean(0)
        deviation = (rows - mean).square().sum(0)
        total = self.count + len(rows)
        apart = mean - self.mean.to(mean)
        self.deviation = self.deviation.to(mean) + deviation + apart.square() * (self.count * len(rows) / total)
        self.mean = self.mean.to(mean) + apart * (len(rows) / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Without bias: of ``n − 1``, as torch keeps it."""
        return self.deviation / max(self.count - 1, 1)


@torch.no_grad()
def moments(model: Compressed, task: Task, channels: Mapping[Place, int], batches: int) -> dict[Place, Moments]:
    """What passes the places while the model runs on calibration batches, by channels, given as dimensions.

    Operands are as taps leave them, results as they are before taps.
    """
    found = {place: Moments() for place in channels}
    missing: set[Place] = set()

    def note(place: Place, x: Tensor) -> Tensor:
        found[place].add(x, channels[place] % x.ndim)
        missing.discard(place)
        if not missing:
            raise Seen
        return x

    with evaluating(model), watching(model.base, note, list(channels)):
        for batch in islice(task.calibration_data(), batches):
            missing |= set(channels)
            with suppress(Seen):
                call(model, moved(batch, model.device))
    return found


@torch.no_grad()
def calls_of(model: Compressed, task: Task, operators: Iterable[Operator]) -> list[Call]:
    """The calls of these operators in the order in which they run on the first calibration batch."""
    wanted, found = frozenset(operators), []

    def note(place: Place, x: Tensor) -> Tensor:
        if place.operand is None and place.call.operator in wanted:
            found.append(place.call)
        return x

    with evaluating(model), watching(model.base, note):
        call(model, moved(next(iter(task.calibration_data())), model.device))
    return found


@dataclass(frozen=True)
class BiasCorrection(Repair):
    """Every layer's bias becomes ``b − (E[ỹ] − E[y])``, layer by layer in the order in which they run.

    ``y`` are the layer's outputs before the stage and ``ỹ`` those of the student, before activation functions and
    quantizers, over the first ``batches`` calibration batches, with all layers before it corrected already (Nagel et
    al. 2019, arXiv 1906.04721, section 4.2 and appendix: the empirical variant). A coded bias is coded anew. Layers
    without a bias, and those that run more than once, are left: norms are folded first, which gives a bias.
    """

    batches: int = 2

    @torch.no_grad()
    def repair(self, student: Compressed, before: Compressed, task: Task) -> Repaired:
        biases, left = _biases(student, calls_of(student, task, WEIGHTED))
        channels = {Place(at, None): _channel(student, at) for at in biases}
        wanted = moments(before, task, channels, self.batches)
        changed = {}
        for at, name in biases.items():
            place = Place(at, None)
            now = moments(student, task, {place: channels[place]}, self.batches)[place]
            bias = student.parameter(name).detach()
            with naming(name):
                student.renew(name, corrected_bias(bias.double(), wanted[place].mean, now.mean))
            changed[name] = relative_change(bias, student.parameter(name).detach())
        return Repaired(changed, left)


def _biases(student: Compressed, calls: list[Call]) -> tuple[dict[Call, str], dict[str, str]]:
    """Call -> the layer's bias, by its first name; and the layers that have none of their own."""
    modules = dict(student.base.named_modules())
    first = {name: names[0] for names in student.names.values() for name in names}
    found: dict[Call, str] = {}
    left: dict[str, str] = {}
    for at in calls:
        layer, name = modules[at.module], f"{at.module}.bias"
        if not isinstance(layer, LAYERS):
            left[str(at)] = "its bias is not corrected: it is no layer with a weight and a bias of its own"
        elif layer.bias is None:
            left[name] = "the layer has no bias to correct; fold its norm into it first"
        elif at.ordinal or len(student.names[first[name]]) > 1:
            left[name] = "the layer runs more than once, or shares its bias: its outputs have no one mean"
            found.pop(Call(at.module, at.operator), None)
        else:
            found[at] = first[name]
    return found, left


def _channel(student: Compressed, at: Call) -> int:
    """The dimension of channels in a layer's outputs, from the end."""
    return -1 if at.operator is Operator.LINEAR else 1 - student.base.get_submodule(at.module).weight.ndim  # type: ignore


@dataclass(frozen=True)
class NormReestimation(Repair):
    """Batch norms' statistics become the mean and variance of what reaches them now, norm by norm as they run.

    Pooled exactly over the first ``batches`` calibration batches, with all norms before it set already, instead of the
    running averages of training (batch-norm re-tuning: Sun et al. 2019, Hybrid 8-bit Floating Point Training and
    Inference for Deep Neural Networks, section 3). For students whose norms are not folded.
    """

    batches: int = 4

    @torch.no_grad()
    def repair(self, student: Compressed, before: Compressed, task: Task) -> Repaired:
        calls = calls_of(student, task, [Operator.NORMALIZE])
        again = {at.module for at in calls if at.ordinal}
        changed, left = {}, dict.fromkeys(again, "the norm runs more than once: its inputs have no one mean")
        for at in calls:
            norm = own_norm(student.base.get_submodule(at.module))
            if norm is None or at.module in again or norm.running_mean is None or norm.running_var is None:
                continue
            place = Place(at, 0)
            now = moments(student, task, {place: 1}, self.batches)[place]
            for leaf, buffer, value in (
                ("running_mean", norm.running_mean, now.mean),
                ("running_var", norm.running_var, now.variance),
            ):
                changed[f"{at.module}.{leaf}"] = relative_change(buffer, value)
                buffer.copy_(value)
        return Repaired(changed, left)


@dataclass(frozen=True)
class Equalize(Repair):
    """Scales moved between layers, so that one range suits all channels: for what is quantized afterwards.

    Every chain of layers in the traced graph (:mod:`featherweight.graph.chains`) is rescaled as in Nagel et al. 2019,
    arXiv 1906.04721, section 4.1, to the same function with equal ranges on both sides of every channel. Norms are to
    be folded before. ``relu6`` takes ReLU6 for a ReLU, as the paper does: the function changes where its bound is
    reached. Raises ``SelectionError`` where activations go through functions already, whose ranges would be wrong.
    """

    relu6: bool = False

    @torch.no_grad()
    def repair(self, student: Compressed, before: Compressed, task: Task) -> Repaired:
        if student.sites:
            raise SelectionError("activations are quantized already; equalize in a stage before the one that does it")
        with evaluating(student.base):
            chains = find_chains(trace(student.base, task.example()), student.base, relu6=self.relu6)
        changed, left = {}, {}
        for chain in chains:
            if any(f"{name}.weight" in student.codes for name in chain):
                left[", ".join(chain)] = "a weight is coded already; equalize before"
                continue
            layers = [layer_of(student.base, name) for name in chain]
            for name, was, now in zip(chain, layers, equalize_chain(layers)[0], strict=True):
                for leaf, old, new in (("weight", was.weight, now.weight), ("bias", was.bias, now.bias)):
                    if old is not None and new is not None:
                        student.renew(f"{name}.{leaf}", new)
                        changed[f"{name}.{leaf}"] = relative_change(old, new)
        if not chains:
            left["equalization"] = "no layer's channels reach one other layer alone, through ReLU or pooling"
        return Repaired(changed, left)


def layer_of(model: nn.Module, name: str) -> Layer:
    """The weight, bias and groups of a linear layer or a convolution."""
    module = model.get_submodule(name)
    layer = own_layer(module)
    if layer is None:
        raise SelectionError(f"{name} is no linear layer and no convolution with a weight of its own")
    groups = 1 if isinstance(module, nn.Linear) else layer.groups
    return Layer(layer.weight.detach(), None if layer.bias is None else layer.bias.detach(), groups)


def relative_change(before: Tensor, after: Tensor) -> float:
    """``‖v − w‖ / max(‖v‖, ‖w‖)``; 0 where both are zero."""
    v, w = after.double(), before.double()
    larger = max(float(v.norm()), float(w.norm()))
    return float((v - w).norm()) / larger if larger else 0.0
