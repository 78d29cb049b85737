"""Apache TVM, compiled for the CPU of this machine: a second opinion on what a model computes, not a fast one."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featherweight.core.errors import EngineError, reason_of
from featherweight.core.quiet import quiet
from featherweight.engines.engine import Arrays, Capabilities, Engine, Exported, Precision, Runner, Settings
from featherweight.engines.packages import needed

if TYPE_CHECKING:
    from torch import nn

    from featherweight.core.task import Example

TARGET = "llvm"
"""Code for any CPU of this machine's kind."""
BIG_CORES = 1
"""Where TVM's threads run, of cores of two sizes."""


@dataclass(frozen=True)
class Tvm(Engine):
    """Relax programs compiled by LLVM, untuned: many times slower than the other engines, and right.

    A file is a shared library with the weights inside, which TVM's own runtimes load. It is code of one system and one
    kind of CPU: open only those of people that you trust. Weights and activations are computed as the floats that they
    stand for, and stored so.

    Linking takes a C++ compiler. TVM's threads are one pool of the whole process, of the size that was asked for last.
    """

    name: ClassVar[str] = "tvm"
    suffix: ClassVar[str] = ".so"
    extra: ClassVar[str | None] = "tvm"
    capabilities: ClassVar[Capabilities] = Capabilities(
        integers=False, dynamic=False, nibbles=False, precisions=frozenset({Precision.FLOAT32})
    )

    def export(self, model: "nn.Module", example: "Example", path: Path) -> Exported:
        from featherweight import file
        from featherweight.engines.program import program
        from featherweight.engines.pytorch import DECOMPOSITIONS

        package, importer = _imported(), needed("tvm.relax.frontend.torch", "tvm")
        traced = program(model, example)
        try:
            with quiet(), tempfile.TemporaryDirectory(prefix="featherweight-") as folder:
                decomposed = traced.exported.run_decompositions(DECOMPOSITIONS)
                compiled = package.compile(importer.from_exported_program(decomposed), target=TARGET)
                library = Path(folder) / f"model{self.suffix}"
                compiled.export_library(str(library))
                data = library.read_bytes()
        except Exception as error:
            raise EngineError(f"TVM cannot compile the model ({reason_of(error)}); export to .onnx or .pt2") from error
        return Exported(path, file.save(path, data), traced.any_batch)

    def open(self, path: Path, settings: Settings) -> Runner:
        self.check(settings)
        package, relax = _imported(), needed("tvm.relax", "tvm")
        try:
            package.get_global_func("runtime.config_threadpool")(BIG_CORES, settings.threads)
            return _Runner(package, relax.VirtualMachine(package.runtime.load_module(str(path)), package.cpu()))
        except Exception as error:
            raise EngineError(f"TVM cannot open {path} ({reason_of(error)}); export it anew, here") from error

    def version(self) -> str:
        return str(_imported().__version__)


def _imported() -> Any:
    with quiet():
        return needed("tvm", "tvm")


class _Runner(Runner):
    def __init__(self, package: Any, machine: Any) -> None:
        self.package, self.machine = package, machine

    def run(self, inputs: Arrays) -> list["np.ndarray[Any, Any]"]:
        try:
            found = self.machine["main"](*(self.package.runtime.tensor(np.ascontiguousarray(x)) for x in inputs))
            return [each.numpy() for each in found]
        except Exception as error:
            raise EngineError(f"TVM could not run the model ({reason_of(error)})") from error
