"""Sizes that modules keep as numbers, made true again after a cut."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.fx import Node

from featherweight.core.edit import Edit
from featherweight.core.errors import FormatError
from featherweight.graph.label_rules import shape_of
from featherweight.graph.resize import Called, Resized
from featherweight.graph.trace import module_of

aten = torch.ops.aten
VIEWS = frozenset({aten.view.default, aten.reshape.default})

Sizes = Mapping[str, Mapping[str, int]]
"""Module path -> attribute -> number."""


@dataclass(frozen=True)
class SetSizes(Edit):
    """Numbers that the modules' own code reads: numbers of heads, widths of views, paddings. They only get smaller."""

    sizes: Sizes
    identifier: ClassVar[str] = "sizes"

    def apply(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        for path, attributes in self.sizes.items():
            for name, size in attributes.items():
                if path not in modules or size > numbers(modules[path]).get(name, -1):
                    raise FormatError(f"the model has no number {name!r} of {size} or more in module {path!r} to set")
                setattr(modules[path], name, size)

    def to_json(self) -> dict[str, object]:
        return {path: dict(attributes) for path, attributes in self.sizes.items()}

    @classmethod
    def from_json(cls, record: dict[str, object]) -> "SetSizes":
        sizes = {}
        for path, attributes in record.items():
            if not isinstance(attributes, dict) or not all(
                type(size) is int and size >= 0 for size in attributes.values()
            ):
                raise FormatError(f"the sizes of module {path!r} are not a table of numbers from 0 on")
            sizes[path] = dict(attributes)
        return cls(sizes)


def numbers(module: nn.Module) -> dict[str, int]:
    """The whole numbers that a module has as attributes, in the order in which they were set."""
    return {name: value for name, value in vars(module).items() if type(value) is int and not name.startswith("__")}


def follow(resized: Resized, model: nn.Module) -> SetSizes | None:
    """Attributes that equal a size that changes in a call of their module, or of a module around it.

    A guess, which has to be proved: the number may be there for another reason. Where a module has several attributes
    of one size that changes differently, they follow in the order in which they were set.
    """
    changes: dict[str, list[tuple[int, int]]] = {}
    for node in resized.walked.traced.nodes:
        if node.op == "call_function":
            pairs = _changes(node, resized.call(node)) + _inferred(node, resized)
            if any(old != new for old, new in pairs):
                changes.setdefault(module_of(node), []).extend(pairs)
    modules = dict(model.named_modules())
    sizes: dict[str, dict[str, int]] = {}
    for path, pairs in changes.items():
        module = modules.get(path)
        ours = module is not None and not type(module).__module__.startswith("torch.")  # those follow their tensors
        found = _followed(module, pairs) if module is not None and ours else {}
        if found:
            sizes.setdefault(path, {}).update(found)
    return SetSizes(sizes) if sizes else None


def _changes(node: Node, called: Called) -> list[tuple[int, int]]:
    return [pair for before, after in zip(node.args, called.args, strict=False) for pair in _pairs(before, after)]


def _inferred(node: Node, resized: Resized) -> list[tuple[int, int]]:
    """Sizes that a view works out (−1), and that attributes may tell as well."""
    if node.target not in VIEWS:
        return []
    sizes, after = node.args[1], resized.shape(resized.value(node))
    trio = zip(sizes, shape_of(node), after, strict=True)  # type: ignore[arg-type]
    return [(old, new) for size, old, new in trio if size == -1]


def _pairs(before: Any, after: Any) -> list[tuple[int, int]]:
    if isinstance(before, Sequence) and isinstance(after, Sequence) and not isinstance(before, str):
        return [pair for old, new in zip(before, after, strict=False) for pair in _pairs(old, new)]
    if type(before) is int and type(after) is int:
        return [(before, after)]
    return []


def _followed(module: nn.Module, pairs: Collection[tuple[int, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for old in dict.fromkeys(old for old, new in pairs if old != new):
        news = [new for before, new in pairs if before == old]
        changed = [new for new in news if new != old]
        names = [name for name, value in numbers(module).items() if value == old]
        if len(set(news)) == 1 or (len(set(changed)) == 1 and len(names) == 1):
            found |= dict.fromkeys(names, changed[0])
        elif len(names) == len(news):
            found |= dict(zip(names, news, strict=True))
    return found
