"""Labels: one for each channel, everywhere it appears.

Every index of every dimension of every parameter and buffer of the traced graph gets a label; operators say which
labels are the same (``featherweight.graph.label_rules``). What ends up with one label lives and dies together.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import Node

from featherweight.core.site import parameters
from featherweight.graph.label_rules import RULES, shape_of
from featherweight.graph.labelled import Algebra, Labelled
from featherweight.graph.trace import Traced, module_of
from featherweight.graph.union import Union

Place = tuple[str, int, int]
"""(name of a parameter or buffer, dimension, index)."""


@dataclass(frozen=True)
class Labels:
    """The classes of a model: for every free label the places it appears at, and what stopped others from being free.

    ``free`` maps a label to its places. ``barriers`` are operators whose labels are frozen: module and operator.
    """

    free: dict[int, tuple[Place, ...]]
    barriers: tuple[str, ...]

    def groups(self) -> list[list[int]]:
        """Labels whose first place is in one dimension of one tensor, together: candidates that can be weighed
        against each other. In the order of those places.
        """
        owners: dict[tuple[str, int], list[int]] = {}
        for label, places in self.free.items():
            owners.setdefault(places[0][:2], []).append(label)
        return list(owners.values())


class Walked:
    """A traced model whose graph was run on labels: those of every tensor in it."""

    def __init__(self, model: nn.Module, traced: Traced) -> None:
        self.traced = traced
        self.union = Union()
        self.algebra = Algebra(self.union)
        self.values: dict[Node, Labelled | list[Labelled]] = {}
        self.stored: dict[str, Labelled] = {}
        self.barriers: dict[str, None] = {}
        self._first = {name: first for first, names, _ in parameters(model) for name in names}
        for node in traced.nodes:
            self._visit(node)
        self.algebra.settle()
        self.labels = self._labels()

    def value(self, node: Any) -> Labelled:
        """The labels of a node; a constant of no dimensions for what is no tensor."""
        found = self.values.get(node) if isinstance(node, Node) else None
        return found if isinstance(found, Labelled) else Labelled(shape_of(node) if isinstance(node, Node) else ())

    def stop(self, node: Node, value: Labelled) -> None:
        """Name the node as one that fixes what comes in, if anything of the value is free."""
        if not self.algebra.all_frozen(value):
            self.barriers[f"{module_of(node) or 'the model'} ({node.target})"] = None

    def _visit(self, node: Node) -> None:
        if node.op == "placeholder":
            self.values[node] = self._given(node)
        elif node.op == "output":
            for source in node.all_input_nodes:
                for value in self._each(source):
                    self.algebra.fix_all(value)
        elif node.op == "call_function" and (node.users or node.meta.get("val") is not None):  # else it asserts
            self.values[node] = self._called(node)

    def _given(self, node: Node) -> Labelled:
        name = self.traced.names.get(node.name)
        shape = shape_of(node)
        tensor = node.meta.get("val")
        if name is None or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            return Labelled(shape)
        name = self._first.get(name, name)
        if name not in self.stored:
            unused = not node.users  # perhaps another entry point of the model uses it
            blocks = tuple(((dim,), self.union.fresh([size], unused)) for dim, size in enumerate(shape))
            self.stored[name] = Labelled(shape, blocks, zero=True)
        return self.stored[name]

    def _called(self, node: Node) -> Labelled | list[Labelled]:
        if getattr(node.target, "__name__", "") == "getitem":
            found = self.values.get(node.args[0]) if isinstance(node.args[0], Node) else None
            index = node.args[1]
            return found[index] if isinstance(found, list) and isinstance(index, int) else self._barrier(node)
        rule = RULES.get(node.target)
        result = rule(self, node) if rule is not None else None
        return self._barrier(node) if result is None else result

    def _each(self, node: Node) -> list[Labelled]:
        found = self.values.get(node, [])
        return found if isinstance(found, list) else [found]

    def _barrier(self, node: Node) -> Labelled | list[Labelled]:
        """Nobody knows the operator: what goes in stays as it is, and so does what comes out."""
        for value in [value for source in node.all_input_nodes for value in self._each(source)]:
            self.stop(node, value)
            self.algebra.fix_all(value)
        result = node.meta.get("val")
        if isinstance(result, list | tuple):
            return [Labelled(tuple(map(int, each.shape)) if isinstance(each, Tensor) else ()) for each in result]
        return Labelled(shape_of(node))

    def _labels(self) -> Labels:
        found: dict[int, list[Place]] = {}
        for name, value in self.stored.items():
            for (dim,), labels in value.blocks:
                for index, root in enumerate(self.union.roots(labels).tolist()):
                    if not self.union.frozen[root]:
                        found.setdefault(root, []).append((name, dim, index))
        return Labels({root: tuple(places) for root, places in found.items()}, tuple(self.barriers))
