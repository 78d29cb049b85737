"""Measure models against each other: in processes of their own, by turns, and on a machine that does little else."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from time import perf_counter

import numpy as np

from featherweight.core.errors import EngineError, naming
from featherweight.engines.engine import Arrays, Settings
from featherweight.engines.machine import machine
from featherweight.engines.measurement import Measurement, Plan, timing
from featherweight.engines.packages import needed
from featherweight.engines.process import Worker

BUSY = ("user", "system", "nice", "irq", "softirq", "steal")
"""What counts as busy of the system's CPU times, where it has them; virtual machines' are in user and nice already."""
MOST_CALLS = 100_000

Meter = Callable[[int], Callable[[], float]]
"""Given the process that is about to work: starts to measure, and returns what tells the load since then, in cores."""
Start = Callable[[Settings, float], Worker]
"""Makes, but does not enter, a worker for these settings and a timeout in seconds."""


@dataclass(frozen=True)
class Contender:
    """An exported model, the engine that runs it, by name, and how."""

    label: str
    engine: str
    path: Path
    settings: Settings = Settings()


@dataclass(frozen=True)
class Round:
    """Told after every round: how many there were, how many were quiet, and the largest load of its turns."""

    number: int
    quiet: int
    load: float
    plan: Plan


@dataclass(frozen=True)
class Turn:
    """A contender's samples, nanoseconds of every call, and the load meanwhile."""

    samples: list[int]
    load: float


@dataclass(frozen=True)
class Ready:
    """A contender that is opened and warm; its process waits."""

    contender: Contender
    worker: Worker
    version: str
    calls: int
    """In a turn."""


def foreign_load(pid: int) -> Callable[[], float]:
    """The load of everything else than this process and process ``pid``, in cores.

    CPU seconds of the system, less those of both processes, over the time that passed. The clocks tick every 10 ms, so
    half a second is measured to about 0.04 cores.
    """
    psutil = needed("psutil", "engines")
    ours = [psutil.Process(), psutil.Process(pid)]

    def spent() -> float:
        system = psutil.cpu_times()._asdict()
        busy = sum(system.get(name, 0.0) for name in BUSY)
        return float(busy - sum(sum(each.cpu_times()[:2]) for each in ours))

    start, before = perf_counter(), spent()
    return lambda: max(0.0, (spent() - before) / (perf_counter() - start))


def in_a_process(settings: Settings, timeout: float) -> Worker:
    return Worker(settings.threads, timeout)


def measure(
    contenders: Sequence[Contender],
    inputs: Arrays,
    baseline: str,
    plan: Plan = Plan(),  # noqa: B008  # frozen
    watch: Callable[[Round], None] | None = None,
    meter: Meter = foreign_load,
    start: Start = in_a_process,
) -> Measurement:
    """Time contenders on the same inputs, a batch, against each other.

    Each is opened in a process of its own, and all are warmed up. Then, round by round, every one has a turn, while
    the others wait for a line from us: the order is turned by one every round, and a turn begins when the threads of
    the one before sleep. A round in which everything else on the machine took more than ``plan.disturbance`` cores
    during any turn does not count and is repeated, ``plan.most`` rounds in all. If not enough are left, the least
    disturbed ones are taken, and the result says so.

    ``EngineError``, naming the contender, for one that cannot be opened or run, crashes, or takes too long.
    """
    labels = [each.label for each in contenders]
    if len(set(labels)) != len(labels) or baseline not in labels:
        raise EngineError(f"contenders {', '.join(labels)}: labels must differ, and {baseline!r} be one of them")
    with ExitStack() as stack:
        ready = []
        for each in contenders:
            with naming(each.label):
                ready.append(_ready(each, stack.enter_context(start(each.settings, plan.timeout)), inputs, plan))
        rounds = _rounds(ready, plan, watch, meter)
        kept, disturbed = _kept(rounds, plan)
        timings = tuple(
            timing(
                each.contender.label,
                each.contender.engine,
                each.version,
                each.contender.settings,
                each.contender.path.stat().st_size,
                samples=[rounds[k][i].samples for k in kept],
                loads=[rounds[k][i].load for k in kept],
                memory=each.worker.memory(),
            )
            for i, each in enumerate(ready)
        )
    rejected = tuple(_load(turns) for k, turns in enumerate(rounds) if k not in kept)
    return Measurement(baseline, _batch(inputs), timings, rejected, disturbed, plan, machine())


def _ready(contender: Contender, worker: Worker, inputs: Arrays, plan: Plan) -> Ready:
    version = worker.open(contender.engine, contender.path, contender.settings)
    worker.inputs([inputs])
    samples = worker.warm_up(plan.warmup)
    usual = float(np.median(samples[len(samples) // 2 :])) / 1e9  # the first calls are slower
    worker.settle()
    return Ready(contender, worker, version, min(MOST_CALLS, max(1, ceil(plan.seconds / max(usual, 1e-9)))))


def _rounds(
    ready: Sequence[Ready], plan: Plan, watch: Callable[[Round], None] | None, meter: Meter
) -> list[list[Turn]]:
    """Rounds until enough were quiet or patience ends; the turns of each in the order of the contenders."""
    rounds: list[list[Turn]] = []
    quiet = 0
    while quiet < plan.rounds and len(rounds) < plan.most:
        turns: dict[int, Turn] = {}
        for i in rotated(len(ready), len(rounds)):
            with naming(ready[i].contender.label):
                turns[i] = _turn(ready[i], meter)
        rounds.append([turns[i] for i in range(len(ready))])
        load = _load(rounds[-1])
        quiet += load <= plan.disturbance
        if watch is not None:
            watch(Round(len(rounds), quiet, load, plan))
    return rounds


def rotated(count: int, number: int) -> list[int]:
    """The order of turns in round ``number``: each contender is first as often as any other, within one."""
    return [(number + i) % count for i in range(count)]


def _turn(ready: Ready, meter: Meter) -> Turn:
    load = meter(ready.worker.pid)
    samples = ready.worker.time(ready.calls)
    found = load()
    ready.worker.settle()
    return Turn(samples, found)


def _kept(rounds: Sequence[Sequence[Turn]], plan: Plan) -> tuple[list[int], bool]:
    """The rounds that count, in order, and whether too few were quiet."""
    loads = [_load(turns) for turns in rounds]
    quietest = sorted(range(len(rounds)), key=lambda k: loads[k])[: plan.rounds]
    return sorted(quietest), any(loads[k] > plan.disturbance for k in quietest)


def _load(turns: Sequence[Turn]) -> float:
    return max(each.load for each in turns)


def _batch(inputs: Arrays) -> int:
    return next((len(each) for each in inputs if each.ndim), 1)
