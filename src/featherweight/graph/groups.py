"""Layers in groups: every group of outputs reads a few of the inputs, by an index and a grouped convolution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from featherweight.core.code import Code
from featherweight.core.compressed import Compressed
from featherweight.core.edit import Edit
from featherweight.core.errors import FormatError, SchemeError, SelectionError
from featherweight.core.site import WEIGHTS, Sites, parameters, select
from featherweight.core.stage import EditRule
from featherweight.core.tap import Place
from featherweight.core.task import Task
from featherweight.graph.cut import ascending
from featherweight.graph.fold import own_layer, paths


@dataclass(frozen=True)
class Wiring:
    """What the groups of a layer read: ``inputs[g]``, ascending, of the same length for all; and who is in them.

    Group ``g`` of ``G`` holds the outputs ``outputs[g n : (g + 1) n]`` of ``G n``; those that follow each other, where
    ``outputs`` is ``None``. An input may be read by several groups, or by none.
    """

    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...] | None = None

    @property
    def flat(self) -> tuple[int, ...]:
        return tuple(index for each in self.inputs for index in each)

    def weight(self, w: Tensor) -> Tensor:
        """What the groups hold of a weight [outputs, inputs, …]: [outputs, inputs of a group, …]."""
        rows = self.rows(w).chunk(len(self.inputs))
        at = [torch.tensor(each, device=w.device) for each in self.inputs]
        return torch.cat([part.index_select(1, each) for part, each in zip(rows, at, strict=True)])

    def rows(self, values: Tensor) -> Tensor:
        """Values of all outputs in the order of the groups."""
        return values if self.outputs is None else values[torch.tensor(self.outputs, device=values.device)]

    def to_json(self) -> dict[str, object]:
        order = {} if self.outputs is None else {"outputs": list(self.outputs)}
        return {"inputs": [list(each) for each in self.inputs], **order}

    @classmethod
    def from_json(cls, record: Any) -> "Wiring":
        inputs, outputs = (record.get(key) if isinstance(record, dict) else None for key in ("inputs", "outputs"))
        if not isinstance(inputs, list) or not inputs:
            raise FormatError("the groups of a layer are no list of what each reads")
        read = tuple(ascending(each) for each in inputs)
        if not read[0] or len({len(each) for each in read}) > 1:
            raise FormatError("the groups of a layer read different numbers of inputs, or none")
        if outputs is None:
            return cls(read)
        whole = isinstance(outputs, list) and all(type(index) is int for index in outputs)
        if not whole or sorted(outputs) != list(range(len(outputs))):
            raise FormatError("the outputs of the groups of a layer are not all of them, each once")
        return cls(read, tuple(outputs))


class _Wired(nn.Module):
    """Around a grouped convolution: which inputs it reads, and where its outputs go. No file keeps these indices."""

    index: Tensor
    place: Tensor | None

    def wire(self, wiring: Wiring, device: torch.device) -> None:
        place = None if wiring.outputs is None else torch.tensor(wiring.outputs, device=device).argsort()
        self.register_buffer("index", torch.tensor(wiring.flat, device=device), persistent=False)
        self.register_buffer("place", place, persistent=False)

    def read(self, x: Tensor, dim: int) -> Tensor:
        return x.index_select(dim, self.index)

    def placed(self, y: Tensor, dim: int) -> Tensor:
        return y if self.place is None else y.index_select(dim, self.place)


class GroupedConv1d(_Wired, nn.Conv1d):
    """A convolution in groups behind an index of its inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return self.placed(nn.Conv1d.forward(self, self.read(x, -2)), -2)


class GroupedConv2d(_Wired, nn.Conv2d):
    """The same in two dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return self.placed(nn.Conv2d.forward(self, self.read(x, -3)), -3)


class GroupedConv3d(_Wired, nn.Conv3d):
    """The same in three dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return self.placed(nn.Conv3d.forward(self, self.read(x, -4)), -4)


