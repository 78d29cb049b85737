"""What was measured of models that took turns on one machine: times, load, memory, and ratios of speeds."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from featherweight.core.errors import EngineError, SelectionError
from featherweight.engines.engine import Precision, Settings
from featherweight.engines.machine import Machine
from featherweight.engines.process import Memory

RESAMPLES = 10_000
SEED = 0
COVERAGE = 95


@dataclass(frozen=True)
class Plan:
    """How turns are taken.

    rounds       rounds that count; in each, every contender has a turn
    seconds      a turn takes about so long, and one call at least
    warmup       seconds that every contender runs before the first round
    disturbance  cores that everything else on the machine may take during a turn, on average
    patience     rounds at most, disturbed ones included; ``None`` is three times ``rounds``
    timeout      seconds that anything asked of a process may take; an engine may compile in its first call
    """

    rounds: int = 9
    seconds: float = 0.5
    warmup: float = 0.5
    disturbance: float = 0.10
    patience: int | None = None
    timeout: float = 300.0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.most < self.rounds:
            raise EngineError(
                f"{self.rounds} rounds of at most {self.most}; give one or more, and patience for as many"
            )
        if self.seconds <= 0 or self.warmup < 0 or self.timeout <= 0 or self.disturbance < 0:
            raise EngineError("turns and timeouts take more than 0 seconds, a warm-up and a disturbance 0 or more")

    @property
    def most(self) -> int:
        """Rounds at most."""
        return 3 * self.rounds if self.patience is None else self.patience


@dataclass(frozen=True)
class Timing:
    """One contender. Times are milliseconds a call, over all calls of the rounds that count.

    ``medians`` and ``loads`` (cores that everything else took during the turn) have an entry for each of these rounds.
    """

    label: str
    engine: str
    version: str
    settings: Settings
    bytes: int
    calls: int
    p50: float
    p95: float
    mean: float
    medians: tuple[float, ...]
    loads: tuple[float, ...]
    memory: Memory


@dataclass(frozen=True)
class Ratio:
    """A ratio of speeds with its 95 % confidence interval; over 1 is faster."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Measurement:
    """Contenders that took turns, round after round.

    ``rejected`` holds the load of each round that does not count, the largest of its turns. Where ``disturbed``, too
    few rounds were as quiet as the plan wants, and the least disturbed ones were taken.
    """

    baseline: str
    batch: int
    timings: tuple[Timing, ...]
    rejected: tuple[float, ...]
    disturbed: bool
    plan: Plan
    machine: Machine

    def __post_init__(self) -> None:
        labels = [each.label for each in self.timings]
        if len(set(labels)) != len(labels) or self.baseline not in labels:
            raise EngineError(
                f"contenders {', '.join(labels)}: labels must differ, and {self.baseline!r} be one of them"
            )
        if any(len(each.medians) != self.plan.rounds or len(each.loads) != self.plan.rounds for each in self.timings):
            raise EngineError(f"not every contender has {self.plan.rounds} rounds; measure them together")

    @property
    def load(self) -> float:
        """The largest load of a turn that counts, in cores."""
        return max(load for each in self.timings for load in each.loads)

    def timing(self, label: str) -> Timing:
        for each in self.timings:
            if each.label == label:
                return each
        raise SelectionError(f"{label!r} is not in this measurement; it has {', '.join(t.label for t in self.timings)}")

    @cached_property
    def ratios(self) -> Mapping[str, Ratio]:
        """For each contender, how many times as fast as the baseline it is."""
        return {each.label: self.ratio(each.label) for each in self.timings}

    def ratio(self, label: str, baseline: str | None = None) -> Ratio:
        """How many times as fast as ``baseline`` (else this measurement's) the contender is.

        Round ``i`` gives ``rᵢ = bᵢ / cᵢ``, the medians of both contenders' turns in it: what slows a round, slows both.
        The ratio is the median of ``rᵢ``. The interval is the percentile bootstrap's (Efron, "Bootstrap methods:
        another look at the jackknife", 1979): rounds are drawn with replacement 10,000 times, with a fixed seed, and
        the 2.5th and 97.5th percentile of the medians are its ends. It tells of noise between rounds of this run, and
        not of other machines or days. It lies within the smallest and the largest ``rᵢ``, between which the true median
        is with a probability of ``1 − 2^(1 − n)``: fewer than six rounds give no 95 %.
        """
        theirs = np.array(self.timing(self.baseline if baseline is None else baseline).medians)
        rounds = theirs / np.array(self.timing(label).medians)
        drawn = np.random.default_rng(SEED).integers(0, len(rounds), (RESAMPLES, len(rounds)))
        tail = (100 - COVERAGE) / 2
        low, high = np.percentile(np.median(rounds[drawn], axis=1), (tail, 100 - tail))
        return Ratio(float(np.median(rounds)), float(low), float(high))

    def to_json(self) -> dict[str, Any]:
        """A record for ``json``; ``ratios`` are in it for readers, and are worked out anew by :meth:`from_json`."""
        timings = [
            asdict(each) | {"settings": asdict(each.settings) | {"precision": each.settings.precision.value}}
            for each in self.timings
        ]
        return asdict(self) | {
            "timings": [_lists(each) for each in timings],
            "rejected": list(self.rejected),
            "ratios": {label: asdict(ratio) for label, ratio in self.ratios.items()},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Measurement":
        """What :meth:`to_json` gave; ``EngineError`` for what is no such record."""
        with reading():
            return cls(
                baseline=record["baseline"],
                batch=record["batch"],
                timings=tuple(_timing(each) for each in record["timings"]),
                rejected=tuple(record["rejected"]),
                disturbed=record["disturbed"],
                plan=Plan(**record["plan"]),
                machine=Machine(**record["machine"]),
            )


def timing(
    label: str,
    engine: str,
    version: str,
    settings: Settings,
    size: int,
    samples: Sequence[Sequence[int]],
    loads: Sequence[float],
    memory: Memory,
) -> Timing:
    """Sum up a contender's ``samples``, nanoseconds of every call, round by round.

    Percentiles lie on straight lines between the two nearest samples.
    """
    rounds = [np.array(each, dtype=np.float64) / 1e6 for each in samples]
    calls = np.concatenate(rounds)
    p50, p95 = np.percentile(calls, (50, 95))
    return Timing(
        label, engine, version, settings, size,
        calls=len(calls), p50=float(p50), p95=float(p95), mean=float(calls.mean()),
        medians=tuple(float(np.median(each)) for each in rounds), loads=tuple(loads), memory=memory,
    )  # fmt: skip


def _timing(record: Mapping[str, Any]) -> Timing:
    settings = record["settings"]
    return Timing(**{
        **record,
        "settings": Settings(**{**settings, "precision": Precision(settings["precision"])}),
        "medians": tuple(record["medians"]),
        "loads": tuple(record["loads"]),
        "memory": Memory(**record["memory"]),
    })  # fmt: skip


def _lists(record: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in record.items()}


@contextmanager
def reading() -> Iterator[None]:
    """``EngineError`` for a record that lacks something or has something else in its place."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(f"this is no record of a measurement ({type(error).__name__}: {error})") from error
