"""Statistics against independent formulas, and records that come back from JSON as they were."""

import json
from dataclasses import replace
from math import comb, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.errors import EngineError, SelectionError
from featherweight.engines.engine import Precision, Settings
from featherweight.engines.machine import Machine, machine
from featherweight.engines.measurement import Measurement, Plan, Timing, timing
from featherweight.engines.process import Memory

MACHINE = Machine("a CPU", 2, 1 << 34, "a system", "3.11.0", "2.13.0")


def timed(label: str, rounds: list[list[int]], load: float = 0.0) -> Timing:
    run = Settings(2, Precision.BFLOAT16)
    return timing(label, "fake", "1.0", run, 1234, rounds, [load] * len(rounds), Memory(100, 10))


def measured(*rounds: list[list[int]]) -> Measurement:
    """Contenders a, b, ... with these samples."""
    timings = tuple(timed(label, each) for label, each in zip("abcd", rounds, strict=False))
    return Measurement("a", 32, timings, (0.5, 0.25), False, Plan(rounds=len(rounds[0])), MACHINE)


def percentile(values: list[float], share: float) -> float:
    """On straight lines between order statistics."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


SAMPLES = st.lists(st.lists(st.integers(1, 10**9), min_size=1, max_size=6), min_size=1, max_size=6)


@given(SAMPLES)
@settings(deadline=None)
def test_times_are_over_all_calls_and_medians_within_rounds(rounds: list[list[int]]) -> None:
    found = timed("a", rounds)
    calls = [each / 1e6 for samples in rounds for each in samples]
    assert found.calls == len(calls)
    assert found.mean == pytest.approx(sum(calls) / len(calls))
    assert found.p50 == pytest.approx(percentile(calls, 0.5))
    assert found.p95 == pytest.approx(percentile(calls, 0.95))
    assert found.medians == pytest.approx([percentile([each / 1e6 for each in samples], 0.5) for samples in rounds])


def test_ratios_are_paired_by_round() -> None:
    """A round in which everything is ten times slower changes no ratio; unpaired medians would."""
    slow = [[1000], [10_000], [1100], [9000], [1000]]
    fast = [[each[0] // 4] for each in slow]
    ratio = measured(slow, fast).ratio("b")
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((4, 4, 4))


def test_a_ratio_over_one_is_faster_than_the_baseline_and_the_baseline_can_be_named() -> None:
    found = measured([[300]] * 3, [[100]] * 3, [[600]] * 3)
    assert [found.ratios[label].median for label in "abc"] == pytest.approx([1, 3, 0.5])
    assert found.ratio("b", "c").median == pytest.approx(6)


def bootstrap_end(values: list[float], share: float) -> float:
    """The exact quantile of the bootstrap's medians, for an odd number of rounds.

    The median of a resample is at most the k-th of n ordered values where more than half of n draws are among the
    first k: a binomial tail with p = k / n.
    """
    n = len(values)
    for k, value in enumerate(sorted(values), start=1):
        p = k / n
        if sum(comb(n, m) * p**m * (1 - p) ** (n - m) for m in range(n // 2 + 1, n + 1)) >= share:
            return value
    raise AssertionError


@pytest.mark.parametrize("rounds", [1, 3, 5, 7, 9, 15, 21])
def test_the_interval_is_the_bootstraps(rounds: int) -> None:
    """Against its exact ends."""
    draw = np.random.default_rng(rounds)
    ours, theirs = draw.integers(500, 1500, (2, rounds)).tolist()
    ratio = measured([[each] for each in ours], [[each] for each in theirs]).ratio("b")
    exact = [a / b for a, b in zip(ours, theirs, strict=True)]
    assert ratio.median == pytest.approx(sorted(exact)[rounds // 2])
    assert ratio.low == pytest.approx(bootstrap_end(exact, 0.025))
    assert ratio.high == pytest.approx(bootstrap_end(exact, 0.975))
    assert ratio.low <= ratio.median <= ratio.high


def test_the_same_rounds_give_the_same_interval() -> None:
    rounds = [[each] for each in (3, 1, 4, 1, 5, 9, 2, 6)]
    assert measured(rounds, rounds[::-1]).ratio("b") == measured(rounds, rounds[::-1]).ratio("b")


def test_there_is_no_ratio_to_what_was_not_measured_here() -> None:
    found = measured([[1]], [[1]])
    with pytest.raises(SelectionError, match="'other' is not in this measurement; it has a, b"):
        found.ratio("other")
    with pytest.raises(SelectionError, match="'other'"):
        found.ratio("a", "other")


@given(SAMPLES, st.booleans())
@settings(deadline=None, max_examples=25)
def test_records_come_back(rounds: list[list[int]], disturbed: bool) -> None:
    found = replace(measured(rounds, rounds[::-1]), disturbed=disturbed)
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert Measurement.from_json(record) == found
    assert record["ratios"]["b"]["median"] == found.ratio("b").median


def test_ratios_of_a_record_are_not_believed() -> None:
    record = measured([[10]], [[5]]).to_json()
    record["ratios"]["b"]["median"] = 100.0
    assert Measurement.from_json(record).ratio("b").median == 2


@pytest.mark.parametrize("key", ["baseline", "timings", "plan", "machine", "rejected"])
def test_what_is_no_record_is_an_error(key: str) -> None:
    record = measured([[10]], [[5]]).to_json()
    with pytest.raises(EngineError, match="no record of a measurement"):
        Measurement.from_json({name: value for name, value in record.items() if name != key})
    with pytest.raises(EngineError):
        Measurement.from_json(record | {key: 5})


def test_contenders_have_rounds_and_labels_of_their_own() -> None:
    found = measured([[1], [2]], [[1], [2]])
    with pytest.raises(EngineError, match="labels must differ"):
        replace(found, timings=found.timings[:1] * 2)
    with pytest.raises(EngineError, match="'c' be one of them"):
        replace(found, baseline="c")
    with pytest.raises(EngineError, match="not every contender has 2 rounds"):
        replace(found, timings=(found.timings[0], timed("b", [[1]])))


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"patience": 8}, {"seconds": 0}, {"warmup": -1}, {"disturbance": -1}, {"timeout": 0}]
)
def test_a_plan_must_be_possible(wrong: dict[str, float]) -> None:
    with pytest.raises(EngineError):
        Plan(**wrong)  # type: ignore[arg-type]
    assert Plan(rounds=4).most == 12 and Plan(rounds=4, patience=4).most == 4


def test_the_machine_is_told() -> None:
    psutil = pytest.importorskip("psutil")
    found = machine()
    assert found.cpu and found.cores >= 1 and found.memory == psutil.virtual_memory().total
