"""Measurements: their statistics, their rounds, and processes that die. Nothing here asserts a time."""

import json
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from featherweight.core.compressed import Compressed
from featherweight.core.errors import EngineError
from featherweight.engines import measure as measuring
from featherweight.engines import process
from featherweight.engines.engine import Settings
from featherweight.engines.export import export
from featherweight.engines.measure import (
    Contender,
    ContenderError,
    Load,
    Machine,
    Measurement,
    Plan,
    Timing,
    measure,
    rotated,
    size_of,
)
from featherweight.engines.process import Worker

from .nets import NETS

pytest.importorskip("psutil")
MACHINE = Machine("cpu", 2, 1 << 30, "system", "3.11", "2.13")
PLAN = Plan(rounds=3, seconds=0.01, warmup=0.0, patience=2)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("measured") / "digits.pt2"
    export(Compressed(NETS["digits"].model()), NETS["digits"].example, path)
    return path


INPUTS = [each.numpy() for each in NETS["digits"].inputs]


class Scripted:
    """Loads as they were written down, one a turn."""

    def __init__(self, *loads: float) -> None:
        self.loads = list(loads)

    def start(self) -> None:
        pass

    def cores(self, own: float) -> float:
        assert own > 0
        return self.loads.pop(0)


def timing(label: str, rounds: tuple[float, ...]) -> Timing:
    return Timing(label, "pytorch", "2.13", 1, "float32", 1.0, 2.0, 1.1, rounds, 30, 1000, 500)


def measurement(a: tuple[float, ...], b: tuple[float, ...]) -> Measurement:
    return Measurement(4, "a", (timing("a", a), timing("b", b)), (0.0,) * len(a), 1, False, MACHINE)


def test_a_ratio_is_of_rounds() -> None:
    """Not of overall medians: a machine that slows down in the middle slows both."""
    a, b = (2.0, 4.0, 40.0, 44.0, 6.0), (1.0, 1.0, 10.0, 10.0, 3.0)
    found = measurement(a, b).ratios
    assert found.keys() == {"b"}
    each = sorted(x / y for x, y in zip(a, b, strict=True))
    assert found["b"].median == each[2] == 4.0
    assert each[0] <= found["b"].low <= found["b"].median <= found["b"].high <= each[-1]
    back = measurement(a, b).ratio("a", "b")
    assert back.median == pytest.approx(1 / found["b"].median)
    assert measurement((3.0,) * 5, (2.0,) * 5).ratios["b"] == measuring.Ratio(1.5, 1.5, 1.5)


def test_the_interval_is_the_bootstraps() -> None:
    """For three distinct rounds the resampled median has a known distribution: 7/27, 13/27, 7/27."""
    found = measurement((1.0, 2.0, 3.0), (1.0, 1.0, 1.0)).ratios["b"]
    assert (found.median, found.low, found.high) == (2.0, 1.0, 3.0)
    many = tuple(1.0 + i / 100 for i in range(101))
    wide = measurement(many, (1.0,) * 101).ratios["b"]
    # the median of n uniform draws has standard deviation near 1 / (2 √n)
    assert wide.high - wide.low == pytest.approx(2 * 1.96 / (2 * math.sqrt(101)), rel=0.15)
    assert wide == measurement(many, (1.0,) * 101).ratios["b"]


def test_ratios_are_of_what_was_measured_together_alone() -> None:
    with pytest.raises(EngineError, match="'c' was not measured here"):
        measurement((1.0,), (1.0,)).ratio("c", "a")


def test_json_gives_it_back() -> None:
    found = measurement((2.0, 3.0), (1.0, 1.1))
    record = json.loads(json.dumps(found.to_json()))
    assert Measurement.from_json(record) == found
    record["ratios"]["b"]["median"] = 1000.0  # a claim that the timings do not bear
    assert Measurement.from_json(record).ratios == found.ratios


def test_each_contender_comes_first_in_turn() -> None:
    orders = [rotated(["a", "b", "c"], i) for i in range(6)]
    assert orders[:3] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]] and orders[3:] == orders[:3]


def test_disturbed_rounds_are_repeated(digits: Path) -> None:
    contenders = [Contender(name, "pytorch", digits) for name in ("a", "b")]
    seen: list[measuring.Progress] = []
    # rounds of two turns: the second and the fourth are disturbed
    load = Scripted(0.0, 0.05, 0.0, 0.11, 0.02, 0.01, 0.5, 0.0, 0.1, 0.1)
    found = measure(contenders, INPUTS, "a", PLAN, seen.append, load)
    assert (found.loads, found.rejected, found.disturbed) == ((0.05, 0.02, 0.1), 2, False)
    assert [(each.done, each.rejected) for each in seen] == [(1, 0), (1, 1), (2, 1), (2, 2), (3, 2)]
    assert found.batch == 5 and found.timing("a").bytes == digits.stat().st_size
    for each in found.timings:
        assert len(each.rounds) == 3 and each.calls >= 3 and each.p50 <= each.p95 and each.memory >= 0
    assert found.ratios["b"].median == pytest.approx(
        median(a / b for a, b in zip(found.timings[0].rounds, found.timings[1].rounds, strict=True))
    )
    assert Measurement.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_least_disturbed_rounds_count_where_patience_ends(digits: Path) -> None:
    load = Scripted(0.9, 0.3, 0.05, 0.8, 0.2, 0.7)
    found = measure([Contender("a", "pytorch", digits)], INPUTS, "a", PLAN, load=load)
    assert (found.loads, found.rejected, found.disturbed) == ((0.3, 0.05, 0.2), 3, True)
    assert load.loads == []


