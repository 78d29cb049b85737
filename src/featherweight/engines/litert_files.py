"""How LiteRT's files are made: converted in another environment, then freed of their batch and mended."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from featherweight import file
from featherweight.core.errors import EngineError
from featherweight.core.task import Example
from featherweight.engines.arrays import arrays_of
from featherweight.engines.decomposed import Kernels, aten, decomposed, standard
from featherweight.engines.engine import Arrays, Exported
from featherweight.engines.litert import opened
from featherweight.engines.tflite import File, free_batches, multiply_levels, pad_within, take_floats

Convert = Callable[[ExportedProgram], bytes]
"""A program, for the sizes of its example inputs, as the converter's file."""
BATCH = 37
"""Files are converted for this batch, which no other size of a network is likely to be a multiple of."""
CLOSE = 1e-4
"""Of the largest output: what kernels may give else for batches of another size, since they sum in another order."""
KERNELS = Kernels(folded=False, unquantized=aten.linear.default)


def written(model: nn.Module, example: Example, path: Path, convert: Convert) -> Exported:
    """Write a model as ``convert`` takes its program: for batches of any size where it holds on to none."""
    traced = decomposed(model, example, KERNELS)
    if traced.any_batch:
        data = _free(traced.exported, convert)
        if data is not None:
            return Exported(path, file.save(path, data), True)
    data = _mended(traced.exported, (example.args, example.kwargs), convert).packed()
    return Exported(path, file.save(path, data), False)


def _free(exported: ExportedProgram, convert: Convert) -> bytes | None:
    """A file for batches of any size; ``None`` where the model holds on to one."""
    inputs = _inputs(exported, BATCH)
    made = _mended(exported, inputs, convert)
    whole = made.packed()
    free_batches(made, BATCH)
    data = made.packed()
    return data if _same(whole, data, arrays_of(Example(*inputs))) else None


def _mended(exported: ExportedProgram, inputs: tuple[Any, Any], convert: Convert) -> File:
    exported.example_inputs = inputs
    made = File(convert(exported))
    take_floats(made)
    pad_within(made)
    multiply_levels(made, dict(_weights(exported)))
    return made


def _inputs(exported: ExportedProgram, batch: int) -> tuple[Any, Any]:
    """Inputs like the example's in a batch of this size, no sample like another: whatever mixes them shows."""
    source = torch.Generator().manual_seed(0)

    def sized(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.ndim:
            return x
        rows = [x[k % len(x)] for k in range(batch)]
        if x.is_floating_point():
            return torch.stack([row + torch.randn(row.shape, generator=source) for row in rows])
        return torch.stack([row.roll(k) for k, row in enumerate(rows)])

    assert exported.example_inputs is not None
    args, kwargs = exported.example_inputs
    return tuple(map(sized, args)), {name: sized(x) for name, x in kwargs.items()}


def _weights(
    exported: ExportedProgram,
) -> Iterator[tuple[bytes, tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]]]:
    """Numbers of weights with a scale for each row, as bytes -> levels and scales."""
    tensors = {**exported.state_dict, **exported.constants}
    signature = exported.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    for node in exported.graph.nodes:
        if node.target == standard.quantize_per_channel.default:
            weight, scales = (tensors[names[each.name]].detach() for each in node.args[:2])
            if weight.ndim == 2:
                levels = (weight / scales[:, None]).round().to(torch.int8)
                yield (levels * scales[:, None]).numpy().tobytes(), (levels.numpy(), scales.numpy())


def _same(whole: bytes, free: bytes, inputs: Arrays) -> bool:
    """Whether a file for batches of any size gives for a few samples what one for a fixed size does."""
    expected, found = (opened(model_content=data, num_threads=1) for data in (whole, free))
    wanted = expected.run(inputs)
    for count in (1, 3):
        try:
            outputs = found.run([x[:count] if x.ndim else x for x in inputs])
        except EngineError:
            return False
        for y, full in zip(outputs, wanted, strict=True):
            if y.shape != full[:count].shape or np.abs(y - full[:count]).max() > CLOSE * np.abs(full).max():
                return False
    return True
