"""WAGE's weights: the power of two of a layer, its levels, its first weights."""

import math

import pytest
import torch

from featherweight.core.errors import SchemeError
from featherweight.schemes.shifted import Shifted, nearest_power


@pytest.mark.parametrize("shape, factor", [((32, 1, 5, 5), 2), ((64, 32, 5, 5), 16), ((512, 1024), 16), ((10, 512), 8)])
def test_the_power_of_a_layer_is_that_of_the_published_log(shape: tuple[int, ...], factor: int) -> None:
    """``Scale:`` in log/2017-10-23(lenet5 2888).txt of the authors' code, for weights of 2 bits."""
    assert 2 ** Shifted(2).shift(torch.empty(shape)) == factor


def test_levels_by_hand() -> None:
    scheme, w = Shifted(3), torch.tensor([[0.9, -0.13, 0.12, -2.0], [0.0, 0.37, -0.38, 0.75]])
    assert scheme.shift(w) == 0 and scheme.bound(w) == 0.75  # L = √(3/4) is above 1.5 / 4
    code = scheme.project(w)
    assert code.decode().tolist() == [[0.75, -0.25, 0.0, -0.75], [0.0, 0.25, -0.5, 0.75]]
    assert code.bits == 3 and code.scales.decode().tolist() == [0.25]


@pytest.mark.parametrize("bits", [2, 4])
def test_stored_weights_move_on_a_finer_grid_that_holds_the_levels(bits: int) -> None:
    scheme, w = Shifted(bits), torch.randn(7, 400)
    grid, code = scheme.finer(w, 8), scheme.project(w)
    assert grid.step * 2 ** (8 - bits) == float(code.scales.decode())
    assert torch.equal(grid.rounded(code.decode()), code.decode())
    assert scheme.bound(w) == float(code.decode().abs().max()) < -grid.low == 2.0 ** -scheme.shift(w)


def test_first_weights_are_levels_and_give_sums_of_about_one() -> None:
    """``n`` inputs of variance one: the power of two and the rounding leave a factor of two either way."""
    torch.manual_seed(0)
    for count in (25, 64, 500, 3000):
        w = Shifted(2).initial(torch.empty(200, count))
        assert torch.equal(w, Shifted(2).project(w).decode()) and len(w.unique()) == 3
        assert 0.5 < math.sqrt(count) * float(w.std()) < 2


def test_powers_of_two_next_to_the_largest_magnitude() -> None:
    found = [float(nearest_power(torch.tensor([0.0, x]))) for x in (0.0, 3.0, -2.8, 0.7, -0.71)]
    assert found == [1.0, 4.0, 2.0, 0.5, 1.0]  # between powers, √2 is in the middle


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_it_has_not(bits: int) -> None:
    with pytest.raises(SchemeError, match="not in 2..8"):
        Shifted(bits)
