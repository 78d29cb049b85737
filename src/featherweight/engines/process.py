"""Running a model in a process of its own, which may crash or hang without harm."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

import numpy as np

import featherweight
from featherweight.core.errors import EngineError
from featherweight.engines.engine import Arrays, Settings, needed

COMMAND = (sys.executable, "-P", "-m", "featherweight.engines.worker")
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables that size thread pools which no engine's own setting reaches."""
TAIL = 1000
"""Characters of stderr that an error shows."""
PARTING = 5.0
"""Seconds that a process has to end in order."""


@dataclass(frozen=True, eq=False)
class Turn:
    """Nanoseconds of each call ``[calls]``, and the CPU seconds that the process spent in all."""

    samples: "np.ndarray[Any, np.dtype[np.int64]]"
    cpu: float


class Worker:
    """A model in a process of its own, as a context manager.

    ``timeout`` is how many seconds an answer may take beyond the time that was asked for. Everything that goes wrong
    in the process, an error, a crash, a hang, is an ``EngineError``; after a crash or a hang the process is gone.
    """

    def __init__(self, name: str, settings: Settings, timeout: float = 300.0) -> None:
        self.name, self.settings, self.timeout = name, settings, timeout
        needed("psutil", "engines")  # the process needs it

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="featherweight-")
        self._path = Path(self._folder.name)
        with (self._path / "stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=_environment(self.settings),
                start_new_session=True,
            )  # fmt: skip
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None and self._process.poll() is None:
                self._send({"do": "quit"})
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(PARTING)
        except (OSError, subprocess.TimeoutExpired):
            pass  # it is killed next
        finally:
            self._end()
            self._folder.cleanup()

    @property
    def pid(self) -> int:
        return self._process.pid

    def open(self, engine: str, path: Path) -> str:
        """Open a file; the version of the engine's package."""
        chosen = self.settings
        return str(self._ask(
            0, do="open", engine=engine, file=str(path.absolute()), threads=chosen.threads,
            precision=chosen.precision.value, rounding=chosen.rounding,
        )["version"])  # fmt: skip

    def inputs(self, arrays: Arrays) -> None:
        """What the model is run on from now on."""
        file = self._path / "inputs.npz"
        np.savez(file, *arrays)
        self._ask(0, do="inputs", file=str(file))

    def warm_up(self, seconds: float) -> int:
        """Run for so long, at least once; the number of calls."""
        return int(self._ask(seconds, do="warm_up", seconds=seconds)["calls"])

    def time(self, seconds: float) -> Turn:
        """Time as many calls as fit, at least one."""
        file = self._path / "samples.npz"
        found = self._ask(seconds, do="time", seconds=seconds, file=str(file))
        with np.load(file) as stored:
            return Turn(stored["samples"], float(found["cpu"]))

    def run(self) -> "list[np.ndarray[Any, Any]]":
        """The outputs."""
        file = self._path / "outputs.npz"
        count = int(self._ask(0, do="run", file=str(file))["outputs"])
        with np.load(file) as stored:
            return [stored[f"arr_{i}"] for i in range(count)]

    def memory(self) -> int:
        """The most bytes of memory that the process ever held, beyond those before the model was opened."""
        return int(self._ask(0, do="memory")["bytes"])

    def _ask(self, extra: float, /, **request: Any) -> dict[str, Any]:
        what = str(request["do"]).replace("_", " ")
        try:
            self._send(request)
            line = self._lines.get(timeout=self.timeout + extra)
        except (OSError, ValueError):  # a broken or a closed pipe
            line = b""
        except Empty:
            self._end()
            raise EngineError(
                f"{self.name} hung: no answer to {what!r} within {self.timeout + extra:g} seconds{self._tail()}; "
                "try another engine, fewer threads or smaller batches"
            ) from None
        if not line:
            raise EngineError(f"{self.name} crashed at {what!r}: {self._ended()}{self._tail()}; try another engine")
        return self._answer(what, line)

    def _answer(self, what: str, line: bytes) -> dict[str, Any]:
        try:
            reply = json.loads(line)
            if "error" in reply:
                raise EngineError(f"{self.name}: {reply['error']}")
            found: dict[str, Any] = reply["ok"]
        except (ValueError, TypeError, KeyError) as error:
            self._end()
            raise EngineError(
                f"{self.name}: the answer to {what!r} is no reply of a worker: {line[:80]!r}{self._tail()}; "
                "check that one version of featherweight alone is installed"
            ) from error
        return found

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _ended(self) -> str:
        try:
            code = self._process.wait(PARTING)
        except subprocess.TimeoutExpired:
            self._end()
            return "its process closed its output"
        if code >= 0:
            return f"its process ended with exit code {code}"
        try:
            return f"its process was ended by signal {signal.Signals(-code).name}"
        except ValueError:
            return f"its process was ended by signal {-code}"

    def _tail(self) -> str:
        text = (self._path / "stderr").read_text(encoding="utf-8", errors="replace").strip()[-TAIL:]
        return f" (it last said: {text})" if text else ""

    def _end(self) -> None:
        """End the process, if it has not ended, and whatever an engine started in it, which would hold its pipes."""
        if sys.platform == "win32":
            self._process.kill()
        else:
            with suppress(ProcessLookupError, PermissionError):  # nothing of it is left
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):  # what was still to be sent to a process that is gone
            self._process.stdin.close()
        self._reader.join(PARTING)
        if not self._reader.is_alive():  # closing a pipe that is read from waits for ever
            self._process.stdout.close()


def _environment(settings: Settings) -> dict[str, str]:
    """Pools as large as the engine's threads, no pool of compilers left idling; this very package."""
    root = str(Path(featherweight.__file__).parent.parent)
    paths = os.pathsep.join(each for each in (root, os.environ.get("PYTHONPATH", "")) if each)
    pools = dict.fromkeys(POOLS, str(settings.threads))
    return {**os.environ, **pools, "TORCHINDUCTOR_COMPILE_THREADS": "1", "PYTHONPATH": paths}
