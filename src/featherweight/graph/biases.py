"""Layers without biases: a structural edit, and the rule that starts a network anew without them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from featherweight.core.code import Code
from featherweight.core.compressed import Compressed
from featherweight.core.edit import Edit
from featherweight.core.errors import FormatError
from featherweight.core.stage import EditRule
from featherweight.core.task import Task
from featherweight.graph.fold import own_layer


@dataclass(frozen=True)
class Unbias(Edit):
    """Layers, by module path, whose biases are left out."""

    layers: tuple[str, ...]
    identifier: ClassVar[str] = "unbias"

    def apply(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        for path in self.layers:
            layer = own_layer(modules.get(path))
            if layer is None or layer.bias is None:
                raise FormatError(f"the model has no layer {path!r} with a bias to leave out")
            layer.bias = None

    def recode(self, model: nn.Module, name: str, code: Code) -> Code | None:
        return None if name in {f"{path}.bias" for path in self.layers} else code

    def to_json(self) -> dict[str, object]:
        return {"layers": list(self.layers)}

    @classmethod
    def from_json(cls, record: dict[str, object]) -> "Unbias":
        layers = record.get("layers")
        if not isinstance(layers, list) or not all(isinstance(each, str) for each in layers):
            raise FormatError("the layers without biases are not a list of module paths")
        if len(set(layers)) < len(layers):
            raise FormatError("a layer loses its bias twice")
        return cls(tuple(layers))


@dataclass(frozen=True)
class Anew(EditRule):
    """Leave out the biases of all convolutions and linear layers, and let their weights start from ``initial``.

    ``initial`` is told the weight as it is and returns the first one of training.
    """

    initial: Callable[[Tensor], Tensor]

    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        layers = _layers(student.base)
        return [Unbias(tuple(path for path, layer in layers.items() if layer.bias is not None))]

    def values(self, student: Compressed, edits: Sequence[Edit], task: Task) -> Mapping[str, Tensor]:
        names = [f"{path}.weight" for path in _layers(student.base)]
        return {name: self.initial(student.parameter(name).detach()) for name in names if name in student.names}


def _layers(model: nn.Module) -> dict[str, nn.Conv2d]:
    found = {path: own_layer(module) for path, module in model.named_modules()}
    return {path: layer for path, layer in found.items() if layer is not None}
