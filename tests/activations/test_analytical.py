"""Clipping under a density, against numerical integration and sampling; ranges of batch norms, against sampling."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from featherweight.activations.analytical import Analytical, Density, expected_error, norm_range, optimal_clipping
from featherweight.activations.observers import Range
from featherweight.core.errors import SchemeError

every_density = pytest.mark.parametrize("density", Density)


def pdf(density: Density) -> Any:
    from scipy import stats

    return stats.norm.pdf if density is Density.GAUSSIAN else stats.laplace.pdf


def integrated_error(alpha: float, bits: int, density: Density) -> float:
    """Banner et al. 2018: clipping beyond α on both sides, and a twelfth of the squared step."""
    from scipy.integrate import quad

    f = pdf(density)
    tail, _ = quad(lambda x: (x - alpha) ** 2 * f(x), alpha, alpha + 60, epsabs=1e-14, epsrel=1e-10, limit=200)
    return float(2 * tail + (2 * alpha / 2**bits) ** 2 / 12)


@every_density
@pytest.mark.parametrize("alpha", [0.0, 0.7, 2.0, 5.5])
def test_the_expected_error_is_the_integral(density: Density, alpha: float) -> None:
    for bits in (1, 4, 8):
        assert expected_error(alpha, bits, density) == pytest.approx(integrated_error(alpha, bits, density), rel=1e-6)


@every_density
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_no_other_clipping_has_less(density: Density, bits: int) -> None:
    from scipy.optimize import minimize_scalar

    best = minimize_scalar(
        lambda a: integrated_error(a, bits, density), bounds=(0.1, 15), method="bounded", options={"xatol": 1e-7}
    )
    assert optimal_clipping(bits, density) == pytest.approx(best.x, abs=1e-3)


@pytest.mark.parametrize(
    ("density", "table"), [(Density.LAPLACIAN, (2.83, 3.89, 5.03)), (Density.GAUSSIAN, (1.710635, 2.151593, 2.559136))]
)
def test_two_to_four_bits_are_in_published_tables(density: Density, table: tuple[float, ...]) -> None:
    """The constants that implementations of the paper carry."""
    for bits, alpha in zip((2, 3, 4), table, strict=True):
        assert optimal_clipping(bits, density) == pytest.approx(alpha, abs=0.01)


@every_density
def test_clipping_rises_with_the_bits(density: Density) -> None:
    alphas = [optimal_clipping(bits, density) for bits in range(1, 18)]
    assert all(a < b for a, b in zip(alphas, alphas[1:], strict=False))


def draw(density: Density, count: int = 200_000) -> Tensor:
    torch.manual_seed(2)
    law: Any = torch.distributions.Normal if density is Density.GAUSSIAN else torch.distributions.Laplace
    x: Tensor = law(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)).sample((count,))
    return x


@every_density
@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (0.8, 3.0), (-2.0, 0.5)])
def test_mean_and_scale_come_from_the_stream(density: Density, mean: float, scale: float) -> None:
    x = mean + scale * draw(density)
    watch = Analytical(density).start()
    for part in x.split(30_000):
        watch.add(part)
    mu = float(x.mean())
    spread = float(x.std()) if density is Density.GAUSSIAN else float((x - mu).abs().mean())
    alpha = optimal_clipping(3, density) * spread
    found = watch.range(3)
    assert found.low == pytest.approx(min(mu - alpha, 0), rel=1e-3, abs=1e-3)
    assert found.high == pytest.approx(max(mu + alpha, 0), rel=1e-3, abs=1e-3)
    assert watch.range(3, symmetric=True).high == pytest.approx(abs(mu) + alpha, rel=1e-3)


@every_density
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_after_a_relu_the_range_is_near_the_best_for_the_samples(density: Density, bits: int) -> None:
    x = 1.7 * draw(density).relu()
    watch = Analytical(density).start()
    watch.add(x)
    found = watch.range(bits)
    assert found.low == 0

    def error(high: float) -> float:
        step = high / (2**bits - 1)
        return float(((x / step).round().clamp(0, 2**bits - 1) * step - x).square().mean())

    best = min(error(found.high * share) for share in torch.linspace(0.4, 1.6, 61).tolist())
    # The formula takes 2ᵇ steps where there are one fewer: with two bits that costs most.
    assert error(found.high) <= best * {2: 1.15, 3: 1.05, 4: 1.03}[bits]


def test_after_a_relu_a_symmetric_range_is_that_of_the_density() -> None:
    x = draw(Density.GAUSSIAN)
    two_sided, one_sided = (Analytical(Density.GAUSSIAN).start() for _ in range(2))
    two_sided.add(x)
    one_sided.add(x.relu())
    assert one_sided.range(4, symmetric=True).high == pytest.approx(two_sided.range(4, symmetric=True).high, rel=0.01)
    assert one_sided.range(3).high == pytest.approx(two_sided.range(4, symmetric=True).high, rel=0.01)


def test_dead_activations_do_not_move_the_range() -> None:
    x = draw(Density.LAPLACIAN, 2000).relu()
    alive, dead = Analytical().start(), Analytical().start()
    alive.add(x[x > 0])
    dead.add(torch.cat([x, torch.zeros(9999, dtype=torch.float64)]))
    assert alive.range(4).high == pytest.approx(dead.range(4).high, rel=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
def test_it_does_not_go_beyond_what_was_seen(symmetric: bool) -> None:
    watch = Analytical().start()
    watch.add(torch.tensor([-1.0, 1.0, 1.0, 0.5]))
    assert watch.range(8, symmetric) == Range(-1, 1)


def test_norm_range() -> None:
    weight, bias = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 1.0, -4.0])
    assert norm_range(weight, bias, deviations=2) == Range(-5, 5)
    assert norm_range(weight, bias) == Range(-11, 13)
    assert norm_range(weight, bias, low=0.0) == Range(0, 13)
    assert norm_range(weight, bias, low=0.0, high=6.0) == Range(0, 6)
    assert norm_range(weight, bias, symmetric=True) == Range(-13, 13)
    assert norm_range(weight, torch.tensor([30.0, 30.0, 30.0])) == Range(0, 42)
    dead = norm_range(weight, torch.tensor([-30.0, -30.0, -30.0]), low=0.0)
    assert dead == Range(0, 1)  # nothing gets through the ReLU


def test_six_deviations_hold_a_sample() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(8), torch.randn(8)
    x = (torch.randn(100_000, 8) * weight + bias).relu()
    found = norm_range(weight, bias, low=0.0)
    assert found.low == 0 and float(x.max()) < found.high < 2.5 * float(x.max())


@pytest.mark.parametrize(
    ("weight", "bias", "settings"),
    [
        (torch.ones(2), torch.ones(3), {}),
        (torch.ones(0), torch.ones(0), {}),
        (torch.ones(2), torch.tensor([0.0, math.nan]), {}),
        (torch.ones(2), torch.ones(2), {"deviations": 0.0}),
        (torch.ones(2), torch.ones(2), {"low": 1.0}),
    ],
)
def test_bad_norms(weight: Tensor, bias: Tensor, settings: dict[str, float]) -> None:
    with pytest.raises(SchemeError):
        norm_range(weight, bias, **settings)
