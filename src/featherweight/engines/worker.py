"""A process that runs one model for another process: ``python -m featherweight.engines.worker``.

Requests come as JSON objects, one a line on stdin; each is answered with one line on stdout, ``{"ok": {...}}`` or
``{"error": message}``. Arrays lie in ``.npz`` files that requests name. ``do`` is one of::

    open     engine, file, threads, precision, rounding   -> version
    inputs   file                                          -> samples
    warm_up  seconds                                       -> calls
    time     seconds, file (of ``samples``, nanoseconds)   -> calls, cpu (seconds of this process)
    run      file (of the outputs)                         -> outputs
    memory                                                 -> bytes
    quit

What engines print goes to stderr. When stdin ends, as it does when the other process dies, this one ends at once.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

import numpy as np

from featherweight.core.errors import EngineError, FeatherweightError
from featherweight.engines import find
from featherweight.engines.engine import Precision, Runner, Settings, needed

Fields = Mapping[str, Any]


class Server:
    """Answers requests. A request is a method's name with its arguments."""

    def __init__(self) -> None:
        self.runner: Runner | None = None
        self.arrays: list[np.ndarray[Any, Any]] | None = None
        self.before = 0

    def answer(self, request: Fields) -> dict[str, Any]:
        commands: dict[str, Callable[..., dict[str, Any]]] = {
            "open": self.open, "inputs": self.inputs, "warm_up": self.warm_up, "time": self.time, "run": self.run,
            "memory": self.memory,
        }  # fmt: skip
        given = dict(request)
        name = given.pop("do", None)
        if name not in commands:
            raise EngineError(f"the worker knows no request {name!r}; it knows {', '.join(commands)} and quit")
        return commands[name](**given)

    def open(self, engine: str, file: str, threads: int, precision: str, rounding: bool) -> dict[str, Any]:
        chosen = find(engine)
        version = chosen.version()  # imports the engine's package, whose memory is not the model's
        self.before = resident()
        self.runner = chosen.open(Path(file), Settings(threads, Precision(precision), rounding))
        return {"version": version}

    def inputs(self, file: str) -> dict[str, Any]:
        with np.load(file) as stored:
            self.arrays = [stored[f"arr_{i}"] for i in range(len(stored.files))]
        return {"samples": len(self.arrays[0]) if self.arrays and self.arrays[0].ndim else 0}

    def warm_up(self, seconds: float) -> dict[str, Any]:
        return {"calls": len(self._timed(seconds))}

    def time(self, seconds: float, file: str) -> dict[str, Any]:
        """The first call, whose caches the processes before have emptied, is not timed."""
        start = time.process_time()
        self._call()
        samples = self._timed(seconds)
        np.savez(file, samples=np.array(samples, np.int64))
        return {"calls": len(samples), "cpu": time.process_time() - start}

    def run(self, file: str) -> dict[str, Any]:
        outputs = self._call()
        np.savez(file, *outputs)
        return {"outputs": len(outputs)}

    def memory(self) -> dict[str, Any]:
        return {"bytes": max(0, max(peak(), resident()) - self.before)}

    def _call(self) -> "list[np.ndarray[Any, Any]]":
        runner, arrays = self._ready()
        return runner.run(arrays)

    def _ready(self) -> "tuple[Runner, list[np.ndarray[Any, Any]]]":
        if self.runner is None or self.arrays is None:
            raise EngineError("the worker has no model or no inputs yet; ask for open and inputs first")
        return self.runner, self.arrays

    def _timed(self, seconds: float) -> list[int]:
        """Nanoseconds of each of as many calls as fit, at least one."""
        runner, arrays = self._ready()
        clock, samples = time.perf_counter_ns, list[int]()
        end = clock() + int(seconds * 1e9)
        while True:
            start = clock()
            runner.run(arrays)
            now = clock()
            samples.append(now - start)
            if now >= end:
                return samples


def resident() -> int:
    """Bytes of memory that this process holds now."""
    psutil = needed("psutil", "engines")
    return int(psutil.Process().memory_info().rss)


def peak() -> int:
    """The most bytes of memory that this process ever held.

    On Linux from ``VmHWM``: ``getrusage`` counts what the process held that this one was forked from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(needed("psutil", "engines").Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def serve(requests: "SimpleQueue[str]", replies: TextIO) -> None:
    """Answer requests until one is ``quit``."""
    server = Server()
    while True:
        reply: dict[str, Any]
        try:
            request = json.loads(requests.get())
            if request.get("do") == "quit":
                return
            reply = {"ok": server.answer(request)}
        except FeatherweightError as error:
            reply = {"error": str(error)}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _read(source: TextIO, requests: "SimpleQueue[str]") -> None:
    for line in source:
        requests.put(line)
    os._exit(0)  # an engine that hangs would not let the process end in order


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # for libraries that print without asking Python
    sys.stdout = sys.stderr
    source = os.fdopen(os.dup(0), encoding="utf-8")  # forks of this process close sys.stdin, which must not be in use
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  # for as long as the process lives
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it tells others that OpenVINO is used
    requests: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(source, requests), daemon=True).start()
    serve(requests, replies)


if __name__ == "__main__":
    main()
