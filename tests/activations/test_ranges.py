"""Laws of all rules that find ranges, and the rules that look at extremes or counts alone."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from featherweight.activations.analytical import Analytical, Density
from featherweight.activations.entropy import Entropy
from featherweight.activations.least_squares import LeastSquares
from featherweight.activations.observers import Histogram, Range
from featherweight.activations.quantizers import Quantizer
from featherweight.activations.ranges import MinMax, MovingAverage, Observer, Percentile, PowerOfTwo, levels
from featherweight.core.errors import DataError, SchemeError

ORDERLESS: list[Observer[Any]] = [
    MinMax(),
    Percentile(0.9, bins=256),
    LeastSquares(bins=256),
    Entropy(bins=64),
    Analytical(Density.GAUSSIAN, bins=256),
    Analytical(Density.LAPLACIAN, bins=256),
]
RULES: list[Observer[Any]] = [*ORDERLESS, MovingAverage(0.5)]
every_rule = pytest.mark.parametrize("rule", RULES, ids=repr)
orderless = pytest.mark.parametrize("rule", ORDERLESS, ids=repr)
samples = st.lists(st.floats(-1000, 1000, width=32, allow_subnormal=False), min_size=1, max_size=30)
grids = st.tuples(st.integers(1, 4), st.booleans())


def fit(rule: Observer[Any], *parts: Tensor, bits: int = 4, symmetric: bool = False) -> Range:
    watch = rule.start()
    for part in parts:
        watch.add(part)
    return watch.range(bits, symmetric)


def mean_squared_error(x: Tensor, found: Range, bits: int, symmetric: bool) -> float:
    """Of rounding the raw samples, with a zero point that is an integer."""
    step = (found.high - found.low) / (levels(bits, symmetric) - 1)
    if symmetric and bits > 1:
        high = 2 ** (bits - 1) - 1
        quantized = (x / step).round().clamp(-high, high) * step
    elif symmetric:
        quantized = torch.where(x >= 0, found.high, found.low)
    else:
        zero = math.floor(-found.low / step + 0.5)
        quantized = ((x / step + zero).round().clamp(0, 2**bits - 1) - zero) * step
    return float((x - quantized).square().mean())


@every_rule
@settings(max_examples=30, deadline=None)
@given(samples, grids)
def test_ranges_hold_zero_and_stay_near_what_was_seen(
    rule: Observer[Any], values: list[float], grid: tuple[int, bool]
) -> None:
    bits, symmetric = grid
    x = torch.tensor(values)
    found = fit(rule, x, bits=bits, symmetric=symmetric)
    assert found.low <= 0 <= found.high and found.low < found.high
    if symmetric:
        assert found.low == -found.high
    elif float(x.abs().max()) > 2.0**-100:
        step = (found.high - found.low) / (2**bits - 1)  # the zero point may have been rounded
        assert found.low >= min(float(x.min()), 0) - step * 0.51
        assert found.high <= max(float(x.max()), 0) + step * 0.51


@every_rule
@settings(max_examples=20, deadline=None)
@given(samples, grids, st.integers(-20, 20))
def test_a_power_of_two_scales_the_range(
    rule: Observer[Any], values: list[float], grid: tuple[int, bool], power: int
) -> None:
    bits, symmetric = grid
    x, factor = torch.tensor(values), 2.0**power
    if float(x.abs().max()) > 2.0**-60:
        found, scaled = (fit(rule, y, bits=bits, symmetric=symmetric) for y in (x, x * factor))
        assert scaled == Range(found.low * factor, found.high * factor)


@orderless
@settings(max_examples=20, deadline=None)
@given(samples, grids, st.randoms())
def test_order_and_batches_do_not_matter(
    rule: Observer[Any], values: list[float], grid: tuple[int, bool], random: Any
) -> None:
    bits, symmetric = grid
    shuffled = list(values)
    random.shuffle(shuffled)
    parts = [torch.tensor(shuffled[at : at + 7]) for at in range(0, len(values), 7)]
    whole = fit(rule, torch.tensor(values), bits=bits, symmetric=symmetric)
    assert fit(rule, *parts, bits=bits, symmetric=symmetric) == whole


@every_rule
def test_zeros_alone(rule: Observer[Any]) -> None:
    assert fit(rule, torch.zeros(5)) == Range(0, 1)
    assert fit(rule, torch.zeros(5), symmetric=True) == Range(-1, 1)


@every_rule
@pytest.mark.parametrize("value", [3.0, -0.3])
def test_a_constant_is_represented(rule: Observer[Any], value: float) -> None:
    x = torch.full((50,), value, dtype=torch.float64)
    for symmetric in (False, True):
        found = fit(rule, x, bits=4, symmetric=symmetric)
        assert mean_squared_error(x, found, 4, symmetric) <= (0.02 * value) ** 2


@every_rule
def test_no_data(rule: Observer[Any]) -> None:
    with pytest.raises(DataError, match="calibration batch"):
        rule.start().range(8)


@every_rule
@pytest.mark.parametrize("bits", [0, 17, -1])
def test_bits_out_of_range(rule: Observer[Any], bits: int) -> None:
    with pytest.raises(SchemeError, match="1..16"):
        fit(rule, torch.ones(3), bits=bits)


@pytest.mark.parametrize("rule", ORDERLESS[1:], ids=repr)
def test_ranges_of_what_a_relu_left_start_at_zero(rule: Observer[Any]) -> None:
    torch.manual_seed(0)
    x = torch.randn(5000).relu()
    found = fit(rule, x)
    assert found.low == 0
    mirrored = fit(rule, -x)
    assert mirrored.high == pytest.approx(0, abs=1e-12) and -mirrored.low == pytest.approx(found.high, rel=1e-12)


def test_levels() -> None:
    assert [levels(bits, True) for bits in (1, 2, 8)] == [2, 3, 255]
    assert [levels(bits, False) for bits in (1, 2, 8)] == [2, 4, 256]


def test_min_max_and_the_moving_average() -> None:
    parts = torch.tensor([1.0, 5.0]), torch.tensor([-3.0, 2.0]), torch.tensor([2.0, 3.0])
    assert fit(MinMax(), *parts) == Range(-3, 5)
    assert fit(MinMax(), *parts, symmetric=True) == Range(-5, 5)
    assert fit(MinMax(), parts[0]) == Range(0, 5)
    # low: 1, −1, 0.5; high: 5, 3.5, 3.25
    assert fit(MovingAverage(0.5), *parts) == Range(0, 3.25)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.9999, 1.0])
@pytest.mark.parametrize("symmetric", [False, True])
def test_percentiles_are_those_of_the_sorted_samples(share: float, symmetric: bool) -> None:
    torch.manual_seed(1)
    x = torch.randn(20_001, dtype=torch.float64) + 0.5
    found = fit(Percentile(share), x, symmetric=symmetric)
    width = 2 * float(x.abs().max()) / 8192
    inside = float(((x >= found.low) & (x <= found.high)).double().mean())
    assert inside >= share
    if symmetric:
        exact = x.abs().sort().values[math.ceil(share * len(x)) - 1]
        assert exact <= found.high <= exact + width
    else:
        high = x.sort().values[math.ceil((1 + share) / 2 * len(x)) - 1]
        low = -(-x).sort().values[math.ceil((1 + share) / 2 * len(x)) - 1]
        assert high <= found.high <= high + width and low - width <= found.low <= low


@settings(max_examples=60, deadline=None)
@given(samples, st.lists(st.floats(0.01, 1), min_size=2, max_size=2))
def test_a_larger_share_needs_no_smaller_range(values: list[float], shares: list[float]) -> None:
    seen = Histogram(64)
    seen.add(torch.tensor(values))
    small, large = (Percentile(share).range(seen, 8) for share in sorted(shares))
    if seen.largest > 2.0**-100:
        assert large.low <= small.low and small.high <= large.high
        assert Percentile(1.0).range(seen, 8) == MinMax().range(seen, 8)


def test_one_histogram_serves_all() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000)
    seen = Histogram()
    seen.add(x)
    for rule in (MinMax(), Percentile(0.99), LeastSquares(), Entropy(), Analytical()):
        assert rule.range(seen, 4) == fit(rule, x)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [lambda: Percentile(0.0), lambda: Percentile(99.99), lambda: MovingAverage(1.0)])
def test_settings_out_of_range(wrong: Any) -> None:
    with pytest.raises(SchemeError):
        wrong()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("values", [[0.3, 1.7], [-5.0, 3.0], [-4.0], [0.0], [127.0, -128.0], [1e-38], [127.01]])
def test_a_power_of_two_is_the_least_whose_range_holds_all(bits: int, values: list[float]) -> None:
    watch = PowerOfTwo().start()
    watch.add(torch.tensor(values, dtype=torch.float64))
    found = watch.range(bits)
    half = 2 ** (bits - 1)
    step = -found.low / half
    assert math.frexp(step)[0] == 0.5 and found.high == (half - 1) * step
    if bits == 1:
        return  # one bit holds nothing above zero
    assert found.low <= min(values) and max(values) <= found.high
    if max(map(abs, values)) > 1e-20:
        assert -half * step / 2 > min(values) or (half - 1) * step / 2 < max(values)
    quantizer = Quantizer.covering(found.low, found.high, bits)
    assert quantizer.scale.item() == step and quantizer.symmetric
