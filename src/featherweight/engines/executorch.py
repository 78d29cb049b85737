"""ExecuTorch with XNNPACK's kernels, on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.core.errors import EngineError, reason_of
from featherweight.core.quiet import quiet
from featherweight.core.task import Example
from featherweight.engines.decomposed import HIGHEST, LOWEST, Kernels, decomposed
from featherweight.engines.engine import Arrays, Capabilities, Engine, Exported, Precision, Runner, Settings
from featherweight.engines.packages import needed
from featherweight.engines.program import Limits, Program

EXTRA = "executorch"
MOST = Limits(batch=64, length=128)
"""Memory for what lies between XNNPACK's parts is set aside for the most that there can be."""
ADVICE = "export .onnx, or leave out the module that this operator is in"
aten, standard = torch.ops.aten, torch.ops.quantized_decomposed


def _rows(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Integers times integers, the result in floats: XNNPACK finds each row's range as it runs."""
    scale, zero = standard.choose_qparams.tensor(x, LOWEST, HIGHEST, torch.finfo(torch.float32).eps, torch.int8)
    settings = (scale, zero, LOWEST, HIGHEST, torch.int8)
    x = standard.dequantize_per_tensor.tensor(standard.quantize_per_tensor.tensor(x, *settings), *settings)
    y: Tensor = aten.linear.default(x, weight, bias)
    return y


KERNELS = Kernels(
    most=MOST,
    bare=frozenset({aten.slice.Tensor, aten.select.int, aten.expand.default}),
    unquantized=_rows,
    ranging=True,
)


@dataclass(frozen=True)
class ExecuTorch(Engine):
    """Batches of up to 64 samples, texts of up to 128 tokens or as long as the example (``MOST``).

    XNNPACK runs what it has kernels for, ExecuTorch's portable ones the rest.
    All models of a process share one pool of threads.
    """

    name: ClassVar[str] = "executorch"
    suffix: ClassVar[str] = ".pte"
    extra: ClassVar[str | None] = EXTRA
    capabilities: ClassVar[Capabilities] = Capabilities(
        integers=True, dynamic=False, nibbles=False, precisions=frozenset({Precision.FLOAT32}), recurrent=False
    )

    def export(self, model: nn.Module, example: Example, path: Path) -> Exported:
        with quiet():
            needed("executorch.exir", EXTRA)
        traced = decomposed(model, example, KERNELS)
        return Exported(
            path, file.save(path, lowered(traced)), traced.any_batch, MOST.batch if traced.any_batch else None
        )

    def open(self, path: Path, settings: Settings) -> Runner:
        self.check(settings)
        runtime = _runtime()
        if any(each.threads != settings.threads for each in OPEN):
            raise EngineError(
                f"ExecuTorch's threads are those of the process, and another model of it has not {settings.threads}; "
                "open each in a process of its own"
            )
        if runtime._threadpool_get_thread_count() != settings.threads:
            runtime._unsafe_reset_threadpool(settings.threads)  # unsafe for models that are open
        try:
            return _Runner(runtime._load_for_executorch(str(path)), settings.threads)
        except Exception as error:
            raise EngineError(f"ExecuTorch cannot open {path} ({reason_of(error)}); export it anew") from error

    def version(self) -> str:
        _runtime()
        return version("executorch")


def _runtime() -> Any:
    with quiet():
        return needed("executorch.extension.pybindings.portable_lib", EXTRA)


def lowered(traced: Program) -> bytes:
    """The bytes of a file that XNNPACK and ExecuTorch run; ``EngineError`` for what they have no kernels for."""
    with quiet(), _no_guards_on_batches():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.passes import MemoryPlanningPass

        try:
            edge = to_edge_transform_and_lower(traced.exported, partitioner=[XnnpackPartitioner()])
            planning = MemoryPlanningPass(alloc_graph_input=False)  # inputs stay where the caller has them
            made = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
        except Exception as error:
            raise EngineError(f"the model cannot be written for ExecuTorch ({reason_of(error)}); {ADVICE}") from error
    wanted = (each for plan in made.executorch_program.execution_plan for each in plan.operators)
    known = frozenset(_runtime()._get_operator_names())
    for operator in wanted:
        name = f"{operator.name}.{operator.overload}" if operator.overload else operator.name
        if name not in known:
            raise EngineError(f"the operator {name} has no kernel in ExecuTorch; {ADVICE}")
    return bytes(made.buffer)


@contextmanager
def _no_guards_on_batches() -> Iterator[None]:
    """PyTorch chooses kernels of convolutions by the batch's size where it may, and would hold on to the example's."""
    with torch.backends.nnpack.flags(enabled=False), torch.backends.mkldnn.flags(enabled=False):
        yield


class _Runner(Runner):
    def __init__(self, module: Any, threads: int) -> None:
        self.module, self.threads = module, threads
        meta = module.method_meta("forward")
        self.most = [meta.input_tensor_meta(k).sizes() for k in range(meta.num_inputs())]
        OPEN.add(self)

    def run(self, inputs: Arrays) -> list["np.ndarray[Any, Any]"]:
        for x, most in zip(inputs, self.most, strict=False):
            if any(size > bound for size, bound in zip(x.shape, most, strict=False)):
                raise EngineError(f"an input of {x.shape} for a model that takes at most {most}; give smaller batches")
        try:
            found = self.module.forward([torch.from_numpy(np.require(x, requirements="W")) for x in inputs])
        except Exception as error:
            raise EngineError(f"ExecuTorch could not run the model ({reason_of(error)})") from error
        return [each.numpy() for each in found]


OPEN: "WeakSet[_Runner]" = WeakSet()
"""Models of this process: their threads are taken from a pool that must stay as it is."""
