"""Cutting channels: a structural edit decided on labels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from featherweight.core.code import Code
from featherweight.core.compressed import assign
from featherweight.core.edit import Edit
from featherweight.core.errors import FormatError
from featherweight.core.site import parameters
from featherweight.graph.labels import Labels

Kept = Mapping[str, Mapping[int, tuple[int, ...]]]
"""Name of a parameter or buffer -> dimension -> indices that stay, ascending."""


@dataclass(frozen=True)
class Cut(Edit):
    """Keep only these indices of these dimensions; the layers' size attributes follow."""

    kept: Kept
    identifier: ClassVar[str] = "cut"
    again: ClassVar[bool] = True

    def apply(self, model: nn.Module) -> None:
        buffers = dict(model.named_buffers())
        tied = {first: names for first, names, _ in parameters(model)}
        for name in self.kept:
            if name in buffers:
                owner, _, leaf = name.rpartition(".")
                model.get_submodule(owner)._buffers[leaf] = self.slice(name, buffers[name])
            elif name in tied:
                before = model.get_parameter(name)
                after = nn.Parameter(self.slice(name, before.detach()), requires_grad=before.requires_grad)
                assign(model, tied[name], after)
            else:
                raise FormatError(f"the model has no tensor {name!r} to cut")
        for module in {name.rpartition(".")[0] for name in self.kept}:
            resize(model.get_submodule(module))

    def recode(self, model: nn.Module, name: str, code: Code) -> Code | None:
        """The code of what stays; ``None`` where it cannot be taken apart."""
        found: Code | None = code
        for dim, indices in self.kept.get(name, {}).items():
            found = found and found.select(dim, torch.tensor(indices, device=code.device))
        return found

    def slice(self, name: str, tensor: Tensor) -> Tensor:
        """What stays of a tensor of the state called ``name``."""
        for dim, indices in self.kept.get(name, {}).items():
            if not 0 <= dim < tensor.ndim or not indices or indices[-1] >= tensor.shape[dim]:
                raise FormatError(f"a cut of {name!r} in dimension {dim} does not fit its shape {tuple(tensor.shape)}")
            tensor = self.select(tensor, dim, indices)
        return tensor

    def select(self, tensor: Tensor, dim: int, indices: tuple[int, ...]) -> Tensor:
        """A tensor of its own of these indices."""
        return tensor.index_select(dim, torch.tensor(indices, device=tensor.device))

    def to_json(self) -> dict[str, object]:
        return {name: {str(dim): list(at) for dim, at in dims.items()} for name, dims in self.kept.items()}

    @classmethod
    def from_json(cls, record: dict[str, object]) -> "Cut":
        kept: dict[str, dict[int, tuple[int, ...]]] = {}
        for name, dims in record.items():
            if not isinstance(dims, dict):
                raise FormatError(f"the cut of {name!r} is not a table of dimensions")
            kept[name] = {int(dim): ascending(at) for dim, at in dims.items()}
        return cls(kept)


def ascending(indices: Any) -> tuple[int, ...]:
    """The indices of a JSON record; ``FormatError`` where they are no integers from 0 on, or do not ascend."""
    if not isinstance(indices, list) or not all(type(index) is int and index >= 0 for index in indices):
        raise FormatError("the indices of what stays are not a list of integers")
    if any(a >= b for a, b in zip(indices, indices[1:], strict=False)):
        raise FormatError("the indices of what stays do not ascend")
    return tuple(indices)


def resize(module: nn.Module) -> None:
    """Make a layer's size attributes say what its tensors are."""
    match module:
        case nn.Linear():
            module.out_features, module.in_features = module.weight.shape
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            if module.groups > 1 and module.weight.shape[1] == 1:
                module.groups = module.weight.shape[0] // (module.out_channels // module.groups)
            module.out_channels = module.weight.shape[0]
            module.in_channels = module.weight.shape[1] * module.groups
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            if module.groups > 1 and module.in_channels == module.groups:
                module.groups = module.weight.shape[0]
            module.in_channels = module.weight.shape[0]
            module.out_channels = module.weight.shape[1] * module.groups
        case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.BatchNorm3d():
            sized = module.weight if module.weight is not None else module.running_mean
            module.num_features = len(sized) if sized is not None else module.num_features
        case nn.Embedding():
            module.num_embeddings, module.embedding_dim = module.weight.shape
        case nn.PReLU():
            module.num_parameters = len(module.weight)
        case nn.RNNBase():
            module.hidden_size = module.get_parameter("weight_hh_l0").shape[1]
            module.input_size = module.get_parameter("weight_ih_l0").shape[1]


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, those too that no file keeps."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def cut(labels: Labels, dead: Iterable[int], model: nn.Module) -> Cut:
    """The edit that removes these labels wherever they appear."""
    gone: dict[str, dict[int, set[int]]] = {}
    for label in dead:
        for name, dim, index in labels.free[label]:
            gone.setdefault(name, {}).setdefault(dim, set()).add(index)
    shapes = {name: tensor.shape for name, tensor in tensors(model).items()}
    return Cut(
        {
            name: {dim: tuple(i for i in range(shapes[name][dim]) if i not in at) for dim, at in dims.items()}
            for name, dims in gone.items()
        }
    )


def masked(labels: Labels, dead: Iterable[int], model: nn.Module) -> None:
    """Zero every slice of these labels, in place, biases and statistics too: what a cut model must equal."""
    state = tensors(model)
    with torch.no_grad():
        for label in dead:
            for name, dim, index in labels.free[label]:
                state[name].select(dim, index).zero_()