def test_statistics_are_over_the_samples_of_rounds_that_count(digits: Path) -> None:
    kept = [measuring.Round({"a": np.array(each) * 1_000_000}, 0.0) for each in ([1, 2, 9], [4, 6], [5, 5, 5, 3])]
    found = measuring._timing(Contender("a", "pytorch", digits), "1", 7, kept)
    values = sorted([1, 2, 9, 4, 6, 5, 5, 5, 3])
    place = 0.95 * (len(values) - 1)
    assert (found.p50, found.mean, found.calls) == (5.0, pytest.approx(sum(values) / 9), 9)
    assert found.p95 == pytest.approx(values[7] + (place - 7) * (values[8] - values[7]))
    assert found.rounds == (2.0, 5.0, 5.0)


def test_load_is_what_neither_process_used(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, parent, wall = iter([100.0, 103.0]), iter([5.0, 5.25]), iter([0.0, 2.0])
    monkeypatch.setattr(measuring, "busy", lambda: next(busy))
    monkeypatch.setattr(measuring.time, "process_time", lambda: next(parent))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(wall))
    load = Load()
    load.start()
    assert load.cores(1.75) == (3.0 - 0.25 - 1.75) / 2


def test_the_machine_has_been_busy() -> None:
    assert measuring.busy() > 0 and Machine.here().cores >= 1


def test_an_openvino_models_weights_count(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_bytes(b"123")
    assert size_of(tmp_path / "m.xml") == 3
    (tmp_path / "m.bin").write_bytes(b"12345")
    assert size_of(tmp_path / "m.xml") == 8 and size_of(tmp_path / "m.bin") == 5


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"patience": 0}, {"seconds": 0.0}, {"seconds": math.nan}, {"disturbance": -1.0}]
)
def test_plans_that_are_none(wrong: dict[str, float]) -> None:
    with pytest.raises(EngineError, match="give"):
        replace(PLAN, **wrong)  # type: ignore[arg-type]


def test_contenders_need_labels_and_a_baseline(digits: Path) -> None:
    one = Contender("a", "pytorch", digits)
    with pytest.raises(EngineError, match="share a label"):
        measure([one, one], INPUTS, "a", PLAN)
    with pytest.raises(EngineError, match="no contender"):
        measure([one], INPUTS, "b", PLAN)


def test_a_contender_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.pt2").write_bytes(b"nothing")
    with pytest.raises(ContenderError, match=r"bad: PyTorch cannot open .*export it anew") as caught:
        measure([Contender("bad", "pytorch", tmp_path / "no.pt2")], INPUTS, "bad", PLAN)
    assert caught.value.label == "bad"


def test_a_worker_runs_the_model(digits: Path) -> None:
    with Worker("digits", Settings()) as worker:
        with pytest.raises(EngineError, match="no model or no inputs"):
            worker.run()
        assert worker.open("pytorch", digits)
        worker.inputs(INPUTS)
        (found,) = worker.run()
        expected = NETS["digits"].model()(*NETS["digits"].inputs).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)
        turn = worker.time(0.01)
        assert len(turn.samples) >= 1 and (turn.samples > 0).all() and turn.cpu > 0
        os.kill(worker.pid, signal.SIGSEGV)
        with pytest.raises(EngineError, match="digits crashed at 'run'.*signal SIGSEGV"):
            worker.run()
        with pytest.raises(EngineError, match="crashed"):
            worker.memory()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot stop a process")
def test_a_worker_that_hangs_is_ended(digits: Path) -> None:
    with Worker("digits", Settings()) as worker:
        worker.open("pytorch", digits)
        worker.inputs(INPUTS)
        worker.timeout = 0.2
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(EngineError, match=r"digits hung: no answer to 'run' within 0\.2 seconds"):
            worker.run()
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("print('hello', flush=True); input()", "no reply of a worker"),
        ("print('[1]', flush=True); input()", "no reply of a worker"),
        ("import sys; print('alas', file=sys.stderr); sys.exit(3)", r"exit code 3 \(it last said: alas\)"),
    ],
)
def test_processes_that_are_no_workers(script: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", script))
    with Worker("odd", Settings()) as worker, pytest.raises(EngineError, match=message):
        worker.memory()


def test_a_worker_ends_with_its_parent(digits: Path) -> None:
    with Worker("digits", Settings()) as worker:
        worker.open("pytorch", digits)
        assert worker._process.stdin is not None
        worker._process.stdin.close()
        assert worker._process.wait(60) == 0
