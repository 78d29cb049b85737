"""Rounding at random: its mean and variance are the exact ones, and so is the expectation of a quantized gradient."""

from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.training import stochastic
from featherweight.training.stochastic import double_sampled, rounded_at_random

LEVELS = torch.tensor([-2.0, -0.5, 0.25, 1.0, 3.0], dtype=torch.float64)


def test_the_mean_is_the_entry_and_the_variance_the_formula() -> None:
    x = torch.tensor([-2.0, -1.9, -0.5, 0.0, 0.26, 0.9, 1.0, 2.5, 3.0], dtype=torch.float64)
    drawn = rounded_at_random(x.expand(40_000, -1), LEVELS, torch.Generator().manual_seed(0))
    low = torch.tensor([-2.0, -2.0, -0.5, -0.5, 0.25, 0.25, 1.0, 1.0, 1.0], dtype=torch.float64)
    high = torch.tensor([-0.5, -0.5, 0.25, 0.25, 1.0, 1.0, 3.0, 3.0, 3.0], dtype=torch.float64)
    variance = (high - x) * (x - low)
    assert bool(((drawn == low) | (drawn == high)).all())
    off = (drawn.mean(0) - x).abs()
    assert bool((off <= 5 * (variance / 40_000).sqrt() + 1e-12).all()) and bool((off[variance == 0] < 1e-12).all())
    torch.testing.assert_close(drawn.var(0), variance, rtol=0.05, atol=1e-9)


Outcomes = list[tuple[Tensor, float]]


def outcomes(sample: Tensor) -> Outcomes:
    """Every value that the rounding of a sample can have, with its probability."""
    above = torch.bucketize(sample, LEVELS[1:-1], right=True) + 1
    low, high = LEVELS[above - 1], LEVELS[above]
    up = (sample - low) / (high - low)
    found = []
    for chosen in product((False, True), repeat=len(sample)):
        at = torch.tensor(chosen)
        found.append((torch.where(at, high, low), float(torch.where(at, up, 1 - up).prod())))
    return found


def expected(gradient: Callable[[], Tensor], draws: Iterator[tuple[list[Tensor], float]], monkeypatch) -> Tensor:
    """The mean of a gradient over given draws, which stand for those of the generator."""
    total = torch.zeros(())
    for drawn, probability in draws:
        queue = list(drawn)
        monkeypatch.setattr(stochastic, "rounded_at_random", lambda *_, queue=queue: queue.pop(0))
        total = total + probability * gradient()
    return total


def test_double_sampling_is_unbiased_and_one_sample_is_off_by_the_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact expectation over all draws, of the gradient of ``½ (aᵀ x − b)²``."""
    sample = torch.tensor([[-1.1, 0.3, 2.2]], dtype=torch.float64)
    weight = torch.tensor([[0.7, -1.3, 0.4]], dtype=torch.float64, requires_grad=True)
    target = 0.6

    def gradient() -> Tensor:
        loss = (double_sampled(sample, weight, LEVELS) - target).square().sum() / 2
        return torch.autograd.grad(loss, weight)[0]

    each = outcomes(sample[0])
    two = (([one[None], other[None]], p * q) for (one, p), (other, q) in product(each, each))
    same = (([one[None], one[None]], p) for one, p in each)
    exact = sample * ((sample @ weight.T) - target)
    torch.testing.assert_close(expected(gradient, two, monkeypatch), exact)
    low = torch.tensor([-2.0, 0.25, 1.0], dtype=torch.float64)
    high = torch.tensor([-0.5, 1.0, 3.0], dtype=torch.float64)
    variance = (high - sample) * (sample - low)
    torch.testing.assert_close(expected(gradient, same, monkeypatch), exact + variance * weight)
    assert float((variance * weight.detach()).abs().max()) > 0.1


def test_a_regression_on_coarse_samples_finds_the_least_squares() -> None:
    """Double sampling converges to the solution; one draw in both places to a shrunken one."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.rand(256, 4, generator=generator, dtype=torch.float64) * 2 - 1
    truth = torch.tensor([[1.0, -2.0, 0.5, 1.5]], dtype=torch.float64)
    levels = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)

    def fitted(once: bool) -> Tensor:
        weight, mean = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True), torch.zeros(1, 4)
        for step in range(3000):
            if once:
                rounded = rounded_at_random(inputs, levels, generator)
                outputs = rounded @ weight.T
            else:
                outputs = double_sampled(inputs, weight, levels, generator)
            loss = (outputs - inputs @ truth.T).square().mean() / 2
            (found,) = torch.autograd.grad(loss, weight)
            weight = (weight - 0.3 * found).detach().requires_grad_()
            if step >= 500:
                mean = mean + weight.detach() / 2500
        return mean

    assert float((fitted(False) - truth).norm() / truth.norm()) < 0.02
    assert float((fitted(True) - truth).norm() / truth.norm()) > 0.2


@pytest.mark.parametrize("levels", [[1.0], [1.0, 1.0], [2.0, 1.0]])
def test_levels_ascend(levels: list[float]) -> None:
    with pytest.raises(SchemeError, match="do not ascend"):
        rounded_at_random(torch.ones(2), torch.tensor(levels))


def test_what_is_outside_is_refused() -> None:
    with pytest.raises(SchemeError, match="clip it"):
        rounded_at_random(torch.tensor([0.0, 5.0]), torch.tensor([0.0, 1.0]))
