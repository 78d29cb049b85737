"""The minima that shrinkage promises, by their optimality conditions and by brute force."""

from itertools import product

import pytest
import torch

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Diagonal
from featherweight.schemes.shrinkage import L1Ball, L1Penalty, Shrunk
from featherweight.schemes.sparse import L0Penalty, Sparse


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("radius", [0.01, 1.0, 3.0, 30.0])
def test_the_nearest_point_of_the_ball(radius: float) -> None:
    """Variational inequality of a projection: ``⟨w − v, y − v⟩ ≤ 0`` at every vertex ``y`` of the ball."""
    w = draw(40)
    v = Shrunk(L1Ball(radius)).project(w).decode()
    assert float(v.abs().sum()) <= radius * (1 + 1e-12) or torch.equal(v, w)
    if float(w.abs().sum()) <= radius:
        assert torch.equal(v, w)
        return
    assert float(v.abs().sum()) == pytest.approx(radius)
    vertices = torch.cat([torch.eye(40), -torch.eye(40)]).double() * radius
    assert float(((vertices - v) @ (w - v)).max()) <= 1e-9


def test_the_ball_is_shared_by_all_tensors() -> None:
    weights = {"small": 0.1 * draw(4, 5), "large": draw(6, seed=1)}
    codes = Shrunk(L1Ball(2.0)).project_all(weights, dict.fromkeys(weights, EUCLIDEAN))
    alone = Shrunk(L1Ball(2.0)).project(torch.cat([w.flatten() for w in weights.values()])).decode()
    together = torch.cat([codes[name].decode().flatten() for name in weights])
    torch.testing.assert_close(together, alone)
    kept = {name: float(codes[name].decode().abs().sum() / w.abs().sum()) for name, w in weights.items()}
    assert kept["small"] < kept["large"] / 2, "the layer of small weights keeps the smaller share"


def test_soft_thresholding_is_the_minimum() -> None:
    """Subgradient: ``w − v = price · sign(v)`` where ``v ≠ 0``, and ``|w| ≤ price`` elsewhere."""
    w = draw(50)
    v = Shrunk(L1Penalty(0.4)).project(w).decode()
    torch.testing.assert_close((w - v)[v != 0], 0.4 * v[v != 0].sign())
    assert bool((w[v == 0].abs() <= 0.4).all()) and bool((v == 0).any()) and bool((v != 0).any())


@pytest.mark.parametrize("price", [0.0, 0.05, 0.3, 1.0])
def test_hard_thresholding_is_the_minimum_over_all_supports(price: float) -> None:
    for metric in (EUCLIDEAN, Diagonal(draw(9, seed=4).square())):
        w = draw(9, seed=2)
        v = Sparse(L0Penalty(price)).project(w, metric).decode()
        costs = {
            support: float(metric.distance(w, w * torch.tensor(support))) / 2 + price * sum(support)
            for support in product([False, True], repeat=9)
            if any(support)
        }
        ours = float(metric.distance(w, v)) / 2 + price * int((v != 0).sum())
        assert ours == pytest.approx(min(costs.values()))


def test_gradual_forms() -> None:
    assert Shrunk(L1Penalty(0.4)).at(0.5) == Shrunk(L1Penalty(0.2))
    assert Sparse(L0Penalty(0.4)).at(0.5) == Sparse(L0Penalty(0.2))
    with pytest.raises(SchemeError, match="gradual"):
        Shrunk(L1Ball(1.0)).at(0.5)


def test_all_zero_is_a_code() -> None:
    code = Shrunk(L1Penalty(9.0)).project(draw(5))
    assert not bool(code.decode().any()) and int(code.support.sum()) == 1


def test_what_is_refused() -> None:
    with pytest.raises(SchemeError, match="below 0"):
        L1Penalty(-1.0)
    with pytest.raises(SchemeError, match="below 0"):
        L0Penalty(-1.0)
    with pytest.raises(SchemeError, match="above 0"):
        L1Ball(0.0)
    with pytest.raises(SchemeError, match="Euclidean"):
        Shrunk(L1Penalty(0.1)).project(draw(5), Diagonal(torch.ones(5)))
