"""Fixed-point multiplication against exact rational arithmetic."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.errors import SchemeError
from featherweight.graph.fixed_point import HIGHEST, LOWEST, Multiplier, doubling_high_product, rounding_right_shift

words = st.one_of(st.integers(LOWEST, HIGHEST), st.integers(-5, 5), st.sampled_from([LOWEST, HIGHEST, 2**30, -(2**30)]))


def up(x: Fraction) -> int:
    """To nearest, ties up."""
    return math.floor(x + Fraction(1, 2))


def away(x: Fraction) -> int:
    """To nearest, ties away from zero."""
    return up(x) if x >= 0 else -up(-x)


def product(a: int, b: int) -> int:
    return int(doubling_high_product(torch.tensor(a), torch.tensor(b)))


def shift(x: int, places: int) -> int:
    return int(rounding_right_shift(torch.tensor(x), torch.tensor(places)))


@given(words, words)
@settings(deadline=None, max_examples=500)
def test_the_high_product_is_the_rounded_fraction(a: int, b: int) -> None:
    assert product(a, b) == min(up(Fraction(2 * a * b, 2**32)), HIGHEST)


def test_the_one_product_that_saturates_and_ties() -> None:
    assert product(LOWEST, LOWEST) == HIGHEST
    assert product(LOWEST, HIGHEST) == -HIGHEST
    assert [product(a, 2**30) for a in (-3, -2, -1, 0, 1, 2, 3)] == [-1, -1, 0, 0, 1, 1, 2]


@given(words, st.integers(0, 31))
@settings(deadline=None, max_examples=500)
def test_a_right_shift_is_the_rounded_fraction(x: int, places: int) -> None:
    assert shift(x, places) == away(Fraction(x, 2**places))


def test_ties_of_shifts_go_away_from_zero() -> None:
    assert [shift(x, 1) for x in (-3, -2, -1, 0, 1, 2, 3)] == [-2, -1, -1, 0, 1, 1, 2]
    assert [shift(x, 2) for x in (-6, -2, 2, 6)] == [-2, -1, 1, 2]
    assert shift(LOWEST, 31) == -1 and shift(HIGHEST, 31) == 1 and shift(-(2**30) + 1, 31) == 0


multipliers = st.floats(2.0**-31, 2.0**20, allow_subnormal=False)


@given(multipliers)
@settings(deadline=None)
def test_mantissas_have_31_bits_and_are_nearest(value: float) -> None:
    made = Multiplier.nearest(value)
    mantissa, places = int(made.mantissas), int(made.shifts)
    assert 2**30 <= mantissa < 2**31
    assert Fraction(float(made.values)) == Fraction(mantissa, 2**31) / Fraction(2) ** places
    assert abs(Fraction(float(made.values)) / Fraction(value) - 1) <= Fraction(1, 2**31)


@given(words, multipliers)
@settings(deadline=None, max_examples=500)
def test_a_product_is_the_fraction_within_its_roundings(x: int, value: float) -> None:
    """Exactly the two roundings that are stated, and so within one of the exact product where nothing saturates."""
    made = Multiplier.nearest(value)
    exact, places = Fraction(float(made.values)), int(made.shifts)
    shifted = min(max(x * 2 ** max(-places, 0), LOWEST), HIGHEST)
    high = up(Fraction(shifted * int(made.mantissas), 2**31))
    found = int(made(torch.tensor(x, dtype=torch.int32)))
    assert found == away(Fraction(high, 2 ** max(places, 0)))
    assert LOWEST <= found <= HIGHEST
    if shifted == x * 2 ** max(-places, 0):
        assert abs(found - x * exact) <= Fraction(1, 2) + Fraction(1, 2) / 2 ** max(places, 0)


def test_large_products_saturate_instead_of_wrapping() -> None:
    four = Multiplier.nearest(4.0)
    assert four(torch.tensor([2**30, -(2**30), 5, -5])).tolist() == [2**30, -(2**30), 20, -20]
    # the shift before the product saturates: 4 = ½ · 2³ leaves half of the range
    assert float(four.values) == 4 and int(four.mantissas) == 2**30 and int(four.shifts) == -3


def test_values_that_round_to_a_power_of_two_and_tiny_ones() -> None:
    made = Multiplier.nearest(1 - 2.0**-40)
    assert (int(made.mantissas), int(made.shifts)) == (2**30, -1)
    assert Multiplier.nearest(2.0**-33)(torch.tensor([LOWEST, HIGHEST])).tolist() == [0, 0]
    x = torch.arange(-1000, 1000)
    assert torch.equal(Multiplier.nearest(1.0)(x), x)


def test_a_multiplier_a_channel() -> None:
    made = Multiplier.nearest(torch.tensor([0.5, 2.0, 0.001]).reshape(3, 1, 1))
    x = torch.randint(-10_000, 10_000, (2, 3, 4, 4))
    found = made(x)
    for channel, value in enumerate((0.5, 2.0, 0.001)):
        assert torch.equal(found[:, channel], Multiplier.nearest(torch.tensor(value))(x[:, channel]))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 2.0**30, 2.0**30 * (1 - 2.0**-50)])
def test_values_that_are_no_multipliers(value: float) -> None:
    with pytest.raises(SchemeError, match="scales"):
        Multiplier.nearest(value)
