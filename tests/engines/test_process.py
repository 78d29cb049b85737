"""A worker's failures are errors of ours with the reason, and none of its ways out leaves a process behind."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from featherweight.core.errors import EngineError
from featherweight.engines import process
from featherweight.engines.engine import Settings
from featherweight.engines.process import Worker

from .fakes import COMMAND

psutil = pytest.importorskip("psutil")

INPUTS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7], dtype=np.int64), np.array(2.5)]


def opened(worker: Worker, folder: Path, behaviour: str = "") -> None:
    path = folder / f"{behaviour}.json"
    path.write_text(json.dumps(behaviour))
    worker.open("fake", path, Settings())
    worker.inputs([INPUTS, INPUTS[:1]])


def gone(pid: int) -> bool:
    """Whether the process ends within some seconds; where nobody waits for it, its entry may stay."""
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_worker_runs_a_model_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text('""')
    with Worker(3, 60, COMMAND) as worker:
        assert worker.pid != os.getpid()
        assert worker.open("fake", tmp_path / "plain.json", Settings()) == "threads 3"
        worker.inputs([INPUTS, INPUTS[:1]])
        assert len(worker.time(5)) == 5 and min(worker.time(2)) > 0
        assert len(worker.warm_up(0)) >= 1
        first, second = worker.run()
        assert [each.dtype for each in first] == [each.dtype for each in INPUTS]
        assert all(np.array_equal(y, 2 * x) for x, y in zip(INPUTS, first, strict=True))
        assert len(second) == 1 and np.array_equal(second[0], 2 * INPUTS[0])
        memory = worker.memory()
        assert 0 <= memory.model < memory.peak
        assert worker.settle()  # an idle worker takes no time
    assert gone(worker.pid) and not Path(worker.folder.name).exists()


def test_what_engines_print_does_not_reach_the_protocol(tmp_path: Path) -> None:
    with Worker(1, 60, COMMAND) as worker:
        opened(worker, tmp_path, "write")
        assert len(worker.time(3)) == 3
        assert "printed by an engine" in worker._tail() and "written by an engine" in worker._tail()


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("crash", "ended with exit code 7 at 'time'"),
        ("segfault", "ended by signal SIGSEGV at 'time'"),
        ("complain", "exit code 3 at 'time': .*the last words"),
    ],
)
def test_a_crash_is_an_error_that_says_how_it_ended(tmp_path: Path, behaviour: str, message: str) -> None:
    with Worker(1, 60, COMMAND) as worker:
        opened(worker, tmp_path, behaviour)
        with pytest.raises(EngineError, match=message):
            worker.time(1)
        with pytest.raises(EngineError, match="ended"):
            worker.time(1)
    assert gone(worker.pid)


def test_a_hang_is_ended(tmp_path: Path) -> None:
    with Worker(1, 60, COMMAND) as worker:
        opened(worker, tmp_path, "hang")
        worker.timeout = 0.2
        with pytest.raises(EngineError, match=r"no answer to 'time' within 0\.2 s"):
            worker.time(1)
        assert gone(worker.pid)


def test_errors_in_the_child_leave_it_usable(tmp_path: Path) -> None:
    with Worker(1, 60, COMMAND) as worker:
        with pytest.raises(EngineError, match="no model or no inputs yet"):
            worker.time(1)
        with pytest.raises(EngineError, match="there is no engine 'other'; there are fake"):
            worker.open("other", tmp_path, Settings())
        opened(worker, tmp_path, "refuse")
        with pytest.raises(EngineError, match="^this engine takes nothing$"):
            worker.time(1)
        opened(worker, tmp_path, "blunder")
        with pytest.raises(EngineError, match="time failed .ZeroDivisionError: a bug"):
            worker.time(1)
        opened(worker, tmp_path)
        assert len(worker.time(1)) == 1


def test_threads_that_spin_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PAUSE", 0.5)  # the thread has to come to run, on a machine that may be busy
    with Worker(1, 60, COMMAND) as worker:
        opened(worker, tmp_path, "spin")
        worker.time(1)
        assert not worker.settle(0.3)


@pytest.mark.parametrize("behaviour", ["beget", "orphan"])
def test_what_an_engine_starts_ends_with_its_process(tmp_path: Path, behaviour: str) -> None:
    """Compilers have pools of processes."""
    with Worker(1, 60, COMMAND) as worker:
        opened(worker, tmp_path, behaviour)
        with suppress(EngineError):
            worker.time(1)
        pid = int(worker._tail().removeprefix(": "))
    assert gone(pid)


@pytest.mark.parametrize(
    "answer",
    ["no JSON", "[]", '{"id": 2, "result": 1}', '{"id": 1}', '{"id": 1, "result": 1, "error": "x"}', "\x00\xff"],
)
def test_what_is_no_answer_is_an_error(answer: str) -> None:
    program = f"import sys; sys.stdin.readline(); print({answer!r}, flush=True); sys.stdin.readline()"
    with (
        Worker(1, 60, (sys.executable, "-X", "utf8", "-c", program)) as worker,
        pytest.raises(EngineError, match="broke the protocol at 'time'"),
    ):
        worker.time(1)


def test_no_times_are_an_error() -> None:
    program = 'import sys; sys.stdin.readline(); print(\'{"id": 1, "result": []}\', flush=True); sys.stdin.readline()'
    with (
        Worker(1, 60, (sys.executable, "-c", program)) as worker,
        pytest.raises(EngineError, match="where times were due"),
    ):
        worker.time(1)


def test_a_child_dies_with_its_parent_even_where_the_engine_hangs(tmp_path: Path) -> None:
    path = tmp_path / "hang.json"
    path.write_text('"hang"')
    program = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from featherweight.engines.engine import Settings\n"
        "from featherweight.engines.process import Worker\n"
        "worker = Worker(1, 60, sys.argv[2:]).__enter__()\n"
        "worker.open('fake', Path(sys.argv[1]), Settings())\n"
        "worker.inputs([[np.zeros(1)]])\n"
        "print(worker.pid, flush=True)\n"
        "worker.time(1)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(path), *COMMAND], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(pid)
