"""Learned rounding: never worse than rounding to nearest, near the best of all roundings, and decided at the end."""

import itertools

import pytest
import torch

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Full
from featherweight.metrics.responses import Responses
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.uniform import Fit, Grid, PerChannel, PerGroup, Uniform, UniformCode
from featherweight.solvers.rounding import (
    AdaRound,
    Annealing,
    Rounding,
    inverse_rectified_sigmoid,
    rectified_sigmoid,
)

SCHEMES = [
    Uniform(1),
    Uniform(2, odd=True),
    Uniform(3, granularity=PerChannel(), fit=Fit.SEARCH),
    Uniform(4, symmetric=False, granularity=PerGroup(6)),
]
QUICK = AdaRound(steps=300, lr=0.05)


def correlated(rows: int, columns: int, share: float = 0.9) -> torch.Tensor:
    x = torch.randn(rows, columns, dtype=torch.float64)
    return x + share * x[:, :1]


def moment(columns: int, share: float = 0.9) -> torch.Tensor:
    x = correlated(200, columns, share)
    return x.T @ x / len(x)


def test_the_rectified_sigmoid_reaches_its_ends() -> None:
    h = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(rectified_sigmoid(inverse_rectified_sigmoid(h)), h)
    ends = rectified_sigmoid(torch.tensor([-3.0, 0.0, 3.0]))
    assert ends.tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_it_starts_at_the_weight_and_its_nearer_levels_are_rounding(scheme: Uniform) -> None:
    torch.manual_seed(0)
    w = torch.randn(4, 12)
    start = scheme.project(w)
    rounding = Rounding(start, w)
    lowest, highest = rounding.base, rounding.base + rounding.span
    torch.testing.assert_close(rounding.soft().detach()[rounding.free], w[rounding.free])
    outside = ~rounding.free
    assert torch.equal(lowest[outside], highest[outside])
    assert torch.equal(rounding.hard().levels, start.levels)
    levels = {int(level) for level in rounding.hard().levels.flatten()}
    assert levels <= set(range(scheme.grid.low, scheme.grid.high + 1, scheme.grid.step))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_never_worse_than_rounding(scheme: Uniform, seed: int) -> None:
    torch.manual_seed(seed)
    w = torch.randn(8, 12)
    for metric in (Full(moment(12)), Full(moment(12), torch.rand(8)), Full(torch.stack([moment(12), moment(12)]))):
        learned = QUICK.project(scheme, w, metric)
        assert metric.distance(w, learned.decode()) <= metric.distance(w, scheme.project(w).decode())
        assert isinstance(learned, UniformCode) and learned.grid == Grid(scheme.bits, scheme.symmetric, scheme.odd)


def test_every_entry_is_decided_and_takes_one_of_its_two_levels() -> None:
    torch.manual_seed(0)
    w, metric = torch.randn(16, 24), Full(moment(24, 3.0))
    scheme = Uniform(3, granularity=PerChannel())
    start = scheme.project(w)
    rounding = Rounding(start, w)
    learner = AdaRound(steps=1000, annealing=Annealing(0.1))
    learner.learn(rounding, learner._loss(w, metric))
    assert rounding.undecided() == 0
    code = rounding.hard()
    torch.testing.assert_close(rounding.soft().detach(), code.decode())
    assert ((code.decode() - w).abs() < start.scales.decode()[:, None] * 1.001).all()
    assert metric.distance(w, code.decode()) < 0.5 * metric.distance(w, start.decode())


