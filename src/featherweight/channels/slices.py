"""The slices of tensors that carry a label: what makes a channel, and what reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.costs.operations import CONVOLUTIONS, TRANSPOSED
from featherweight.graph.cut import tensors
from featherweight.graph.labels import Labels


@dataclass(frozen=True, eq=False)
class Slices:
    """Where the labels of a group are in one dimension of one tensor.

    ``numbers`` [m] says which label of the group, ``indices`` [m] at which index; a label may be at several.
    """

    name: str
    dim: int
    numbers: Tensor
    indices: Tensor

    def square(self, count: int) -> Tensor | None:
        """The indices as [labels, k], where every one of the ``count`` labels is at equally many; else ``None``."""
        times = torch.bincount(self.numbers, minlength=count)
        if not len(times) or int(times.min()) != int(times.max()) or int(times[0]) == 0:
            return None
        return self.indices[self.numbers.argsort(stable=True)].reshape(count, -1)


def slices(labels: Labels, group: Sequence[int]) -> list[Slices]:
    """All slices of a group's labels, one entry for each dimension of each parameter and buffer."""
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for number, label in enumerate(group):
        for name, dim, index in labels.free[label]:
            found.setdefault((name, dim), []).append((number, index))
    made = []
    for (name, dim), places in found.items():
        numbers, indices = torch.tensor(places).T
        made.append(Slices(name, dim, numbers, indices))
    return made


def owner(student: Compressed, name: str) -> nn.Module:
    """The module that has the parameter or buffer."""
    return student.base.get_submodule(name.rpartition(".")[0])


def is_weight(student: Compressed, name: str) -> bool:
    """Whether the name is of a parameter of two dimensions or more."""
    return name in student.names and student.parameter(name).ndim > 1


def makes(student: Compressed, each: Slices) -> bool:
    """Whether these slices of a weight compute the channels: rows; columns of embeddings, transposed convolutions."""
    if not is_weight(student, each.name):
        return False
    return each.dim == int(isinstance(owner(student, each.name), (nn.Embedding, *TRANSPOSED)))


def reads(student: Compressed, each: Slices) -> bool:
    """Whether these slices of a linear layer's or a convolution's weight are multiplied with the channels."""
    known = isinstance(owner(student, each.name), (nn.Linear, *CONVOLUTIONS)) and each.name.endswith("weight")
    return known and each.dim == 1 and is_weight(student, each.name)


def single(student: Compressed, name: str) -> bool:
    """Whether the weight is of a linear layer, or of a convolution of one group."""
    layer = owner(student, name)
    return isinstance(layer, nn.Linear) or (isinstance(layer, CONVOLUTIONS) and layer.groups == 1)


def made_by(student: Compressed, labels: Labels, group: Sequence[int]) -> list[Slices]:
    return [each for each in slices(labels, group) if makes(student, each)]


def read_by(student: Compressed, labels: Labels, group: Sequence[int]) -> list[Slices]:
    return [each for each in slices(labels, group) if reads(student, each)]


def summed(parts: Sequence[Slices], values: Mapping[str, Tensor], count: int) -> Tensor:
    """[labels], in float64: the sum of ``values``, of the tensors' shapes, over all slices of each label."""
    total = torch.zeros(count, dtype=torch.float64)
    for each in parts:
        value = values[each.name].detach().double().cpu()
        others = [dim for dim in range(value.ndim) if dim != each.dim]
        total.index_add_(0, each.numbers, (value.sum(others) if others else value)[each.indices])
    return total


def vectors(student: Compressed, parts: Sequence[Slices], count: int) -> Tensor:
    """[labels, entries], in float64: all slices of each label behind one another.

    ``SchemeError`` where some label has fewer of them than another.
    """
    state = tensors(student.base)
    found = []
    for each in parts:
        at = each.square(count)
        if at is None:
            raise SchemeError(f"channels of {each.name} are not carried by equally many slices; leave the group out")
        tensor = state[each.name].detach().double().cpu().movedim(each.dim, 0)
        found.append(tensor[at].reshape(count, -1))
    return torch.cat(found, 1) if found else torch.zeros(count, 0, dtype=torch.float64)


def even(parts: Sequence[Slices], count: int) -> bool:
    """Whether there are slices, and all ``count`` labels are at equally many indices of each."""
    return bool(parts) and all(each.square(count) is not None for each in parts)
