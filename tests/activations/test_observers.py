"""Statistics of streams of activations, against counting all samples at once."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.activations.observers import Extremes, Histogram, MovingExtremes, Range
from featherweight.core.errors import DataError, SchemeError

numbers = st.floats(-(2.0**60), 2.0**60, width=32) | st.just(0.0) | st.floats(-1, 1, width=32)
batches = st.lists(st.lists(numbers, max_size=8), min_size=1, max_size=5).filter(any)


def histogram(parts: list[list[float]], bins: int = 16) -> Histogram:
    seen = Histogram(bins)
    for part in parts:
        seen.add(torch.tensor(part, dtype=torch.float32))
    return seen


def same(a: Histogram, b: Histogram) -> None:
    assert torch.equal(a.counts, b.counts)
    assert (a.width, a.low, a.high, a.count, a.zeros) == (b.width, b.low, b.high, b.count, b.zeros)


@settings(max_examples=60, deadline=None)
@given(batches)
def test_a_histogram_counts_every_sample_once(parts: list[list[float]]) -> None:
    samples = [float(x) for x in torch.tensor(sum(parts, []), dtype=torch.float32)]
    seen = histogram(parts)
    expected = torch.zeros_like(seen.counts)
    for x in samples:
        expected[int(x < 0), math.floor(abs(x) / seen.width)] += 1
    assert torch.equal(seen.counts, expected)
    assert seen.zeros == samples.count(0.0)
    assert (seen.low, seen.high, seen.count) == (min(samples), max(samples), len(samples))
    largest = max(map(abs, samples))
    if largest >= 2.0**-100:
        assert 8 * seen.width <= largest < 16 * seen.width


@settings(max_examples=60, deadline=None)
@given(batches, st.randoms())
def test_neither_order_nor_batches_matter(parts: list[list[float]], random: object) -> None:
    flat = sum(parts, [])
    shuffled = list(flat)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    same(histogram(parts), histogram([flat]))
    same(histogram(parts), histogram([[x] for x in shuffled]))


@settings(max_examples=60, deadline=None)
@given(batches, st.integers(-30, 30))
def test_a_power_of_two_moves_the_grid_alone(parts: list[list[float]], power: int) -> None:
    seen = histogram(parts)
    scaled = histogram([[x * 2.0**power for x in part] for part in parts])
    if min((abs(x) for x in sum(parts, []) if x), default=1.0) > 2.0**-60:
        assert torch.equal(seen.counts, scaled.counts)
        assert seen.largest == 0 or scaled.width == seen.width * 2.0**power


@settings(max_examples=60, deadline=None)
@given(batches)
def test_fewer_bins_are_what_was_counted_in_fewer_bins(parts: list[list[float]]) -> None:
    same(histogram(parts, 32).coarse(8), histogram(parts, 8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 100).to(dtype)
    seen, expected = Histogram(), Histogram()
    seen.add(x)
    expected.add(x.double())
    same(seen, expected)


def test_more_than_one_chunk_and_not_contiguous() -> None:
    torch.manual_seed(0)
    x = torch.randn(1000, 700).t()
    seen = Histogram(64)
    seen.add(x.requires_grad_())
    at = (x.detach().abs() / seen.width).long()
    for sign, side in enumerate((x >= 0, x < 0)):
        assert torch.equal(seen.counts[sign], torch.bincount(at[side], minlength=64))


def test_occupied_leaves_zeros_out() -> None:
    left, counts = histogram([[0.0, 0.0, 1.0, -15.5, -0.25]]).occupied()
    assert dict(zip(left.tolist(), counts.tolist(), strict=True)) == {1.0: 1.0, -16.0: 1.0, -1.0: 1.0}


def test_moving_extremes() -> None:
    seen = MovingExtremes(0.75)
    for part in ([-1.0, 2.0], [-5.0, 4.0], [0.0, 0.0]):
        seen.add(torch.tensor(part))
    assert seen.low == 0.75 * (0.75 * -1 + 0.25 * -5)
    assert seen.high == 0.75 * (0.75 * 2 + 0.25 * 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("start", [Extremes, Histogram, lambda: MovingExtremes(0.9)])
def test_what_is_not_finite_is_refused_and_leaves_no_trace(bad: float, start: type[Extremes]) -> None:
    seen = start()
    with pytest.raises(SchemeError, match="1 of 3 activations are NaN or infinite"):
        seen.add(torch.tensor([0.0, bad, 1.0]))
    assert seen.count == 0


def test_integers_are_refused() -> None:
    with pytest.raises(SchemeError, match="int64"):
        Extremes().add(torch.arange(3))


def test_empty_tensors_add_nothing() -> None:
    seen = Histogram()
    seen.add(torch.empty(0, 3))
    with pytest.raises(DataError, match="add at least one calibration batch"):
        seen.check()


@pytest.mark.parametrize("bins", [0, 1, 3, 8001])
def test_bins_are_a_power_of_two(bins: int) -> None:
    with pytest.raises(SchemeError, match="power of two"):
        Histogram(bins)


def test_no_more_bins_than_there_are() -> None:
    with pytest.raises(SchemeError, match="start with more"):
        Histogram(16).coarse(32)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (1.0, 2.0), (-2.0, -1.0), (-math.inf, 1.0), (0.0, math.nan), (-1.7e308, 1.7e308)]
)
def test_bad_ranges(low: float, high: float) -> None:
    with pytest.raises(SchemeError):
        Range(low, high)


@settings(max_examples=60, deadline=None)
@given(numbers, numbers)
def test_a_range_holds_its_ends_and_zero(a: float, b: float) -> None:
    low, high = sorted((a, b))
    for symmetric in (False, True):
        found = Range.holding(low, high, symmetric)
        assert found.low <= min(low, 0) + 2.0**-100 and max(high, 0) - 2.0**-100 <= found.high
        assert not symmetric or found.low == -found.high
    if max(abs(a), abs(b)) > 2.0**-100:
        assert Range.holding(low, high) == Range(min(low, 0), max(high, 0))


def test_nothing_but_zeros_gets_a_range_of_one() -> None:
    assert Range.holding(0.0, 0.0) == Range(0.0, 1.0)
    assert Range.holding(0.0, 0.0, symmetric=True) == Range(-1.0, 1.0)
    with pytest.raises(SchemeError, match="overflow"):
        Range.holding(0.0, math.inf)
