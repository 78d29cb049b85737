"""Bins of equal population, as halving at medians makes them, and what that does to the levels that are used."""

import pytest
import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.schemes.balanced import Balanced
from featherweight.schemes.uniform import Uniform


def heavy(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) ** 3


def halved(entries: list[int], w: Tensor, bits: int) -> list[list[int]]:
    """The paper's recursion: the lower and the upper half by the median, each halved again."""
    if bits == 0:
        return [entries]
    ordered = sorted(entries, key=lambda entry: float(w[entry]))
    half = len(ordered) // 2
    return halved(ordered[:half], w, bits - 1) + halved(ordered[half:], w, bits - 1)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_bins_are_those_of_medians_of_medians(bits: int) -> None:
    w = heavy(64)
    code = Balanced(bits).project(w)
    for number, entries in enumerate(halved(list(range(64)), w, bits)):
        assert {int(level) for level in code.levels[entries]} == {2 * number + 1 - 2**bits}


@pytest.mark.parametrize("count", [7, 64, 1001])
def test_every_level_is_used_alike_often(count: int) -> None:
    _, used = Balanced(2).project(heavy(count)).levels.unique(return_counts=True)
    assert len(used) == 4 and int(used.max() - used.min()) <= 1


def test_even_steps_over_the_range_hardly_use_the_outer_levels() -> None:
    levels = Uniform(2, odd=True).project(heavy(1001)).levels
    assert float((levels.abs() == 3).float().mean()) < 0.05


def test_order_is_kept_and_so_is_the_mean_magnitude() -> None:
    w = heavy(9, 40)
    decoded = Balanced(3).project(w).decode()
    order = w.flatten().argsort()
    assert bool((decoded.flatten()[order].diff() >= 0).all())
    torch.testing.assert_close(decoded.abs().mean(), w.abs().mean(), rtol=1e-3, atol=0)


def test_of_a_gaussian_two_bits_are_the_published_approximation() -> None:
    """Clipped at 1.25 times the mean magnitude and rounded to thirds of it: nearly all levels are the same."""
    w = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    half = 1.25 * w.abs().mean()
    cheap = 2 * ((w / half).clamp(-1, 1) * 1.5 + 1.5).round() - 3
    assert float((cheap == Balanced(2).project(w).levels).float().mean()) > 0.97


def test_bits_it_has_not() -> None:
    with pytest.raises(SchemeError, match="1..8"):
        Balanced(9)
