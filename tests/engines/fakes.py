"""Workers and engines that do as the tests tell them; as a program, a worker process with such an engine."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from featherweight.core.errors import EngineError
from featherweight.engines.engine import Arrays, Capabilities, Engine, Exported, Precision, Runner, Settings
from featherweight.engines.process import Memory, Worker
from featherweight.engines.worker import Model, serve

if TYPE_CHECKING:
    from torch import nn

    from featherweight.core.task import Example

COMMAND = (sys.executable, str(Path(__file__)))


def crash() -> None:
    os._exit(7)


def segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    time.sleep(600)


def write() -> None:
    """Print from Python and from below it, and read stdin."""
    print("printed by an engine")
    os.write(1, b"written by an engine\n")
    assert os.read(0, 10) == b""


def complain() -> None:
    print("the last words", file=sys.stderr, flush=True)
    os._exit(3)


def refuse() -> None:
    raise EngineError("this engine takes nothing")


def blunder() -> None:
    raise ZeroDivisionError("a bug")


def spin() -> None:
    def forever() -> None:
        while True:
            pass

    threading.Thread(target=forever, daemon=True).start()


def beget() -> None:
    """Start a process, and say which."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, file=sys.stderr, flush=True)


def orphan() -> None:
    beget()
    crash()


BEHAVIOURS: Mapping[str, Callable[[], None]] = {
    each.__name__: each for each in (crash, segfault, hang, write, complain, refuse, blunder, spin, beget, orphan)
}


class Doubles(Runner):
    """Gives twice its inputs, after doing what its file says."""

    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour

    def run(self, inputs: Arrays) -> list["np.ndarray[Any, Any]"]:
        if self.behaviour:
            BEHAVIOURS[self.behaviour]()
        return [2 * each for each in inputs]


@dataclass(frozen=True)
class Fake(Engine):
    name: ClassVar[str] = "fake"
    suffix: ClassVar[str] = ".json"
    extra: ClassVar[str | None] = None
    capabilities: ClassVar[Capabilities] = Capabilities(False, False, False, frozenset(Precision))

    def export(self, model: "nn.Module", example: "Example", path: Path) -> Exported:
        raise EngineError("a fake exports nothing")

    def open(self, path: Path, settings: Settings) -> Runner:
        return Doubles(json.loads(path.read_text()))

    def version(self) -> str:
        return f"threads {os.environ.get('OMP_NUM_THREADS')}"


class Inside(Worker):
    """A worker without a process: the same commands, here."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        super().__init__()
        self.model = Model(engines)

    def __enter__(self) -> Self:
        self.folder = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.folder.cleanup()

    @property
    def pid(self) -> int:
        return os.getpid()

    def settle(self, most: float = 2.0) -> bool:
        return True

    def _ask(self, command: str, **settings: Any) -> Any:
        return self.model.commands[command](**settings)


class Scripted(Worker):
    """A worker that answers with prepared times, and writes down when it works."""

    def __init__(self, name: str, rounds: Sequence[Sequence[int]], log: list[str]) -> None:
        super().__init__()
        self.name, self.rounds, self.log, self.turn = name, rounds, log, 0

    def __enter__(self) -> Self:
        self.log.append(f"enter {self.name}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.log.append(f"exit {self.name}")

    @property
    def pid(self) -> int:
        return 1

    def open(self, engine: str, path: Path, settings: Settings) -> str:
        return "1.0"

    def inputs(self, batches: Sequence[Arrays]) -> None:
        assert len(batches) == 1

    def warm_up(self, seconds: float) -> list[int]:
        return [10_000_000, 1_000_000, 1_000_000]

    def time(self, calls: int) -> list[int]:
        self.log.append(self.name)
        self.calls = calls
        self.turn += 1
        return list(self.rounds[self.turn - 1])

    def settle(self, most: float = 2.0) -> bool:
        self.log.append(f"settle {self.name}")
        return True

    def memory(self) -> Memory:
        return Memory(100, 10)


if __name__ == "__main__":
    serve({"fake": Fake()})
