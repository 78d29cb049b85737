"""A process of its own for every model that is run: engines crash, hang, print, and keep threads spinning."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from featherweight.core.errors import EngineError
from featherweight.engines.engine import Arrays, Settings
from featherweight.engines.packages import needed
from featherweight.engines.worker import read_batches, write_batches

COMMAND = (sys.executable, "-P", "-m", "featherweight.engines.worker")
"""``-P``: modules that lie in the current folder shadow none of the child's."""
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
GRACE = 5.0
"""Seconds that a child has to end by itself."""
TAIL = 2_000
"""Characters of the end of stderr that an error quotes."""
_SIGNALS = {each.value: each.name for each in signal.Signals}
TICK = 0.01
"""Seconds of the system's clock of CPU time; times read from it are off by one at most."""
PAUSE = 0.05


def ending(code: int) -> str:
    """How a process with this exit code ended."""
    return f"with exit code {code}" if code >= 0 else f"by signal {_SIGNALS.get(-code, -code)}"


@dataclass(frozen=True)
class Memory:
    """Bytes of a process: its largest resident size, and how far that is over its size before the model was opened."""

    peak: int
    model: int


class Worker:
    """One child with one model. Every failure of the child is an ``EngineError`` with the end of its stderr.

    ``threads`` goes into the child's environment, ``timeout`` is in seconds and for every single request.
    """

    def __init__(self, threads: int = 1, timeout: float = 300.0, command: Sequence[str] = COMMAND) -> None:
        self.threads, self.timeout, self.command = threads, timeout, tuple(command)
        self.requests = 0

    def __enter__(self) -> Self:
        self.folder = tempfile.TemporaryDirectory(prefix="featherweight-", ignore_cleanup_errors=True)
        self.stderr: IO[bytes] = (Path(self.folder.name) / "stderr").open("wb")
        self.child = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,  # a file: nobody has to read it for the child to go on
            env={**os.environ, **dict.fromkeys(THREADS, str(self.threads))},
            start_new_session=True,  # Ctrl-C is the parent's, which then closes its children; and a group to end whole
        )
        self.answers: SimpleQueue[bytes | None] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self.child.stdin is not None
        with suppress(OSError):  # what could not be written to a dead child
            self.child.stdin.close()
        try:
            self.child.wait(0 if kind else GRACE)
        except subprocess.TimeoutExpired:
            self._kill()
            self.child.wait()
        self.stderr.close()
        self.folder.cleanup()

    @property
    def pid(self) -> int:
        return self.child.pid

    def open(self, engine: str, path: Path, settings: Settings) -> str:
        """Open a model; the version of its engine."""
        return str(
            self._ask(
                "open",
                engine=engine,
                path=str(path.absolute()),
                threads=settings.threads,
                precision=settings.precision.value,
                rounding=settings.rounding,
            )
        )

    def inputs(self, batches: Sequence[Arrays]) -> None:
        """What all later calls take, batch by batch and again from the first."""
        path = Path(self.folder.name) / "inputs.npz"
        write_batches(path, list(batches))
        self._ask("inputs", path=str(path))

    def warm_up(self, seconds: float) -> list[int]:
        """Run for so long, a few calls at least; nanoseconds of every call."""
        return self._samples(self._ask("warm up", seconds=seconds))

    def time(self, calls: int) -> list[int]:
        """Nanoseconds of every one of so many calls."""
        return self._samples(self._ask("time", calls=calls))

    def run(self) -> list[list["np.ndarray[Any, Any]"]]:
        """The outputs for every batch of inputs."""
        path = Path(self.folder.name) / "outputs.npz"
        self._ask("run", path=str(path))
        return read_batches(path)

    def memory(self) -> Memory:
        peak, model = self._ask("memory")
        return Memory(int(peak), int(model))

    def settle(self, most: float = 2.0) -> bool:
        """Wait until the child's threads sleep, at most ``most`` seconds; whether they do.

        Pools of threads go on spinning for some time after a call, on cores that the next turn is measured on.
        """
        process = needed("psutil", "engines").Process(self.pid)
        end = monotonic() + most
        while True:
            before = sum(process.cpu_times()[:2])
            sleep(PAUSE)
            if sum(process.cpu_times()[:2]) - before <= 1.5 * TICK:
                return True
            if monotonic() > end:
                return False

    def _samples(self, found: Any) -> list[int]:
        if not isinstance(found, list) or not found:
            raise EngineError(f"the worker answered {found!r} where times were due{self._tail()}")
        return [int(each) for each in found]

    def _ask(self, command: str, **settings: Any) -> Any:
        self.requests += 1
        request = {"id": self.requests, "command": command, **settings}
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(json.dumps(request).encode() + b"\n")
            self.child.stdin.flush()
        except OSError:
            raise self._ended(command) from None
        return self._result(command)

    def _result(self, command: str) -> Any:
        try:
            line = self.answers.get(timeout=self.timeout)
        except Empty:
            self._kill()
            raise EngineError(
                f"no answer to {command!r} within {self.timeout:g} s, so the engine's process was ended; give it more "
                f"time or a smaller batch{self._tail()}"
            ) from None
        if line is None:
            raise self._ended(command)
        try:
            answer = json.loads(line)
            known = answer["id"] == self.requests and ("error" in answer) != ("result" in answer)
        except (ValueError, TypeError, KeyError):
            known = False
        if not known:
            self._kill()
            raise EngineError(f"the engine's process broke the protocol at {command!r}: {line[:200]!r}{self._tail()}")
        if "error" in answer:
            raise EngineError(str(answer["error"]))
        return answer["result"]

    def _read(self) -> None:
        assert self.child.stdout is not None
        with self.child.stdout as lines:
            for line in lines:
                self.answers.put(line)
        self.answers.put(None)

    def _ended(self, command: str) -> EngineError:
        try:
            code = self.child.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._kill()
            return EngineError(f"the engine's process closed its output at {command!r}{self._tail()}")
        self._kill()  # what it started may have outlived it
        return EngineError(f"the engine's process ended {ending(code)} at {command!r}{self._tail()}")

    def _kill(self) -> None:
        """End the child and, where it leads a group of processes, whatever an engine started in it."""
        with suppress(ProcessLookupError, PermissionError):
            if os.name == "posix":
                os.killpg(self.child.pid, signal.SIGKILL)
            else:
                self.child.kill()

    def _tail(self) -> str:
        """The end of what the child wrote to stderr, after a colon; nothing where it wrote nothing."""
        with (Path(self.folder.name) / "stderr").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            text = file.read().decode(errors="replace").strip()
        return f": {text}" if text else ""
