"""A compression tensor by tensor: bytes before and after, and how far weights moved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from featherweight.activations.dynamic import DynamicQuantizer
from featherweight.activations.learned import HalfWave
from featherweight.activations.logarithmic import LogQuantizer
from featherweight.activations.quantizers import Quantizer, Sign
from featherweight.core.compressed import Compressed, twin
from featherweight.core.edit import Edit
from featherweight.core.tap import Function, Place
from featherweight.file import slots
from featherweight.graph.attributes import SetSizes
from featherweight.graph.cut import Cut
from featherweight.graph.depth import Skip
from featherweight.graph.fold import Fold
from featherweight.graph.groups import Group
from featherweight.graph.rewrite import CutGraph
from featherweight.run import relative_error


def state_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of every tensor of the model's state, tied ones once."""
    state = model.state_dict()
    return {slot.name: prod(slot.shape) * state[slot.name].element_size() for slot in slots(model)}


def edited(parent: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """A copy of the parent with the same changes of structure; what its tensors are compared under."""
    model = twin(parent)
    for edit in edits:
        model = edit.replaced(model)
    return model


@torch.no_grad()
def errors(parent: nn.Module, student: Compressed) -> dict[str, float]:
    """``‖w − ŵ‖ / ‖w‖`` of every parameter that both have in one shape, largest first.

    ``w`` is the parent's after the student's edits. Learning moves weights too: this is how far they went in all.
    """
    before = dict(edited(parent, student.edits).named_parameters())
    found = {}
    for name in student.names:
        if name in before and before[name].shape == student.parameter(name).shape:
            found[name] = relative_error(before[name].cpu(), student.parameter(name).detach().cpu())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class Activation:
    """Activations that are sent through one function. Levels lie from ``low`` to ``high``, ``step`` apart if evenly.

    Where the range is found as the model runs there are none of these.
    """

    places: tuple[str, ...]
    function: str
    bits: int | None
    low: float | None = None
    high: float | None = None
    step: float | None = None


def activations(sites: Mapping[Place, Function]) -> tuple[Activation, ...]:
    """Every function once, with its places, in the order of the first."""
    places: dict[Function, list[str]] = {}
    for place, function in sites.items():
        places.setdefault(function, []).append(str(place))
    return tuple(_activation(tuple(at), function) for function, at in places.items())


def _activation(places: tuple[str, ...], function: Function) -> Activation:
    match function:
        case Quantizer():
            step = float(function.scale)
            return Activation(places, "uniform", function.bits, function.lowest * step, function.highest * step, step)
        case Sign():
            return Activation(places, "sign", 1, -1.0, 1.0, 2.0)
        case HalfWave():
            return Activation(
                places, "half-wave", function.bits, 0.0, (2**function.bits - 1) * function.step, function.step
            )
        case LogQuantizer():
            lowest = -function.largest if function.signed else 0.0
            return Activation(places, "logarithmic", function.bits, lowest, function.largest)
        case DynamicQuantizer():
            return Activation(places, "dynamic", function.bits)
        case _:
            return Activation(places, type(function).__name__, None)


def changes(edits: Sequence[Edit], parent: nn.Module) -> list[str]:
    """Each change of structure in words; shapes are those that the model has before that edit."""
    model, told = twin(parent), []
    for edit in edits:
        told += _told(edit, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
        model = edit.replaced(model)
    return told


def _told(edit: Edit, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    match edit:
        case Fold():
            return [f"norm {norm} folded into {layer}" for layer, norm in edit.pairs]
        case Cut() | CutGraph():
            return [
                f"{name}, dimension {dim}: {len(at)} of {shapes[name][dim]} kept"
                for name, dims in edit.kept.items()
                for dim, at in dims.items()
            ]
        case Group():
            return [
                f"{path}: {len(wiring.inputs)} groups, each of {len(wiring.inputs[0])} inputs"
                for path, wiring in edit.layers.items()
            ]
        case Skip():
            return [f"block {path} left out" for path in edit.blocks]
        case SetSizes():
            return [f"{path}.{name} = {size}" for path, sizes in edit.sizes.items() for name, size in sizes.items()]
        case _:
            return [edit.identifier]
