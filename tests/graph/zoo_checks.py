"""What holds of every model that is cut: law 4, with numbers in place of trust."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featherweight.core.edit import Edit
from featherweight.core.task import Example, tensors_of
from featherweight.graph.cut import masked, tensors
from featherweight.graph.edits import removal, walk
from featherweight.graph.labels import Labels, Walked


def randomised(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """In float64, with nothing at zero: with zero biases a wrong mask passes. Rows of weights have unit length."""
    model = model.to(dtype).eval()
    draw = torch.Generator().manual_seed(0)
    for name, tensor in tensors(model).items():
        if not tensor.is_floating_point():
            continue
        value = torch.randn(tensor.shape, generator=draw, dtype=torch.float64) * 0.3
        if tensor.ndim > 1:
            value /= 0.3 * tensor[0].numel() ** 0.5
        elif "running_var" in name:
            value = value.abs() + 0.5
        elif name.endswith("weight"):
            value += 1
        tensor.data.copy_(value)
    return model


def cast(example: Example, dtype: torch.dtype = torch.float64) -> Example:
    return Example(tuple(arg.to(dtype) if arg.is_floating_point() else arg for arg in example.args), example.kwargs)


def a_third(labels: Labels, seed: int = 0) -> list[int]:
    """About one third of every group, at random."""
    draw = np.random.RandomState(seed)
    return [group[at] for group in labels.groups() for at in draw.permutation(len(group))[: len(group) // 3]]


def reachable(walked: Walked, model: nn.Module) -> float:
    """The share of parameters, without embeddings, with a label that can be cut in at least one dimension."""
    embeddings = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Embedding)}
    all_of, reached = 0, 0.0
    for name, parameter in model.named_parameters():
        if name in embeddings:
            continue
        all_of += parameter.numel()
        stays = 1.0
        for _, labels in walked.stored[name].blocks if name in walked.stored else ():
            stays *= np.mean([walked.union.frozen[root] for root in walked.union.roots(labels).tolist()])
        reached += parameter.numel() * (1 - stays)
    return reached / all_of


def outputs(model: nn.Module, example: Example) -> list[Tensor]:
    with torch.no_grad():
        result: Any = example.run(model)
    return tensors_of(result.to_tuple() if "to_tuple" in dir(result) else result)


def difference(a: list[Tensor], b: list[Tensor]) -> float:
    """The largest difference, in parts of the largest entry of ``b``."""
    assert len(a) == len(b) > 0
    pairs = zip(a, b, strict=True)
    return max(float((x - y).abs().max() / y.abs().max().clamp(min=1e-300)) for x, y in pairs)


@dataclass(frozen=True, eq=False)
class Checked:
    """A model cut, and how far it is from the one that is masked."""

    edits: tuple[Edit, ...]
    small: nn.Module
    error: float
    moved: float
    reach: float
    barriers: tuple[str, ...]


def cut(model: nn.Module, example: Example) -> tuple[nn.Module, nn.Module, tuple[Edit, ...], Walked]:
    """The model with about a third of its channels cut, with these masked, the edits, and the walk that they are of."""
    walked = walk(model, example)
    dead = a_third(walked.labels)
    edits = removal(walked, dead, model, example)
    small, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    masked(walked.labels, dead, zeroed)
    for edit in edits:
        small = edit.replaced(small)
    return small, zeroed, edits, walked


def cut_a_third(model: nn.Module, example: Example) -> Checked:
    """Cut a third of the channels of a model with random numbers everywhere, and hold it against the masked model."""
    small, zeroed, edits, walked = cut(model, example)
    wanted = outputs(zeroed, example)
    error = difference(outputs(small, example), wanted)
    moved = difference(outputs(model, example), wanted)
    return Checked(edits, small, error, moved, reachable(walked, model), walked.labels.barriers)
