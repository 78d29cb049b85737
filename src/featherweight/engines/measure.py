"""Latency of models beside each other, on a machine that may have other things to do.

Each model runs in a process of its own, since thread pools of engines in one process slow each other down, and one
works at a time. Turns are interleaved, in an order that rotates, so that a machine that slows down slows all alike.
"""

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, Self

import numpy as np
import torch

from featherweight.core.errors import EngineError
from featherweight.engines.engine import Arrays, Settings, needed
from featherweight.engines.process import Worker

RESAMPLES = 10_000
SEED = 0
COVERAGE = 95.0
"""Per cent of the interval of a ratio."""


@dataclass(frozen=True)
class Contender:
    """A file and what runs it. ``label`` tells it from the others of a measurement."""

    label: str
    engine: str
    path: Path
    settings: Settings = Settings()


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    rounds       of turns that count, one turn for each contender in each
    seconds      of a turn
    warmup       seconds of running before the first round
    disturbance  cores that all else on the machine may use during a turn
    patience     times ``rounds`` that are run at most, in search of undisturbed ones
    """

    rounds: int = 9
    seconds: float = 0.5
    warmup: float = 0.5
    disturbance: float = 0.10
    patience: int = 3

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.patience < 1:
            raise EngineError(f"{self.rounds} rounds and a patience of {self.patience}; give 1 or more of both")
        if not (0 < self.seconds < math.inf and 0 <= self.warmup < math.inf):
            raise EngineError(f"turns of {self.seconds} s after {self.warmup} s of warm-up; give positive numbers")
        if not self.disturbance >= 0:
            raise EngineError(f"a disturbance of {self.disturbance} cores; give 0 or more")


@dataclass(frozen=True)
class Progress:
    """Told after every turn: ``done`` rounds of ``rounds`` count so far, and ``rejected`` ones do not."""

    what: str
    done: int
    rounds: int
    rejected: int = 0


Watch = Callable[[Progress], None]


class Meter(Protocol):
    """Measures what else the machine does."""

    def start(self) -> None: ...

    def cores(self, own: float) -> float:
        """Cores that all else used since the start, where the working process used ``own`` CPU seconds."""
        ...


class Load:
    """``(busy − own − parent) / wall`` cores since the start, never below zero.

    busy    CPU seconds of the whole machine: all kinds but idle and waiting for input or output (``psutil.cpu_times``)
    own     CPU seconds of the process that was timed
    parent  CPU seconds of this process
    """

    def start(self) -> None:
        self._busy, self._parent, self._wall = busy(), time.process_time(), time.perf_counter()

    def cores(self, own: float) -> float:
        spent = busy() - self._busy - own - (time.process_time() - self._parent)
        return max(0.0, spent / (time.perf_counter() - self._wall))


def busy() -> float:
    """CPU seconds that the machine has worked since it started."""
    times = needed("psutil", "engines").cpu_times()._asdict()
    within = {"guest", "guest_nice"}  # counted in user and nice already
    return float(sum(value for kind, value in times.items() if kind not in {"idle", "iowait", *within}))


@dataclass(frozen=True)
class Timing:
    """Latency of one call, in milliseconds, over all samples of the rounds that count.

    ``rounds`` has the median of each round, ``calls`` is the number of samples, ``memory`` the bytes that the process
    held at most beyond those before the model was opened, inputs and outputs among them, and ``bytes`` the size of the
    file with what belongs to it.
    """

    label: str
    engine: str
    version: str
    threads: int
    precision: str
    p50: float
    p95: float
    mean: float
    rounds: tuple[float, ...]
    calls: int
    memory: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"rounds": list(self.rounds)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(**dict(record) | {"rounds": tuple(record["rounds"])})


@dataclass(frozen=True)
class Ratio:
    """How many times as fast something is as its baseline: median over the rounds, with an interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Machine:
    """Where it was measured; ``memory`` in bytes."""

    cpu: str
    cores: int
    memory: int
    platform: str
    python: str
    torch: str

    @classmethod
    def here(cls) -> Self:
        psutil = needed("psutil", "engines")
        return cls(
            cpu=_cpu(),
            cores=psutil.cpu_count(),
            memory=psutil.virtual_memory().total,
            platform=platform.platform(),
            python=platform.python_version(),
            torch=torch.__version__,
        )


