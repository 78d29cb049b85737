"""Which slices of parameters write a channel, and which read it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from featherweight.costs.operations import CONVOLUTIONS
from featherweight.graph.fold import own_layer, own_norm
from featherweight.graph.labels import Labels, Place


@dataclass(frozen=True)
class Slices:
    """The places of one label by what they do with the channel.

    writing   rows of the weights of layers whose result has the channel
    shifts    entries of these layers' biases
    reading   columns of the weights of layers that mix the channel with others
    passing   rows of the weights of depthwise convolutions, which take in the channel and give it out again
    gains     entries of ``γ`` of batch norms that the channel goes through
    norms     all other entries of these norms: ``β`` and statistics
    others    entries of anything else, of which it is not known what they do
    """

    writing: tuple[Place, ...] = ()
    shifts: tuple[Place, ...] = ()
    reading: tuple[Place, ...] = ()
    passing: tuple[Place, ...] = ()
    gains: tuple[Place, ...] = ()
    norms: tuple[Place, ...] = ()
    others: tuple[Place, ...] = ()


def slices(model: nn.Module, labels: Labels) -> dict[int, Slices]:
    """Every free label's places, sorted by what the modules that own them do."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return {label: _sorted(modules, places) for label, places in labels.free.items()}


def _sorted(modules: Mapping[str, nn.Module], places: tuple[Place, ...]) -> Slices:
    found: dict[str, list[Place]] = {}
    for place in places:
        found.setdefault(_kind(modules, place), []).append(place)
    return Slices(**{kind: tuple(its) for kind, its in found.items()})


def _kind(modules: Mapping[str, nn.Module], place: Place) -> str:
    name, dim, _ = place
    owner, _, leaf = name.rpartition(".")
    module = modules.get(owner)
    if own_norm(module) is not None:
        return "gains" if leaf == "weight" else "norms"
    layer = own_layer(module)
    if layer is None or leaf not in ("weight", "bias"):
        return "others"
    groups = layer.groups if isinstance(module, CONVOLUTIONS) else 1
    depthwise = groups > 1 and groups == layer.in_channels == layer.out_channels
    if leaf == "bias":
        return "norms" if depthwise else "shifts"
    if depthwise:
        return "passing" if dim == 0 else "others"
    if groups > 1:
        return "others"
    return {0: "writing", 1: "reading"}.get(dim, "others")