@pytest.mark.parametrize("seed", range(4))
def test_near_the_best_of_all_roundings_on_a_small_case(seed: int) -> None:
    torch.manual_seed(seed)
    w, metric = torch.randn(2, 7), Full(moment(7))
    scheme = Uniform(3, granularity=PerChannel())
    rounding = Rounding(scheme.project(w), w)
    best = torch.zeros((), dtype=torch.float64)
    for row in range(2):
        alone = Full(metric.hessian)
        choices = (torch.tensor([each], dtype=torch.float32) for each in itertools.product((0.0, 1.0), repeat=7))
        tried = (rounding.base[row] + choice * rounding.span[row] for choice in choices)
        best += min(alone.distance(w[row : row + 1], v) for v in tried)
    learned = metric.distance(w, AdaRound(steps=1000).project(scheme, w, metric).decode())
    nearest = metric.distance(w, scheme.project(w).decode())
    assert best <= learned * (1 + 1e-6)
    assert learned <= best + 0.25 * (nearest - best) + 1e-9


def test_without_correlation_nearest_is_best() -> None:
    torch.manual_seed(0)
    w, scheme = torch.randn(4, 6), Uniform(3)
    diagonal = Full(torch.diag(torch.rand(6, dtype=torch.float64) + 0.1))
    assert torch.equal(QUICK.project(scheme, w, diagonal).decode(), scheme.project(w).decode())


def test_inputs_that_are_all_zero_leave_rounding_to_nearest() -> None:
    w, scheme = torch.randn(4, 6), Uniform(3)
    assert torch.equal(QUICK.project(scheme, w, Full(torch.zeros(6, 6))).decode(), scheme.project(w).decode())


def responses(w: torch.Tensor, x: torch.Tensor, noise: float, *, rectified: bool) -> Responses:
    """Inputs of a compressed model, and what the original answers to its own."""
    y = x @ w.T
    ours = x + noise * torch.randn_like(x)
    bias = torch.full((len(w),), -0.5)
    return Responses(ours.T @ ours / len(x), inputs=ours, outputs=y, bias=bias, rectified=rectified)


@pytest.mark.parametrize("rectified", [False, True])
def test_outputs_of_the_original_are_met_and_not_those_of_the_weight(rectified: bool) -> None:
    torch.manual_seed(0)
    w, x = torch.randn(6, 10), correlated(800, 10).float()
    found = responses(w, x, 0.5, rectified=rectified)
    scheme = Uniform(3, granularity=PerChannel())
    learner = AdaRound(steps=400, lr=0.03, batch=256)
    asymmetric = learner.project(scheme, w, found).decode()
    symmetric = learner.project(scheme, w, Full(found.hessian)).decode()
    assert found.error(asymmetric) < found.error(symmetric)
    assert found.error(asymmetric) < 0.9 * found.error(scheme.project(w).decode())


def test_only_what_passes_the_rectifier_counts() -> None:
    torch.manual_seed(0)
    w, x = torch.randn(3, 5), correlated(50, 5).float()
    found = responses(w, x, 0.0, rectified=True)
    v = w + 0.1 * torch.randn_like(w)
    by_hand = ((x @ v.T - 0.5).relu() - (x @ w.T - 0.5).relu()).square().sum() / 50
    torch.testing.assert_close(found.error(v), by_hand.double(), rtol=1e-5, atol=1e-7)


def test_the_exponent_falls_after_the_warm_start() -> None:
    annealing = Annealing()
    assert annealing.beta(0.1) is None
    assert annealing.beta(0.2) == pytest.approx(20.0)
    assert annealing.beta(1.0) == pytest.approx(2.0)
    falling = [annealing.beta(done / 20) for done in range(4, 21)]
    assert falling == sorted(falling, reverse=True)  # type: ignore[type-var]


def test_what_cannot_be_rounded_is_told() -> None:
    w = torch.randn(2, 3)
    with pytest.raises(SchemeError, match="InputMoment"):
        AdaRound().project(Uniform(4), w, EUCLIDEAN)
    with pytest.raises(SchemeError, match="levels of Uniform"):
        AdaRound().project(Codebook(4), w, Full(moment(3)))
    with pytest.raises(SchemeError, match="one step or more"):
        AdaRound(steps=0)
    with pytest.raises(SchemeError, match="weight above 0"):
        Annealing(weight=0.0)
