"""PyTorch itself: exported programs, as they are or compiled."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils._pytree import tree_leaves, tree_unflatten

import featherweight.activations.quantizers  # noqa: F401  # its operator must be known before a file is read
from featherweight import file
from featherweight.activations.dynamic import dynamic_numbers
from featherweight.core.errors import EngineError, reason_of
from featherweight.core.quiet import quiet
from featherweight.core.task import Example
from featherweight.engines import integers
from featherweight.engines.engine import Arrays, Capabilities, Engine, Exported, Precision, Runner, Settings
from featherweight.engines.program import program

CAPABILITIES = Capabilities(integers=False, dynamic=False, nibbles=False, precisions=frozenset(Precision))


@dataclass(frozen=True)
class Eager(Engine):
    """One operator after the other.

    PyTorch's reader of ``.pt2`` files can be made to run code by a file that was made for it: open only those of
    people that you trust.
    """

    name: ClassVar[str] = "pytorch"
    suffix: ClassVar[str] = ".pt2"
    extra: ClassVar[str | None] = None
    capabilities: ClassVar[Capabilities] = CAPABILITIES

    def export(self, model: nn.Module, example: Example, path: Path) -> Exported:
        return _export(model, example, path)

    def open(self, path: Path, settings: Settings) -> Runner:
        self.check(settings)
        loaded = _load(path)
        return _Runner(loaded, loaded.module(), settings)

    def version(self) -> str:
        return torch.__version__


@dataclass(frozen=True)
class Compiled(Eager):
    """The same files, operators fused by inductor, weights taken as constants.

    Compiles on the first run; needs a C++ compiler.
    """

    name: ClassVar[str] = "pytorch-compiled"

    def open(self, path: Path, settings: Settings) -> Runner:
        self.check(settings)
        with quiet():
            loaded = _load(path).run_decompositions(DECOMPOSITIONS)  # our operators become ones that can be fused
            compiled = torch.compile(loaded.module(), options={"freezing": True})
        return _Runner(loaded, compiled, settings)


def _quantized(x: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    return torch.div(x, scale).round().clamp(lowest, highest) * scale


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.featherweight.quantized.default: _quantized,
    torch.ops.featherweight.dynamically_quantized.default: dynamic_numbers,
    torch.ops.featherweight.scaled.default: integers.numbers,
}


def _export(model: nn.Module, example: Example, path: Path) -> Exported:
    """Write the exported program (``torch.export.save``)."""
    traced = program(model, example)
    traced.exported.example_inputs = None  # they would be stored
    buffer = BytesIO()
    try:
        with quiet():
            torch.export.save(traced.exported, buffer)
    except Exception as error:
        raise EngineError(f"the traced model cannot be written ({reason_of(error)})") from error
    return Exported(path, file.save(path, buffer.getvalue()), traced.any_batch)


def _load(path: Path) -> ExportedProgram:
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:
        raise EngineError(f"PyTorch cannot open {path} ({reason_of(error)}); export it anew") from error


class _Runner(Runner):
    """Runs with its own number of threads, which is the process's for as long as a run takes."""

    def __init__(self, loaded: ExportedProgram, module: Callable[..., Any], settings: Settings) -> None:
        self.module, self.settings = module, settings
        specs = loaded.graph_signature.input_specs
        self.inputs = [each.arg for each in specs if each.kind is InputKind.USER_INPUT]
        spec = loaded.call_spec.in_spec
        assert spec is not None
        self.spec = spec

    @torch.no_grad()
    def run(self, inputs: Arrays) -> list["np.ndarray[Any, Any]"]:
        bfloat16 = self.settings.precision is Precision.BFLOAT16
        try:
            args, kwargs = self._call(inputs)
            with _threads(self.settings.threads), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                outputs = self.module(*args, **kwargs)
        except Exception as error:
            raise EngineError(f"PyTorch could not run the model ({reason_of(error)})") from error
        return [_array(each) for each in tree_leaves(outputs) if isinstance(each, Tensor)]

    def _call(self, inputs: Arrays) -> Any:
        wanted = sum(not isinstance(each, ConstantArgument) for each in self.inputs)
        if len(inputs) != wanted:
            raise EngineError(f"{len(inputs)} inputs for a model that takes {wanted}")
        given = iter(inputs)
        leaves = [each.value if isinstance(each, ConstantArgument) else _tensor(next(given)) for each in self.inputs]
        return tree_unflatten(leaves, self.spec)


def _tensor(array: "np.ndarray[Any, Any]") -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _array(x: Tensor) -> "np.ndarray[Any, Any]":
    return (x.float() if x.dtype is torch.bfloat16 else x).numpy()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)
