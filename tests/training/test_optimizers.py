"""What is kept after every step: a bound, a grid; and why updates must not be rounded to nearest."""

import pytest
import torch
from torch import nn

from featherweight.core.errors import SchemeError
from featherweight.core.stage import adam
from featherweight.schemes.binary import glorot
from featherweight.schemes.fixed_point import FixedPoint, Rounding
from featherweight.training.optimizers import Clipped, Directions, OnGrid


def plain(parameters, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr)


def momentum(parameters, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def regression(make, steps: int = 800, lr: float = 0.005) -> tuple[float, torch.Tensor]:
    """(loss, weights) after fitting ``y = X w``, w = (0.7, −0.4, 0.2), from zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=generator)
    y = x @ torch.tensor([0.7, -0.4, 0.2])
    w = nn.Parameter(torch.zeros(3))
    optimizer = make([w], lr)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for step in range(steps):
            optimizer.zero_grad()
            loss = (x[step % 8 :: 8] @ w - y[step % 8 :: 8]).square().mean()
            loss.backward()
            optimizer.step()
    w.requires_grad_(False)
    return float((x @ w - y).square().mean()), w


@pytest.mark.parametrize("optimizer", [plain, momentum, adam])
def test_weights_stay_within_the_bound_and_biases_go_free(optimizer) -> None:
    layer = nn.Linear(4, 3)
    made = Clipped(optimizer, 0.125)(layer.parameters(), 1.0)
    for _ in range(3):
        (layer.weight.sum() - layer.bias.sum()).backward()
        made.step()
        assert float(layer.weight.detach().abs().max()) <= 0.125
    assert float(layer.weight.detach().min()) == -0.125
    assert float(layer.bias.detach().abs().max()) > 0.5


def test_a_bound_may_be_the_layers_own() -> None:
    layers = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 50))
    made = Clipped(plain, glorot)(layers.parameters(), 1.0)
    sum(p.sum() for p in layers.parameters()).backward()
    made.step()
    for layer in layers:
        assert float(layer.weight.detach().abs().max()) == pytest.approx(glorot(layer.weight))
    with pytest.raises(SchemeError, match="bound of 0"):
        Clipped(plain, 0.0)


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("optimizer", [plain, momentum, adam])
def test_everything_is_on_the_grid_after_a_step(optimizer, rounding: Rounding) -> None:
    grid, fine = FixedPoint(2, 6), FixedPoint(2, 12)
    layer = nn.Linear(5, 4)
    made = OnGrid(optimizer, grid, rounding, gradients=fine, moments=fine)(layer.parameters(), 0.3)
    for seed in range(3):
        x = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))
        layer(x).square().mean().backward()
        made.step()
        for parameter in layer.parameters():
            assert torch.equal(parameter, grid.rounded(parameter))
            assert parameter.grad is not None and torch.equal(parameter.grad, fine.rounded(parameter.grad))
            kept = [v for v in made.state[parameter].values() if v is not None and v.shape == parameter.shape]
            assert all(torch.equal(each, fine.rounded(each)) for each in kept)


def test_updates_below_half_a_step_are_lost_to_nearest_rounding_alone() -> None:
    """Gupta et al. 2015, section 4: learning goes on with stochastic rounding where nearest rounding stalls."""
    grid = FixedPoint(2, 4)
    exact, _ = regression(plain)
    stuck, w = regression(OnGrid(plain, grid, Rounding.NEAREST))
    drawn, v = regression(OnGrid(plain, grid, Rounding.STOCHASTIC))
    assert torch.equal(w, torch.zeros(3))  # no update was ever half a step
    assert stuck > 0.4 and exact < 1e-4
    assert drawn < 0.01
    assert torch.equal(v, grid.rounded(v)) and float((v - torch.tensor([0.7, -0.4, 0.2])).abs().max()) < 4 * grid.step


def test_a_step_on_the_grid_is_right_on_average() -> None:
    """E[round(w + Δw)] = w + Δw, of updates far below a step."""
    grid = FixedPoint(2, 4)
    w = nn.Parameter(torch.full((100_000,), 0.5))
    made = OnGrid(plain, grid)([w], 1.0)
    w.grad = torch.full_like(w, -0.1 * grid.step)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made.step()
    assert set(w.detach().unique().tolist()) == {0.5, 0.5 + grid.step}
    assert float(w.detach().mean()) == pytest.approx(0.5 + 0.1 * grid.step, abs=4 * grid.step * (0.09 / 100_000) ** 0.5)


def test_a_grid_may_be_the_layers_own() -> None:
    layers = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    made = OnGrid(plain, lambda w: FixedPoint(1, len(w)))(layers.parameters(), 0.1)
    layers(torch.randn(5, 4)).sum().backward()
    made.step()
    for layer in layers:
        steps = layer.weight.detach() * 2 ** len(layer.weight)
        assert torch.equal(steps, steps.round()) and bool((layer.weight.detach() < 1).all())


def test_of_a_gradient_only_the_direction_counts() -> None:
    """Steps of a gradient and of 2⁻¹⁴⁰ of it are the same, and the largest is about ``lr · unit``."""
    ends = []
    for size in (1.0, 2.0**-140):
        w, still = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(2))
        made = Directions(plain, lambda w: 0.25)([w, still], 8.0)
        w.grad, still.grad = size * torch.tensor([3.0, -1.0, 0.0]), torch.zeros(2)
        made.step()
        ends.append(w.detach().clone())
        assert torch.equal(still, torch.ones(2))
    assert torch.equal(*ends) and ends[0].tolist() == [-1.5, 0.5, 0.0]
