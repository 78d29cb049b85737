"""The child that runs one model for :mod:`featherweight.engines.process`: ``python -m featherweight.engines.worker``.

A request is a line of JSON on stdin, ``{"id": n, "command": name, ...}``, and its answer one on stdout,
``{"id": n, "result": ...}`` or ``{"id": n, "error": text}``. Arrays are handed over in ``.npz`` files. What engines
print goes to stderr. The process ends when stdin does: no parent, no child, even where an engine hangs.
"""

import gc
import json
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter_ns
from typing import Any, TextIO

import numpy as np

from featherweight.core.errors import EngineError, FeatherweightError
from featherweight.engines.engine import Arrays, Engine, Precision, Runner, Settings
from featherweight.engines.packages import needed

FEWEST = 3
"""Calls of a warm-up: the first ones allocate, and some engines compile or tune in them."""
PEAK_RESET = "5"
"""Written to ``/proc/self/clear_refs``, it sets the peak of resident memory back to what is resident now (proc(5))."""


def write_batches(path: Path, batches: list[Arrays]) -> None:
    """Batches of arrays as an ``.npz`` file."""
    named = {f"{b}.{i}": array for b, arrays in enumerate(batches) for i, array in enumerate(arrays)}
    with path.open("wb") as file:
        np.savez(file, counts=np.array([len(arrays) for arrays in batches]), **named)  # type: ignore[arg-type]


def read_batches(path: Path) -> list[list["np.ndarray[Any, Any]"]]:
    """What :func:`write_batches` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return [[file[f"{b}.{i}"] for i in range(count)] for b, count in enumerate(file["counts"].tolist())]


class Model:
    """What the commands work on: an opened model, its inputs, and what memory there was before it."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self.engines = engines
        self.runner: Runner | None = None
        self.batches: list[list[np.ndarray[Any, Any]]] = []
        self.before = 0
        self.commands: Mapping[str, Callable[..., Any]] = {
            "open": self.open,
            "inputs": self.inputs,
            "warm up": self.warm_up,
            "time": self.time,
            "run": self.run,
            "memory": self.memory,
        }

    def open(self, engine: str, path: str, threads: int, precision: str, rounding: bool) -> str:
        """Open a file; the version of the engine."""
        if engine not in self.engines:
            raise EngineError(f"there is no engine {engine!r}; there are {', '.join(self.engines)}")
        chosen = self.engines[engine]
        version = chosen.version()  # imports the engine's package, whose memory is not the model's
        gc.collect()
        self.before = _restart_peak()
        self.runner = chosen.open(Path(path), Settings(threads, Precision(precision), rounding))
        return version

    def inputs(self, path: str) -> None:
        self.batches = read_batches(Path(path))

    def warm_up(self, seconds: float) -> list[int]:
        """Call again and again for so long; nanoseconds of every call."""
        samples: list[int] = []
        end = perf_counter_ns() + int(seconds * 1e9)
        while len(samples) < FEWEST or perf_counter_ns() < end:
            samples += self.time(1)
        return samples

    def time(self, calls: int) -> list[int]:
        """Nanoseconds of so many calls, by turns with each batch; nothing is collected meanwhile, as in ``timeit``."""
        runner, batches = self._ready()
        samples = []
        collects = gc.isenabled()
        gc.disable()
        try:
            for k in range(calls):
                inputs = batches[k % len(batches)]
                start = perf_counter_ns()
                runner.run(inputs)
                samples.append(perf_counter_ns() - start)
        finally:
            if collects:
                gc.enable()
        return samples

    def run(self, path: str) -> None:
        """Write the outputs for all batches."""
        runner, batches = self._ready()
        write_batches(Path(path), [runner.run(inputs) for inputs in batches])

    def memory(self) -> list[int]:
        """Bytes: the largest resident size since the model was opened, and how far it is over that before."""
        peak = _peak()
        return [peak, max(0, peak - self.before)]

    def _ready(self) -> tuple[Runner, list[list["np.ndarray[Any, Any]"]]]:
        if self.runner is None or not self.batches:
            raise EngineError("no model or no inputs yet; open a file and give inputs first")
        return self.runner, self.batches


def _restart_peak() -> int:
    """Bytes from which the peak of resident memory is counted; the peak starts anew where the system can do that."""
    with suppress(OSError):  # else the peak so far is what counts, and memory that the model reuses is not seen
        Path("/proc/self/clear_refs").write_text(PEAK_RESET)
    return _peak()


def _peak() -> int:
    """The largest resident size of this process in bytes.

    Not ``getrusage`` on Linux: a child begins with its parent's peak there (``ru_maxrss`` outlives ``exec``).
    """
    system = platform.system()
    if system == "Linux":
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    if system == "Windows":
        return int(needed("psutil", "engines").Process().memory_info().peak_wset)
    resource = needed("resource", "engines")
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if system == "Darwin" else 1024)


def serve(engines: Mapping[str, Engine]) -> None:
    """Answer requests until stdin ends."""
    requests, answers = _channels()
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests, lines), daemon=True).start()
    model = Model(engines)
    while True:
        request = json.loads(lines.get())
        answer = {"id": request.pop("id"), **_answer(model, request)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _channels() -> tuple[TextIO, TextIO]:
    """The protocol's own copies of stdin and stdout, of which engines see neither, not even below Python."""
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, answers


def _listen(requests: TextIO, lines: "SimpleQueue[str]") -> None:
    """Hand on lines. At the end of stdin end the process, and those that an engine started, whatever they are doing."""
    for line in requests:
        lines.put(line)
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _answer(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    name = request.pop("command")
    try:
        return {"result": model.commands[name](**request)}
    except FeatherweightError as error:
        return {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{name} failed ({type(error).__name__}: {error})"}


if __name__ == "__main__":
    from featherweight.engines import ENGINES

    serve(ENGINES)
