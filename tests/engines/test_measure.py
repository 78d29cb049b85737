"""Who has a turn when, which rounds count, and what the load is."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from featherweight.core.errors import EngineError
from featherweight.engines import measure as module
from featherweight.engines.engine import Settings
from featherweight.engines.measure import Contender, Round, foreign_load, measure, rotated
from featherweight.engines.measurement import Measurement, Plan
from featherweight.engines.process import Worker

from .fakes import COMMAND, Scripted

pytest.importorskip("psutil")

INPUTS = [np.zeros((4, 3), dtype=np.float32)]


class Bench:
    """Contenders with prepared times and a meter with prepared loads, one for every turn."""

    def __init__(self, folder: Path, times: dict[str, list[list[int]]], loads: Sequence[float] = ()) -> None:
        self.contenders = []
        for name in times:
            (folder / name).write_bytes(b"x" * len(name))
            self.contenders.append(Contender(name, "fake", folder / name, Settings(len(name))))
        self.log: list[str] = []
        self.workers = {len(name): Scripted(name, rounds, self.log) for name, rounds in times.items()}
        self.loads: Iterator[float] = iter(loads)
        self.told: list[Round] = []

    def meter(self, pid: int) -> Callable[[], float]:
        self.log.append("meter")
        return lambda: next(self.loads, 0.0)

    def start(self, settings: Settings, timeout: float) -> Worker:
        return self.workers[settings.threads]

    def measure(self, plan: Plan) -> Measurement:
        return measure(self.contenders, INPUTS, "a", plan, self.told.append, self.meter, self.start)


def test_turns_rotate_and_everyone_settles_before_the_next(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {name: [[1]] * 3 for name in ("a", "bb", "ccc")})
    bench.measure(Plan(rounds=3))
    turns = [each for each in bench.log if each in ("a", "bb", "ccc")]
    assert turns == ["a", "bb", "ccc", "bb", "ccc", "a", "ccc", "a", "bb"]
    for at, each in enumerate(bench.log):
        if each in ("a", "bb", "ccc"):
            assert bench.log[at - 1] == "meter" and bench.log[at + 1] == f"settle {each}"
    assert bench.log[:6] == ["enter a", "settle a", "enter bb", "settle bb", "enter ccc", "settle ccc"]
    assert bench.log[-3:] == ["exit ccc", "exit bb", "exit a"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_everyone_has_every_place_once(count: int) -> None:
    orders = [rotated(count, k) for k in range(count)]
    assert all(sorted(each) == list(range(count)) for each in (*orders, *zip(*orders, strict=True)))


def test_a_disturbed_round_is_repeated(tmp_path: Path) -> None:
    times = {"a": [[100], [999], [120]], "bb": [[50], [999], [40]]}
    bench = Bench(tmp_path, times, loads=[0.0, 0.05, 0.0, 0.7, 0.02, 0.0])
    found = bench.measure(Plan(rounds=2))
    assert found.timing("a").medians == pytest.approx((100e-6, 120e-6))
    assert found.timing("bb").medians == pytest.approx((50e-6, 40e-6))
    assert found.ratio("bb").median == pytest.approx(2.5)
    assert found.rejected == (0.7,) and not found.disturbed and found.load == 0.05
    # The third round begins with the first contender again.
    assert found.timing("a").loads == (0.0, 0.02) and found.timing("bb").loads == (0.05, 0.0)
    assert [(each.number, each.quiet, each.load) for each in bench.told] == [(1, 1, 0.05), (2, 1, 0.7), (3, 2, 0.02)]


def test_patience_ends_with_the_least_disturbed_rounds(tmp_path: Path) -> None:
    times = {"a": [[100], [200], [300], [400]], "bb": [[1], [2], [3], [4]]}
    bench = Bench(tmp_path, times, loads=[0.9, 0.0, 0.0, 0.3, 0.05, 0.0, 0.8, 0.0])
    found = bench.measure(Plan(rounds=2, patience=4))
    assert found.timing("a").medians == pytest.approx((200e-6, 300e-6))
    assert found.disturbed and found.load == 0.3 and found.rejected == (0.9, 0.8)


def test_quiet_rounds_are_enough(tmp_path: Path) -> None:
    """A load of the threshold is allowed, and no more rounds are made than are wanted."""
    bench = Bench(tmp_path, {"a": [[1]] * 9}, loads=[0.1] * 9)
    found = bench.measure(Plan(rounds=3, disturbance=0.1))
    assert not found.disturbed and found.rejected == () and len(bench.told) == 3


def test_a_turn_has_as_many_calls_as_the_warm_up_says(tmp_path: Path) -> None:
    """A millisecond a call, but for the first."""
    bench = Bench(tmp_path, {"a": [[1]] * 2})
    bench.measure(Plan(rounds=1, seconds=0.25))
    assert bench.workers[1].calls == 250


def test_the_result_says_what_was_run(tmp_path: Path) -> None:
    found = Bench(tmp_path, {"a": [[1, 3]] * 2, "bb": [[2]] * 2}).measure(Plan(rounds=2))
    second = found.timing("bb")
    assert (second.engine, second.version, second.bytes, second.settings) == ("fake", "1.0", 2, Settings(2))
    assert found.timing("a").calls == 4 and found.batch == 4 and found.baseline == "a"
    assert (second.memory.peak, second.memory.model) == (100, 10)


def test_labels_must_differ_and_have_the_baseline(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"a": [[1]], "bb": [[1]]})
    with pytest.raises(EngineError, match="'c' be one of them"):
        measure(bench.contenders, INPUTS, "c")
    with pytest.raises(EngineError, match="labels must differ"):
        measure(bench.contenders * 2, INPUTS, "a")
    assert bench.log == []


def test_a_contender_that_crashes_is_named(tmp_path: Path) -> None:
    (tmp_path / "crash.json").write_text(json.dumps("crash"))
    with pytest.raises(EngineError, match="^the bad one: the engine's process ended with exit code 7 at 'warm up'"):
        measure(
            [Contender("the bad one", "fake", tmp_path / "crash.json")],
            INPUTS,
            "the bad one",
            start=lambda settings, timeout: Worker(1, timeout, COMMAND),
        )


def test_real_processes_take_turns(tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text('""')
    found = measure(
        [Contender(name, "fake", tmp_path / "plain.json") for name in ("one", "two")],
        INPUTS,
        "one",
        Plan(rounds=2, seconds=0.01, warmup=0, patience=2),
        start=lambda settings, timeout: Worker(1, timeout, COMMAND),
    )
    assert all(len(each.medians) == 2 and each.p50 > 0 and each.calls > 2 for each in found.timings)
    assert Measurement.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_load_is_that_of_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU seconds of the system less ours and the child's, over the time."""
    system = iter([
        {"user": 10.0, "nice": 1.0, "system": 5.0, "idle": 100.0, "iowait": 7.0, "irq": 0.5, "guest": 50.0},
        {"user": 12.0, "nice": 1.5, "system": 5.5, "idle": 101.0, "iowait": 9.0, "irq": 0.75, "guest": 51.0},
    ])  # fmt: skip
    ours = {None: iter([(1.0, 0.0, 9.0, 9.0), (1.25, 0.0, 9.0, 9.0)]), 42: iter([(2.0, 1.0), (3.5, 1.25)])}

    class Clock:
        def __init__(self, pid: int | None = None) -> None:
            self.pid = pid

        def cpu_times(self) -> tuple[float, ...]:
            return next(ours[self.pid])

    fake = SimpleNamespace(
        cpu_times=lambda: SimpleNamespace(_asdict=partial(next, system)),
        Process=Clock,
    )
    now = iter([100.0, 102.0])
    monkeypatch.setattr(module, "needed", lambda package, extra: fake)
    monkeypatch.setattr(module, "perf_counter", lambda: next(now))
    # user 2, nice 0.5, system 0.5, irq 0.25 are 3.25 s; ours 0.25 and the child's 1.5 + 0.25; in 2 s.
    assert foreign_load(42)() == pytest.approx((3.25 - 0.25 - 1.75) / 2)


def test_the_load_is_never_below_zero_and_psutil_has_what_it_takes() -> None:
    assert foreign_load(os.getpid())() >= 0