def _cpu() -> str:
    """The processor's name, as the system tells it."""
    table = Path("/proc/cpuinfo")
    if table.exists():
        for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Measurement:
    """Contenders that took turns on the same inputs.

    loads      of each round that counts, the largest load of all else during a turn, in cores
    rejected   rounds that do not count, since all else used too much
    disturbed  there were too few undisturbed rounds, so the least disturbed ones count
    """

    batch: int
    baseline: str
    timings: tuple[Timing, ...]
    loads: tuple[float, ...]
    rejected: int
    disturbed: bool
    machine: Machine

    @property
    def ratios(self) -> dict[str, Ratio]:
        """How many times as fast as the baseline each of the others is, by label."""
        others = (each.label for each in self.timings if each.label != self.baseline)
        return {label: self.ratio(label, self.baseline) for label in others}

    def timing(self, label: str) -> Timing:
        for each in self.timings:
            if each.label == label:
                return each
        known = ", ".join(each.label for each in self.timings)
        raise EngineError(f"{label!r} was not measured here; measured were {known}")

    def ratio(self, label: str, baseline: str) -> Ratio:
        """How many times as fast as ``baseline`` this was: ``r_i = median_i(baseline) / median_i(label)`` in round i.

        The median of all ``r_i``, and its 95 % interval by the percentile bootstrap over rounds (Efron and Tibshirani,
        "An Introduction to the Bootstrap", 1993, section 13.3): 10,000 resamples, drawn with the fixed seed 0. From one
        round alone the interval has no width, and says nothing.
        """
        over, under = self.timing(baseline).rounds, self.timing(label).rounds
        ratios = np.array(over) / np.array(under)
        drawn = np.random.default_rng(SEED).integers(len(ratios), size=(RESAMPLES, len(ratios)))
        edge = (100 - COVERAGE) / 2
        low, high = np.percentile(np.median(ratios[drawn], axis=1), [edge, 100 - edge])
        return Ratio(float(np.median(ratios)), float(low), float(high))

    def to_json(self) -> dict[str, Any]:
        """With the ratios, which are computed again from the timings when it is read."""
        return {
            "batch": self.batch,
            "baseline": self.baseline,
            "timings": [each.to_json() for each in self.timings],
            "ratios": {label: asdict(each) for label, each in self.ratios.items()},
            "loads": list(self.loads),
            "rejected": self.rejected,
            "disturbed": self.disturbed,
            "machine": asdict(self.machine),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(
            batch=record["batch"],
            baseline=record["baseline"],
            timings=tuple(Timing.from_json(each) for each in record["timings"]),
            loads=tuple(record["loads"]),
            rejected=record["rejected"],
            disturbed=record["disturbed"],
            machine=Machine(**record["machine"]),
        )


class ContenderError(EngineError):
    """A contender could not be opened or run; ``label`` says which."""

    def __init__(self, label: str, message: str) -> None:
        super().__init__(message)
        self.label = label


@contextmanager
def _blaming(label: str) -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        raise ContenderError(label, str(error)) from error


@dataclass(frozen=True, eq=False)
class Round:
    """Nanoseconds of calls by label, and the largest load of a turn."""

    samples: Mapping[str, "np.ndarray[Any, Any]"]
    load: float


def measure(
    contenders: Sequence[Contender],
    inputs: Arrays,
    baseline: str,
    plan: Plan = Plan(),
    watch: Watch | None = None,
    load: Meter | None = None,
    opened: Callable[[Contender, Worker], None] | None = None,
) -> Measurement:
    """Time contenders on the same inputs, in turns.

    A round during which all else on the machine used more than ``plan.disturbance`` cores in any turn does not count
    and is repeated, up to ``plan.patience · plan.rounds`` rounds in all. ``opened`` is given each contender's process
    before it is timed. Raises ``EngineError`` for contenders that
    share a label and a baseline that is none of them; :class:`ContenderError` where one fails.
    """
    labels = [each.label for each in contenders]
    if len(set(labels)) != len(labels):
        raise EngineError(f"contenders share a label: {', '.join(labels)}; give each its own")
    if baseline not in labels:
        raise EngineError(f"the baseline {baseline!r} is no contender; contenders are {', '.join(labels)}")
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        versions: dict[str, str] = {}
        for each in contenders:
            with _blaming(each.label):
                workers[each.label] = stack.enter_context(Worker(each.label, each.settings))
                versions[each.label] = _prepared(workers[each.label], each, inputs, plan, opened)
        rounds = _rounds(workers, plan, watch, Load() if load is None else load)
        memory: dict[str, int] = {}
        for label, worker in workers.items():
            with _blaming(label):
                memory[label] = worker.memory()
    kept = _kept(rounds, plan)
    return Measurement(
        batch=len(inputs[0]) if inputs and inputs[0].ndim else 1,
        baseline=baseline,
        timings=tuple(_timing(each, versions[each.label], memory[each.label], kept) for each in contenders),
        loads=tuple(each.load for each in kept),
        rejected=len(rounds) - len(kept),
        disturbed=any(each.load > plan.disturbance for each in kept),
        machine=Machine.here(),
    )


def _prepared(
    worker: Worker,
    contender: Contender,
    inputs: Arrays,
    plan: Plan,
    opened: Callable[[Contender, Worker], None] | None,
) -> str:
    version = worker.open(contender.engine, contender.path)
    if opened is not None:
        opened(contender, worker)
    worker.inputs(inputs)
    worker.warm_up(plan.warmup)
    return version


def _rounds(workers: Mapping[str, Worker], plan: Plan, watch: Watch | None, load: Meter) -> list[Round]:
    """Rounds until enough are undisturbed, or patience ends."""
    rounds: list[Round] = []
    good = 0
    while good < plan.rounds and len(rounds) < plan.patience * plan.rounds:
        rounds.append(_round(workers, len(rounds), plan, load))
        good += rounds[-1].load <= plan.disturbance
        if watch is not None:
            watch(Progress("timing", good, plan.rounds, len(rounds) - good))
    return rounds


def _round(workers: Mapping[str, Worker], number: int, plan: Plan, load: Meter) -> Round:
    samples, loads = {}, []
    for label in rotated(list(workers), number):
        load.start()
        with _blaming(label):
            turn = workers[label].time(plan.seconds)
        loads.append(load.cores(turn.cpu))
        samples[label] = turn.samples
    return Round(samples, max(loads))


def rotated(labels: Sequence[str], number: int) -> list[str]:
    """The order of turns in a round: each round begins with the next contender."""
    first = number % len(labels)
    return [*labels[first:], *labels[:first]]


def _kept(rounds: Sequence[Round], plan: Plan) -> list[Round]:
    """The rounds that count, as they came: the least disturbed ones, all of which are undisturbed if enough are."""
    least = sorted(range(len(rounds)), key=lambda i: rounds[i].load)[: plan.rounds]
    return [rounds[i] for i in sorted(least)]


def _timing(contender: Contender, version: str, memory: int, rounds: Sequence[Round]) -> Timing:
    samples = [each.samples[contender.label] / 1e6 for each in rounds]
    together = np.concatenate(samples)
    p50, p95 = np.percentile(together, [50, 95])
    return Timing(
        label=contender.label,
        engine=contender.engine,
        version=version,
        threads=contender.settings.threads,
        precision=contender.settings.precision.value,
        p50=float(p50),
        p95=float(p95),
        mean=fmean(together.tolist()),
        rounds=tuple(float(np.median(each)) for each in samples),
        calls=len(together),
        memory=memory,
        bytes=size_of(contender.path),
    )


def size_of(path: Path) -> int:
    """Bytes of a model's file, with the weights that OpenVINO keeps beside an ``.xml``."""
    beside = path.with_suffix(".bin")
    weights = beside.stat().st_size if path.suffix == ".xml" and beside.exists() else 0
    return path.stat().st_size + weights
