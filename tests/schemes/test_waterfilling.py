"""Waterfilling: steps from the metric, one price for all, and what it buys."""

import math

import pytest
import torch

from featherweight.coding import entropy
from featherweight.core.errors import SchemeError
from featherweight.core.metric import Diagonal, Full, Metric
from featherweight.schemes.uniform import UniformCode
from featherweight.schemes.waterfilling import Waterfilling


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bits(code: UniformCode) -> float:
    """The entropy of the levels of every row."""
    alphabet = code.grid.alphabet
    return sum(entropy((row.long() - code.grid.low).numpy(), alphabet) for row in code.levels)


@pytest.mark.parametrize("price", [1e-3, 1e-2])
def test_steps_are_those_of_the_slope(price: float) -> None:
    """``g s² ln 2 / 6 = λ`` in every row, but for the rounding of the stored step."""
    w, costs = gaussian(4, 500), torch.tensor([0.3, 1.0, 2.0, 7.0], dtype=torch.float64)
    code = Waterfilling(price).project(w, Diagonal(costs[:, None].expand(4, 500)))
    slopes = costs * code.scales.decode().square() * math.log(2) / 6
    torch.testing.assert_close(slopes, torch.full_like(slopes, price), rtol=0.01, atol=0)


def test_the_slope_is_what_a_bit_buys() -> None:
    """Between two prices near each other the distortion falls by about λ for every bit."""
    w, metric = gaussian(8, 4000), Diagonal(torch.linspace(0.2, 3.0, 8).double()[:, None].expand(8, 4000))
    low, high = (Waterfilling(price).project(w, metric) for price in (0.9e-2, 1.1e-2))
    saved = bits(low) - bits(high)
    paid = float(metric.distance(w, high.decode()) - metric.distance(w, low.decode()))
    assert paid / saved == pytest.approx(1e-2, rel=0.05)


def test_no_other_sharing_of_the_same_bits_is_better() -> None:
    """Rows whose steps are moved from the water level, at the same bits in total, are further away."""
    w = gaussian(2, 20_000)
    costs = torch.tensor([1.0, 16.0], dtype=torch.float64)
    metric = Diagonal(costs[:, None].expand(2, 20_000))
    best = Waterfilling(5e-3).project(w, metric)
    for shift in (0.5, 0.8, 1.25, 2.0):
        moved = Diagonal((costs * torch.tensor([shift, 1 / shift]))[:, None].expand(2, 20_000))
        other = Waterfilling(5e-3).project(w, moved)
        lagrangian = [float(metric.distance(w, each.decode())) + 5e-3 * bits(each) for each in (best, other)]
        assert lagrangian[0] < lagrangian[1]


@pytest.mark.parametrize("price", [1e-9, 1e-4, 1e4])
def test_levels_have_room_and_no_more_bits_than_they_need(price: float) -> None:
    w = gaussian(6, 50) * torch.logspace(-3, 3, 6).double()[:, None]
    code = Waterfilling(price).project(w)
    highest = int(code.levels.abs().max())
    assert highest * 1.25 <= code.grid.high <= 127
    assert code.grid.bits == 2 or 2 ** (code.grid.bits - 2) - 1 < highest * 1.25 + 1


def test_rows_of_a_sensitive_output_are_finer() -> None:
    w = gaussian(3, 40)
    metric: Metric = Full(torch.eye(40, dtype=torch.float64), torch.tensor([1.0, 4.0, 16.0], dtype=torch.float64))
    scales = Waterfilling(1e-3).project(w, metric).scales.decode()
    torch.testing.assert_close(scales[:-1] / scales[1:], torch.full((2,), 2.0, dtype=torch.float64), rtol=0.01, atol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"price": 0.0},
        {"price": math.inf},
        {"price": 1.0, "bits": 9},
        {"price": 1.0, "headroom": 0.5},
    ],
)
def test_bad_settings(settings: dict[str, float]) -> None:
    with pytest.raises(SchemeError):
        Waterfilling(**settings)  # type: ignore[arg-type]
