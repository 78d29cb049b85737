"""C for microcontrollers: quantized networks as one file of C99, compiled here with the system's compiler."""

import ctypes
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featherweight.core.errors import EngineError, SelectionError, reason_of
from featherweight.engines.engine import Arrays, Capabilities, Engine, Exported, Precision, Runner, Settings

if TYPE_CHECKING:
    from torch import nn

    from featherweight.core.compressed import Compressed
    from featherweight.core.task import Example

FLAGS = ("-std=c99", "-O2", "-fPIC", "-shared")
HEADER = re.compile(
    r"^ \* (?:input (?P<name>\w+)|output): (?P<shape>\d+(?:x\d+)*) of (?P<bits>8|32) bits$", re.MULTILINE
)
MOST = 1_000_000_000
"""Entries of a tensor that a file may speak of."""


@dataclass(frozen=True)
class C(Engine):
    """Integers of 8 and 32 bits alone, one sample at a time, bit for bit as :mod:`featherweight.graph.integer`.

    Models must be quantized throughout. A file is compiled when it is opened, by ``$CC`` or ``cc``, and what is in it
    runs: open only those of people that you trust.
    """

    name: ClassVar[str] = "c"
    suffix: ClassVar[str] = ".c"
    extra: ClassVar[str | None] = None
    capabilities: ClassVar[Capabilities] = Capabilities(
        integers=True, dynamic=False, nibbles=True, precisions=frozenset({Precision.FLOAT32}), floats=False
    )

    def prepared(self, student: "Compressed") -> "nn.Module":
        return student

    def export(self, model: "nn.Module", example: "Example", path: Path) -> Exported:
        from featherweight import file
        from featherweight.core.compressed import Compressed
        from featherweight.engines.c_source import c_source
        from featherweight.graph.lower import integer_program

        if not isinstance(model, Compressed):
            raise EngineError(
                "C runs on integers alone, and this is a float model; quantize weights and activations (recipe int8), "
                "or export it for ONNX Runtime (.onnx)"
            )
        try:
            program = integer_program(model, example)
        except SelectionError as error:
            raise EngineError(
                f"C runs on integers alone: {error}; a recipe that quantizes weights and activations is int8, and "
                ".onnx files take the rest"
            ) from error
        return Exported(path, file.save(path, c_source(program, example).text.encode()), True)

    def open(self, path: Path, settings: Settings) -> Runner:
        self.check(settings)
        if settings.threads > 1:
            raise EngineError(f"C runs on one thread, not {settings.threads}; ask for 1")
        try:
            described = [match.groupdict() for match in HEADER.finditer(path.read_text("ascii").partition("*/")[0])]
        except (OSError, UnicodeError) as error:
            raise EngineError(f"C cannot open {path} ({reason_of(error)}); export it anew") from error
        tensors = [_Tensor(each["name"], _shape(each["shape"]), each["bits"] == "32") for each in described]
        if len(tensors) < 2 or [each.name is None for each in tensors] != [False] * (len(tensors) - 1) + [True]:
            raise EngineError(f"C cannot open {path} (it does not tell its inputs and output); export it anew")
        if any(prod(each.shape) > MOST for each in tensors):
            raise EngineError(f"C cannot open {path} (it tells of more than {MOST:,} numbers); export it anew")
        return _Runner(compiled(path, FLAGS), tensors[:-1], tensors[-1])

    def version(self) -> str:
        done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False)
        return (done.stdout.splitlines() or ["unknown"])[0]


def compiler() -> list[str]:
    """The command of the C compiler: ``$CC``, else ``cc``; ``EngineError`` where there is none."""
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise EngineError(
            f"there is no C compiler {command[0]!r} here to run C with; install one (gcc, clang), or name one in $CC"
        )
    return command


def compiled(path: Path, flags: Sequence[str]) -> ctypes.CDLL:
    """A file as a library of this process; ``EngineError`` with the compiler's first complaints.

    The library's own file goes at once: what is loaded stays, and this process may be ended at any time.
    """
    with tempfile.TemporaryDirectory(prefix="featherweight-", ignore_cleanup_errors=True) as folder:
        library = Path(folder) / "network.so"
        command = [*compiler(), *flags, "-o", str(library), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EngineError(f"C cannot open {path} ({' '.join(done.stderr.split())[:500]}); export it anew")
        try:
            return ctypes.CDLL(str(library))
        except OSError as error:
            raise EngineError(f"C cannot open {path} ({reason_of(error)}); export it anew") from error


@dataclass(frozen=True)
class _Tensor:
    """What a file tells of an input or, without a name, the output: the shape of a sample."""

    name: str | None
    shape: tuple[int, ...]
    wide: bool

    @property
    def integers(self) -> "np.ndarray[Any, Any]":
        return np.zeros(prod(self.shape), np.int32 if self.wide else np.uint8)


class _Runner(Runner):
    def __init__(self, library: ctypes.CDLL, inputs: Sequence[_Tensor], output: _Tensor) -> None:
        self.inputs, self.output = inputs, output
        try:
            self.quantize = [library[f"network_quantize_{each.name}"] for each in inputs]
            self.network, self.dequantize = library["network_run"], library["network_dequantize"]
        except AttributeError as error:
            raise EngineError(f"C cannot open a network that is not whole ({error}); export it anew") from error

    def run(self, inputs: Arrays) -> list["np.ndarray[Any, Any]"]:
        count = len(inputs[0]) if inputs and inputs[0].ndim else 0
        wanted = [((count, *each.shape), np.dtype(np.float32)) for each in self.inputs]
        if [(x.shape, x.dtype) for x in inputs] != wanted:
            given = ", ".join(f"{x.dtype} {list(x.shape)}" for x in inputs)
            told = ", ".join(f"float32 {[count, *each.shape]}" for each in self.inputs)
            raise EngineError(f"C could not run the model: it takes {told}, not {given}")
        whole = [np.ascontiguousarray(x) for x in inputs]
        integers = [each.integers for each in (*self.inputs, self.output)]
        found = np.empty((count, *self.output.shape), np.float32)
        for k in range(count):
            for quantize, x, q in zip(self.quantize, whole, integers[:-1], strict=True):
                quantize(_pointer(x[k]), _pointer(q))
            self.network(*map(_pointer, integers))
            self.dequantize(_pointer(integers[-1]), ctypes.c_void_p(found.ctypes.data + k * found[0].nbytes))
        return [found]


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


def _pointer(array: "np.ndarray[Any, Any]") -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
