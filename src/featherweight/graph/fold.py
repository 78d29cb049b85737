"""Folding batch normalisation into the layer before it: a structural edit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Node

from featherweight.core.code import Code
from featherweight.core.compressed import Compressed, assign
from featherweight.core.edit import Edit
from featherweight.core.errors import FormatError, SelectionError
from featherweight.core.site import parameters
from featherweight.core.stage import EditRule
from featherweight.core.tap import Call, Operator, Place
from featherweight.core.task import Task, evaluating
from featherweight.graph.trace import Traced, trace
from featherweight.schemes.floats import Floats, narrow
from featherweight.schemes.uniform import PerChannel, UniformCode

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Fold(Edit):
    """``γ (w x + b − μ)/√(σ² + ε) + β = w' x + b'``: the norm becomes the identity, and the layer has a bias.

    ``pairs`` are (layer, norm) by module path. A symmetric code with a scale for each output channel stays itself: its
    scales are multiplied, and the levels of a channel with negative γ change sign.
    """

    pairs: tuple[tuple[str, str], ...]
    identifier: ClassVar[str] = "fold"

    def apply(self, model: nn.Module) -> None:
        tied = {first: names for first, names, _ in parameters(model)}
        for name, norm_name in self.pairs:
            layer, norm = _pair(model, name, norm_name)
            factor, shift = _affine(norm)
            weight, bias = layer.weight, layer.bias
            scaled = weight.detach().double() * factor.view(-1, *[1] * (weight.ndim - 1))
            moved = shift if bias is None else shift + bias.detach().double() * factor
            parameter = nn.Parameter(scaled.to(weight.dtype), requires_grad=weight.requires_grad)
            assign(model, tied.get(f"{name}.weight", (f"{name}.weight",)), parameter)
            layer.bias = nn.Parameter(moved.to(weight.dtype), requires_grad=weight.requires_grad)
            for each in paths(model, norm):
                owner, _, leaf = each.rpartition(".")
                setattr(model.get_submodule(owner), leaf, nn.Identity())

    def recode(self, model: nn.Module, name: str, code: Code) -> Code | None:
        owner, _, leaf = name.rpartition(".")
        norms = dict(self.pairs)
        if owner not in norms:
            return None if any(name.startswith(f"{norm}.") for norm in norms.values()) else code
        factor, _ = _affine(_pair(model, owner, norms[owner])[1])
        symmetric = isinstance(code, UniformCode) and code.zeros is None and code.granularity == PerChannel(0)
        if leaf != "weight" or not symmetric or bool((factor == 0).any()):
            return None
        assert isinstance(code, UniformCode)
        scales = (code.scales.decode().double() * factor.abs()).to(code.scales.dtype)
        signs = factor.sign().to(code.levels.dtype).view(-1, *[1] * (code.levels.ndim - 1))
        return replace(code, levels=code.levels * signs, scales=Floats.holding(scales, narrow(scales)))

    def retap(self, model: nn.Module, place: Place) -> Place:
        """The norm's result is the layer's; between the two there is nothing left that could be quantized."""
        layers = {norm: layer for layer, norm in self.pairs}
        modules, call = dict(model.named_modules()), place.call
        within = call.module in layers or (call.module in layers.values() and place.operand is None)
        if not within:
            return place
        if call.operator is not Operator.NORMALIZE or place.operand is not None:
            raise SelectionError(
                f"an activation between a layer and its norm goes through a function ({place}); fold first"
            )
        layer = layers[call.module]
        operator = Operator.LINEAR if isinstance(modules[layer], nn.Linear) else Operator.CONVOLVE
        return Place(Call(layer, operator), None)

    def to_json(self) -> dict[str, object]:
        return dict(self.pairs)

    @classmethod
    def from_json(cls, record: dict[str, object]) -> "Fold":
        pairs = []
        for layer, norm in record.items():
            if not isinstance(norm, str):
                raise FormatError(f"the norm that is folded into {layer!r} has no name")
            pairs.append((layer, norm))
        if len({norm for _, norm in pairs}) < len(pairs):
            raise FormatError("a norm is folded into two layers")
        return cls(tuple(pairs))


def _pair(model: nn.Module, name: str, norm_name: str) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    modules = dict(model.named_modules())
    layer, norm = own_layer(modules.get(name)), own_norm(modules.get(norm_name))
    if layer is None or norm is None:
        raise FormatError(f"the model has no layer {name!r} and norm {norm_name!r} with statistics to fold")
    if layer.weight.shape[0] != norm.num_features:
        raise FormatError(f"{norm_name!r} norms {norm.num_features} channels, {name!r} has {layer.weight.shape[0]}")
    return layer, norm


def own_layer(module: nn.Module | None) -> nn.Conv2d | None:
    """The module, if it is one of :data:`LAYERS`, all of which have what is needed of their type here.

    Neither a subclass, which may compute more than its name says, nor one whose weight is computed from others.
    """
    return module if type(module) in LAYERS and "weight" in module._parameters else None  # type: ignore


def own_norm(module: nn.Module | None) -> nn.BatchNorm2d | None:
    """The same of :data:`NORMS`, with statistics."""
    return module if type(module) in NORMS and module.running_var is not None else None  # type: ignore


def paths(model: nn.Module, module: nn.Module) -> list[str]:
    """Every path at which the module is; it may be registered twice."""
    return [name for name, each in model.named_modules(remove_duplicate=False) if each is module]


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """``(a, c)`` of the norm as it is in evaluation, ``a x + c`` a channel, in float64."""
    assert norm.running_mean is not None and norm.running_var is not None
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    gain = torch.ones_like(deviation) if norm.weight is None else norm.weight.detach().double()
    beta = torch.zeros_like(deviation) if norm.bias is None else norm.bias.detach().double()
    return gain / deviation, beta - gain / deviation * norm.running_mean.double()


def foldable(traced: Traced, model: nn.Module) -> tuple[tuple[str, str], ...]:
    """(layer, norm) wherever a norm's only input is a layer's output that nobody else sees, each used once.

    The norm's features must be the layer's: those of a linear layer lie in the last dimension, a norm's in the second.
    """
    modules = dict(model.named_modules())
    uses: dict[str, int] = {}
    for call in traced.calls.values():
        uses[call.module] = uses.get(call.module, 0) + 1
    found = []
    for node, call in traced.calls.items():
        before = node.args[0]
        source = traced.calls.get(before) if isinstance(before, Node) else None
        if call.operator is not Operator.NORMALIZE or source is None or not isinstance(before, Node):
            continue
        layer, norm = own_layer(modules.get(source.module)), own_norm(modules.get(call.module))
        if layer is None or norm is None:
            continue
        single = uses[source.module] == uses[call.module] == len(before.users) == 1
        own = only_user(traced, model, before, layer) and only_user(traced, model, node, norm)
        if single and own and before.meta["val"].ndim == layer.weight.ndim:
            found.append((source.module, call.module))
    return tuple(found)


def only_user(traced: Traced, model: nn.Module, node: Node, module: nn.Module) -> bool:
    """Whether the parameters and statistics that the operation takes are the module's, and nobody else's."""
    owners = {f"{name}." for name in paths(model, module)}
    alias = {first: names for first, names, _ in parameters(model)}
    for arg in node.args[1:]:
        if not isinstance(arg, Node):
            continue
        name = traced.parameter(arg)
        if name is None or len(arg.users) > 1:
            return False
        names = alias.get(name) or next((names for names in alias.values() if name in names), (name,))
        if any(each.rpartition(".")[0] + "." not in owners for each in names):
            return False
    return True


@dataclass(frozen=True)
class FoldNorms(EditRule):
    """Fold every batch norm that can be.

    With ``required``, a model without any raises ``SelectionError`` and one that cannot be traced ``TraceError``; else
    norms stay, and the stage's coverage says why a trace failed.
    """

    required: bool = False

    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        with evaluating(student.base):
            pairs = foldable(trace(student.base, task.example()), student.base)
        if not pairs and self.required:
            raise SelectionError("no batch norm follows a layer in such a way that it can be folded")
        return [Fold(pairs)] if pairs else []