class GroupedLinear(_Wired, nn.Conv1d):
    """A linear layer in groups: a convolution of length 1, which every engine has in groups."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.read(x, -1).reshape(-1, self.in_channels, 1)
        y = nn.Conv1d.forward(self, rows)
        return self.placed(y.reshape(*x.shape[:-1], self.out_channels), -1)


CONVOLUTIONS: Mapping[type[nn.Module], type[Any]] = {
    nn.Conv1d: GroupedConv1d, nn.Conv2d: GroupedConv2d, nn.Conv3d: GroupedConv3d
}  # fmt: skip


def grouped(layer: nn.Conv2d | nn.Linear, wiring: Wiring) -> nn.Module:
    """A layer in groups with the weights of ``layer`` that its groups hold: parameters of its own."""
    w, bias, groups = layer.weight, layer.bias, len(wiring.inputs)
    sizes: dict[str, Any] = {
        "in_channels": len(wiring.flat), "out_channels": len(w), "groups": groups, "bias": bias is not None,
        "device": "meta",
    }  # fmt: skip
    made: Any
    if isinstance(layer, nn.Linear):
        made = GroupedLinear(kernel_size=1, **sizes)
    else:
        kept = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        made = CONVOLUTIONS[type(layer)](**sizes, **{name: getattr(layer, name) for name in kept})
    held = wiring.weight(w.detach())
    made.weight = nn.Parameter(held.reshape(made.weight.shape), requires_grad=w.requires_grad)
    if bias is not None:
        made.bias = nn.Parameter(wiring.rows(bias.detach()).clone(), requires_grad=bias.requires_grad)
    made.wire(wiring, w.device)
    return cast(nn.Module, made.train(layer.training))


@dataclass(frozen=True)
class Group(Edit):
    """Layers, by their first path, that become grouped ones: ``y_o = b_o + Σ_{i read by the group of o} w_{oi} x_i``.

    What a group does not read is left out, be it zero or not. The layer is torch's own convolution of one group, not
    transposed, or linear layer; the weight of a linear layer in groups has a third dimension, of length 1.
    """

    layers: Mapping[str, Wiring]
    identifier: ClassVar[str] = "group"

    def apply(self, model: nn.Module) -> None:
        for path, wiring in self.layers.items():
            layer = _layer(model, path, wiring)
            made = grouped(layer, wiring)
            for each in paths(model, layer):
                owner, _, leaf = each.rpartition(".")
                setattr(model.get_submodule(owner), leaf, made)

    def recode(self, model: nn.Module, name: str, code: Code) -> Code | None:
        """A bias follows its outputs; no code of a weight does."""
        wiring = self.layers.get(name.rpartition(".")[0])
        if wiring is None:
            return code
        if name.endswith("weight"):
            return None
        return code if wiring.outputs is None else code.select(0, torch.tensor(wiring.outputs, device=code.device))

    def retap(self, model: nn.Module, place: Place) -> Place:
        if place.call.module in self.layers:
            raise SelectionError(f"an activation of a layer in groups goes through a function ({place}); group first")
        return place

    def to_json(self) -> dict[str, object]:
        return {path: wiring.to_json() for path, wiring in self.layers.items()}

    @classmethod
    def from_json(cls, record: dict[str, object]) -> "Group":
        return cls({path: Wiring.from_json(each) for path, each in record.items()})


def _layer(model: nn.Module, path: str, wiring: Wiring) -> nn.Conv2d | nn.Linear:
    layer = groupable(model, path)
    if layer is None:
        raise FormatError(f"the model has no layer {path!r} of one group, with parameters of its own, to be grouped")
    outputs, inputs = layer.weight.shape[:2]
    if outputs % len(wiring.inputs) or (wiring.outputs is not None and len(wiring.outputs) != outputs):
        raise FormatError(f"{path!r} has {outputs} outputs, which are no {len(wiring.inputs)} groups as the edit says")
    if max(wiring.flat) >= inputs:
        raise FormatError(f"a group of {path!r} reads an input that is not there: the layer has {inputs}")
    return layer


def groupable(model: nn.Module, path: str) -> nn.Conv2d | nn.Linear | None:
    """The layer at this path, if it is one that can be put in groups."""
    layer = own_layer(dict(model.named_modules()).get(path)) if path else None
    if layer is None or getattr(layer, "groups", 1) != 1:
        return None
    own = {f"{each}.{leaf}" for each in paths(model, layer) for leaf in ("weight", "bias")}
    held = {id(parameter) for parameter in layer.parameters()}
    names = {name for _, each, parameter in parameters(model) if id(parameter) in held for name in each}
    return layer if names <= own else None


@dataclass(frozen=True)
class GroupLayers(EditRule):
    """Put layers whose zeros allow it in ``groups`` groups; nothing is lost, as only zeros are left out.

    Two ways are looked at: filters that follow each other are a group; or filters that have no input in common, over
    any others, are in different groups. Of both that one is taken whose groups read less. Where groups read different
    numbers of inputs, the smaller ones read some by zeros. A layer in which every group reads every input stays;
    ``SelectionError`` where all do.
    """

    groups: int
    sites: Sites = WEIGHTS

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise SchemeError(f"{self.groups} groups; give 1 or more")

    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        layers: dict[str, Wiring] = {}
        for name in select(student.base, self.sites):
            path, _, leaf = name.rpartition(".")
            if leaf == "weight" and groupable(student.base, path) is not None:
                w = student.weight(name).detach()
                wiring = wired(w.reshape(*w.shape[:2], -1).any(-1), self.groups)
                layers |= {} if wiring is None else {path: wiring}
        if not layers:
            raise SelectionError(
                f"no layer of {self.sites} reads fewer inputs in {self.groups} groups: prune what groups read first "
                "(GroupSparse of FilterGroups), or name another number"
            )
        return [Group(layers)]


def wired(reads: Tensor, groups: int) -> Wiring | None:
    """Groups of the outputs by what they read, bool [outputs, inputs]; ``None`` where that is everything."""
    outputs, inputs = reads.shape
    if outputs % groups:
        return None
    orders = [torch.arange(outputs), _parted(reads.cpu(), groups)]
    found = [_read(reads.cpu(), order, groups) for order in orders if order is not None]
    best = min(found, key=lambda wiring: len(wiring.inputs[0]))
    return best if len(best.inputs[0]) < inputs else None


def _read(reads: Tensor, order: Tensor, groups: int) -> Wiring:
    """The groups of the outputs in this order, and what each reads, filled up with inputs that it does not need."""
    needed = reads[order].reshape(groups, -1, reads.shape[1]).any(1)
    width = max(int(needed.sum(1).max()), 1)
    chosen = needed.int().argsort(dim=1, descending=True, stable=True)[:, :width].sort(dim=1).values
    plain = bool((order == torch.arange(len(order))).all())
    return Wiring(tuple(map(tuple, chosen.tolist())), None if plain else tuple(order.tolist()))


def _parted(reads: Tensor, groups: int) -> Tensor | None:
    """An order of the outputs in which those that have an input in common are in one group; ``None`` for none.

    The sets of outputs that are joined by common inputs are put into groups of equal size, the largest first.
    """
    shared = (reads.float() @ reads.float().T) > 0
    left, parts = torch.ones(len(reads), dtype=torch.bool), []
    for first in range(len(reads)):
        if left[first]:
            part = torch.zeros_like(left)
            part[first] = True
            while bool((grown := part | shared[part].any(0)).ne(part).any()):
                part = grown
            left &= ~part
            parts.append(part.nonzero().flatten())
    size, held = len(reads) // groups, [torch.empty(0, dtype=torch.long) for _ in range(groups)]
    for part in sorted(parts, key=len, reverse=True):
        at = next((g for g, members in enumerate(held) if len(members) + len(part) <= size), None)
        if at is None:
            return None
        held[at] = torch.cat([held[at], part])
    return torch.cat([members.sort().values for members in held])
