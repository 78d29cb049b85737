"""Parameters and multiply-accumulates, dense and with zeros left out. Counts, never a claim of speed."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from featherweight.core.hooks import hooked
from featherweight.core.site import parameters
from featherweight.core.task import Example, evaluating

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
COUNTED = (nn.Linear, nn.RNNBase, *CONVOLUTIONS, *TRANSPOSED)


@dataclass(frozen=True)
class Operations:
    """``parameters`` and how many are ``nonzero``; multiply-accumulates of one sample: all, and of non-zero weights."""

    parameters: int
    nonzero: int
    macs: int
    macs_dense: int


@torch.no_grad()
def operations(model: nn.Module, example: Example) -> Operations:
    """Count on one run of the example, per sample of its batch.

    ``macs_dense`` counts matrix products, convolutions and attention as torch's own counter does, plus recurrent
    layers, which it does not see. ``macs`` leaves out products with zero weights of linear, convolution and recurrent
    layers; every other operation counts in full.
    """
    layers: dict[str, tuple[float, float]] = {}
    with evaluating(model), _watching(model, layers), FlopCounterMode(display=False) as counter:
        example.run(model)
    recurrent = sum(macs for name, (macs, _) in layers.items() if isinstance(model.get_submodule(name), nn.RNNBase))
    dense = counter.get_total_flops() / 2 + recurrent
    skipped = sum(macs * (1 - density) for macs, density in layers.values())
    batch = _batch(example)
    tensors = [parameter for _, _, parameter in parameters(model)]
    return Operations(
        parameters=sum(p.numel() for p in tensors),
        nonzero=sum(int(p.count_nonzero()) for p in tensors),
        macs=round((dense - skipped) / batch),
        macs_dense=round(dense / batch),
    )


@torch.no_grad()
def uses(model: nn.Module, example: Example) -> dict[str, float]:
    """How often every weight of linear, convolution and recurrent layers is multiplied for one sample of the example.

    By the first name of the parameter; a weight that several layers or calls use counts for all of them.
    """
    times: dict[str, float] = {}
    first = {name: names[0] for names in (all_names for _, all_names, _ in parameters(model)) for name in names}

    def watch(path: str) -> Any:
        def count(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            positions, _ = _uses(module, args[0], output)
            leaves = [leaf for leaf, _ in module.named_parameters() if leaf.startswith("weight")]
            for name in (first[f"{path}.{leaf}" if path else leaf] for leaf in leaves):
                times[name] = times.get(name, 0.0) + positions / batch

        return count

    batch = _batch(example)
    hooks = (m.register_forward_hook(watch(path)) for path, m in model.named_modules() if isinstance(m, COUNTED))
    with hooked(hooks), evaluating(model):
        example.run(model)
    return times


def _watching(model: nn.Module, layers: dict[str, tuple[float, float]]) -> AbstractContextManager[None]:
    """Add up (multiply-accumulates, density) of every layer with a weight of a known use, while the model runs."""
    return hooked(
        module.register_forward_hook(_counter(name, layers))
        for name, module in model.named_modules()
        if isinstance(module, COUNTED)
    )


def _counter(name: str, layers: dict[str, tuple[float, float]]) -> Any:
    def count(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        uses, weights = _uses(module, args[0], output)
        size = sum(w.numel() for w in weights)
        density = sum(int(w.count_nonzero()) for w in weights) / size
        layers[name] = (layers.get(name, (0.0, density))[0] + uses * size, density)

    return count


def _uses(module: nn.Module, given: Tensor, output: Any) -> tuple[int, list[Tensor]]:
    """How often every weight of a layer is multiplied in one run, and the weights."""
    if isinstance(module, nn.RNNBase):
        out = output[0]
        return prod(out.shape[:-1]), [w for name, w in module.named_parameters() if name.startswith("weight")]
    weight = module.get_parameter("weight")
    field = given if isinstance(module, TRANSPOSED) else output
    return field.numel() // max(len(weight), 1), [weight]


def _batch(example: Example) -> int:
    for value in (*example.args, *example.kwargs.values()):
        if isinstance(value, Tensor) and value.ndim:
            return value.shape[0]
    return 1
