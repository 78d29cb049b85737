"""The surgeon of channels against plain least squares."""

from itertools import combinations

import pytest
import torch

from featherweight.core.errors import SchemeError
from featherweight.core.metric import Full
from featherweight.solvers.channels import Reader, damped, eliminate, made_up


def problem(rows: int = 4, channels: int = 5, k: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(60, channels * k, dtype=torch.float64) @ torch.randn(
        channels * k, channels * k, dtype=torch.float64
    )
    return torch.randn(rows, channels, k, dtype=torch.float64), x.T @ x / len(x)


def columns(channels: int, k: int) -> torch.Tensor:
    return torch.arange(channels * k).reshape(channels, k)


def error(w: torch.Tensor, v: torch.Tensor, hessian: torch.Tensor, rows: torch.Tensor) -> float:
    difference = (w - v).flatten(1)
    return float((((difference @ hessian) * difference).sum(1) * rows).sum())


def test_the_errors_are_those_of_least_squares_on_what_stays() -> None:
    w, h = problem()
    g = torch.tensor([1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
    found = eliminate([Reader(w, Full(h, g), columns(5, 2))])
    assert sorted(found.order) == list(range(5)) and found.errors[0] == 0
    for gone in range(6):
        kept = torch.tensor([c for c in range(5) if c not in found.order[:gone]], dtype=torch.long)
        at = columns(5, 2)[kept].flatten()
        v = torch.zeros_like(w).flatten(1)
        v[:, at] = made_up(w, h, at)
        assert found.errors[gone] == pytest.approx(error(w, v.reshape(w.shape), damped(h), g), rel=1e-8, abs=1e-10)
    assert list(found.errors) == sorted(found.errors)


def test_the_first_to_go_is_the_best_of_all() -> None:
    w, h = problem(seed=3)
    found = eliminate([Reader(w, Full(h), columns(5, 2))])
    each = []
    for (gone,) in combinations(range(5), 1):
        at = torch.tensor([c for c in range(10) if c // 2 != gone])
        v = torch.zeros_like(w).flatten(1)
        v[:, at] = made_up(w, h, at)
        each.append(error(w, v.reshape(w.shape), damped(h), torch.ones(4, dtype=torch.float64)))
    assert found.errors[1] == pytest.approx(min(each)) and found.order[0] == each.index(min(each))


def test_a_channel_that_another_equals_costs_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 4, dtype=torch.float64)
    x = torch.cat([x, x[:, 1:2]], 1)
    w = torch.randn(3, 5, 1, dtype=torch.float64)
    found = eliminate([Reader(w, Full(x.T @ x / 200), columns(5, 1))], damping=1e-9)
    assert found.order[0] in (1, 4) and found.errors[1] < 1e-6 * found.errors[-1]


def test_costs_of_two_readers_add_up() -> None:
    (w, h), (v, i) = problem(seed=1), problem(rows=2, seed=2)
    both = eliminate([Reader(w, Full(h), columns(5, 2)), Reader(v, Full(i), columns(5, 2))])
    all_of = error(w, torch.zeros_like(w), damped(h), torch.ones(4)) + error(
        v, torch.zeros_like(v), damped(i), torch.ones(2)
    )
    assert both.errors[-1] == pytest.approx(all_of)


def test_groups_have_no_one_moment() -> None:
    w, h = problem()
    with pytest.raises(SchemeError, match="groups"):
        Reader(w, Full(torch.stack([h, h])), columns(5, 2))
