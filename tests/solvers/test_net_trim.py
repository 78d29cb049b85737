"""Net-Trim: the constraints hold, the programme's minimum is met, and sparse weights are found again."""

import pytest
import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN
from featherweight.metrics.responses import Responses
from featherweight.schemes.sparse import Magnitude, Sparse
from featherweight.solvers.net_trim import MARGIN, Limits, NetTrim, trimmed


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def responses(x: Tensor, w: Tensor, bias: Tensor, noise: float = 0.0) -> Responses:
    """What the weight answers on undisturbed inputs, and inputs disturbed by noise."""
    seen = x + noise * draw(*x.shape, seed=9)
    return Responses(seen.T @ seen / len(x), inputs=seen, outputs=x @ w.T, bias=bias)


def correlated(n: int, columns: int) -> Tensor:
    return (draw(n, 4) @ draw(4, columns, seed=1) + 0.3 * draw(n, columns, seed=2)).relu()


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("tolerance", [0.01, 0.1, 0.5])
def test_the_returned_layer_answers_within_the_tolerance(tolerance: float, noise: float, rectified: bool) -> None:
    """By a formula of its own, on what the file would hold; and it is much sparser."""
    x, w, bias = correlated(150, 30), draw(10, 30, seed=3).float(), draw(10, seed=4)
    metric = responses(x, w.double(), bias, noise)
    code = NetTrim(tolerance, rectified).project(Sparse(Magnitude()), w, metric)
    u = code.decode().double()
    theirs, ours = metric.outputs + bias, metric.inputs @ u.T + bias
    if rectified:
        rises = ((metric.inputs @ w.double().T + bias).relu() * (theirs <= 0)).norm() if noise else 0.0
        active = theirs > 0
        theirs, ours = theirs.relu(), ours.relu()
    else:
        rises, active = 0.0, torch.ones_like(theirs, dtype=torch.bool)
    own = float((metric.inputs @ w.double().T + bias - metric.outputs - bias)[active].norm())
    allowed = max(tolerance * float(theirs[active].norm()), 1.1 * own) + float(rises)
    assert float((ours - theirs).norm()) <= allowed * (1 + 1e-5)
    assert float((u != 0).double().mean()) < 0.75 or (tolerance == 0.01 and not noise)


def test_a_sparse_weight_is_found_among_those_that_answer_alike() -> None:
    """Fewer samples than inputs: weights that differ by what no sample sees; the sparse one has the least norm."""
    sparse = torch.zeros(3, 60, dtype=torch.float64)
    places = torch.randperm(60, generator=torch.Generator().manual_seed(1))[:12]
    sparse[torch.arange(3).repeat_interleave(4), places] = 2.0
    x = draw(40, 60, seed=2)
    dense = sparse + draw(3, 60, seed=3) @ (torch.eye(60, dtype=torch.float64) - torch.linalg.pinv(x) @ x)
    torch.testing.assert_close(x @ dense.T, x @ sparse.T)
    metric = responses(x, dense, torch.zeros(3))
    u = NetTrim(1e-3, rectified=False, iterations=3000).project(Sparse(Magnitude()), dense, metric).decode()
    assert int((dense != 0).sum()) == 180
    assert torch.equal(u != 0, sparse != 0)
    torch.testing.assert_close(u, sparse, rtol=0.01, atol=0)


def basis_pursuit(x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """``min ‖u‖₁`` with ``‖X u − y‖ ≤ ε`` by another way: the price of the norm by bisection, coordinate descent."""
    low, high, u = 0.0, float((x.T @ y).abs().max()), torch.zeros(x.shape[1], dtype=x.dtype)
    squares = x.square().sum(0)
    for _ in range(60):
        price = (low + high) / 2
        for _ in range(300):
            for j in range(len(u)):
                pull = x[:, j] @ (y - x @ u) + squares[j] * u[j]
                u[j] = pull.sign() * (pull.abs() - price).clamp(min=0) / squares[j]
            if float((x.T @ (y - x @ u)).abs().max()) <= price * (1 + 1e-7):
                break
        low, high = (price, high) if float((x @ u - y).norm()) < epsilon else (low, price)
    return u


def test_the_norm_is_that_of_the_minimum() -> None:
    x, w = draw(30, 8) + draw(30, 1, seed=5), draw(1, 8, seed=6)
    metric = responses(x, w, torch.zeros(1))
    limits = Limits.of(w, metric, 0.2, 1.1, rectified=False)
    ours = trimmed(w, x, limits, 4000)
    tight, loose = (basis_pursuit(x, metric.outputs[:, 0], e * limits.epsilon) for e in (MARGIN, 1.0))
    assert float(loose.abs().sum()) * (1 - 1e-4) <= float(ours.abs().sum()) <= 1.03 * float(tight.abs().sum())


def test_outputs_that_the_rectifier_blocks_are_free_below_zero() -> None:
    """So a rectified layer can be sparser than one whose outputs are all kept."""
    x, w, bias = correlated(150, 30), draw(10, 30, seed=3), -draw(10, seed=4).abs()
    kept = [
        int((NetTrim(0.05, rectified).project(Sparse(Magnitude()), w, responses(x, w, bias)).decode() != 0).sum())
        for rectified in (True, False)
    ]
    assert kept[0] < 0.9 * kept[1]


def test_where_nothing_sparser_keeps_the_guarantee_the_weight_stays() -> None:
    w, x = draw(3, 4), draw(50, 4, seed=1)
    code = NetTrim(1e-9, rectified=False, iterations=3).project(Sparse(Magnitude()), w, responses(x, w, torch.zeros(3)))
    assert torch.equal(code.decode(), w)


def test_outputs_are_projected_onto_what_is_allowed() -> None:
    metric = responses(draw(20, 5), draw(4, 5, seed=1), draw(4, seed=2))
    limits = Limits.of(draw(4, 5, seed=1), metric, 0.1, 1.1, rectified=True)
    z = 3 * draw(20, 4, seed=3)
    nearest = limits.nearest(z, limits.epsilon)
    assert float((nearest - limits.target)[limits.active].norm()) <= limits.epsilon * (1 + 1e-9)
    assert bool((nearest <= limits.above).all()) and limits.error(nearest) <= limits.guaranteed * (1 + 1e-9)
    for seed in range(20):
        other = limits.nearest(3 * draw(20, 4, seed=10 + seed), limits.epsilon)
        assert float((nearest - z).norm()) <= float((other - z).norm())


def test_refusals() -> None:
    with pytest.raises(SchemeError, match="LayerResponses"):
        NetTrim().project(Sparse(Magnitude()), draw(3, 4), EUCLIDEAN)
    for settings in ({"tolerance": 0.0}, {"slack": 0.5}, {"iterations": 0}):
        with pytest.raises(SchemeError):
            NetTrim(**settings)
