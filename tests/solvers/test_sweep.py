"""The column sweep: never worse than rounding to nearest in its metric, and exact where that can be checked."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Full
from featherweight.schemes.amounts import Amount, Fraction, NToM, RowFraction
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.sparse import Sparse, SparseCode
from featherweight.schemes.uniform import Fit, PerChannel, PerGroup, Uniform
from featherweight.solvers.sweep import ColumnSweep, sweep


@dataclass(frozen=True)
class Alone:
    """A rule that looks at one column and no costs."""

    rule: Callable[[torch.Tensor, int], torch.Tensor]
    run: int = 128

    def look_ahead(self, values: torch.Tensor, first: int, costs: torch.Tensor) -> None:
        pass

    def __call__(self, values: torch.Tensor, column: int, costs: torch.Tensor) -> torch.Tensor:
        return self.rule(values, column)


SCHEMES = [
    Uniform(2),
    Uniform(3, granularity=PerChannel(), fit=Fit.SEARCH),
    Uniform(4, symmetric=False, granularity=PerGroup(6)),
    Codebook(5),
]


def moment(columns: int, correlation: float = 0.9) -> torch.Tensor:
    x = torch.randn(200, columns, dtype=torch.float64)
    x = x + correlation * x[:, :1]
    return x.T @ x / len(x)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_never_worse_than_rounding(scheme: Uniform, seed: int) -> None:
    torch.manual_seed(seed)
    w, metric = torch.randn(8, 12), Full(moment(12))
    swept = ColumnSweep().project(scheme, w, metric).decode()
    rounded = scheme.project(w).decode()
    assert metric.distance(w, swept) <= metric.distance(w, rounded)


def test_clearly_better_on_correlated_inputs() -> None:
    torch.manual_seed(0)
    w, metric = torch.randn(32, 24), Full(moment(24, 3.0))
    scheme = Uniform(3, granularity=PerChannel())
    swept = ColumnSweep().project(scheme, w, metric).decode()
    assert metric.distance(w, swept) < 0.6 * metric.distance(w, scheme.project(w).decode())


def test_with_a_diagonal_metric_nothing_moves() -> None:
    w = torch.randn(4, 6, dtype=torch.float64)
    diagonal = torch.diag(torch.rand(6, dtype=torch.float64) + 0.1)
    assert torch.equal(sweep(w[None], diagonal[None], Alone(lambda values, column: values.round()))[0], w.round())


def test_compensation_is_the_least_squares_optimum() -> None:
    """With all columns but the first free, the error left is the Schur complement of the first column's."""
    torch.manual_seed(0)
    w, h = torch.randn(1, 5, dtype=torch.float64), moment(5)

    def only_first(values: torch.Tensor, column: int) -> torch.Tensor:
        return values.round() if column == 0 else values

    q = sweep(w[None], h[None], Alone(only_first), damping=0.0)[0]
    difference = (q - w)[0]
    best = (difference[0] ** 2) / torch.linalg.inv(h)[0, 0]
    torch.testing.assert_close(difference @ h @ difference, best)


def test_near_the_global_minimum_on_a_small_case() -> None:
    torch.manual_seed(1)
    w, metric = torch.randn(1, 5), Full(moment(5))
    scheme = Uniform(2)
    start = scheme.project(w)
    scale = start.scales.decode()
    grid = itertools.product((-1, 0, 1), repeat=5)
    least = min(float(metric.distance(w, torch.tensor([levels]) * scale)) for levels in grid)
    swept = float(metric.distance(w, ColumnSweep().project(scheme, w, metric).decode()))
    assert least <= swept <= 1.5 * least + 1e-12


def test_the_full_metric_is_asked_for() -> None:
    with pytest.raises(SchemeError, match="InputMoment"):
        ColumnSweep().project(Uniform(4), torch.randn(2, 3), EUCLIDEAN)


def test_without_the_full_metric_the_scheme_projects_where_that_is_allowed() -> None:
    w = torch.randn(4, 6)
    code = ColumnSweep(required=False).project(Uniform(3), w, EUCLIDEAN)
    assert torch.equal(code.decode(), Uniform(3).project(w).decode())
    with pytest.raises(SchemeError, match="needs the full metric"):
        ColumnSweep().project(Uniform(3), w, EUCLIDEAN)


AMOUNTS = [Fraction(0.5), RowFraction(0.5), NToM(2, 4), NToM(1, 3), NToM(5, 100)]


@pytest.mark.parametrize("values", [None, Uniform(4)], ids=["as they are", "int4"])
@pytest.mark.parametrize("amount", AMOUNTS, ids=str)
def test_pruning_is_never_worse_than_by_magnitude(amount: Amount, values: Uniform | None) -> None:
    torch.manual_seed(2)
    w, metric = torch.randn(6, 150), Full(moment(150))
    scheme = Sparse(amount) if values is None else Sparse(amount).then(values)
    start, code = scheme.project(w), ColumnSweep().project(scheme, w, metric)
    assert metric.distance(w, code.decode()) < 0.9 * metric.distance(w, start.decode())
    assert isinstance(code, SparseCode)
    # It is the code of what it decodes to: nothing was lost between the sweep and the code.
    assert torch.equal(code.decode() != 0, code.support) or values is not None


@pytest.mark.parametrize("n, m", [(2, 4), (1, 3), (5, 100)])
def test_the_pattern_of_runs_holds_exactly(n: int, m: int) -> None:
    torch.manual_seed(3)
    w = torch.randn(6, 300)
    code = ColumnSweep().project(Sparse(NToM(n, m)), w, Full(moment(300)))
    assert isinstance(code, SparseCode)
    assert bool((code.support.reshape(6, -1, m).sum(-1) == n).all())


def test_survivors_of_a_run_are_chosen_as_they_stand_and_by_what_is_left() -> None:
    """Frantar and Alistarh 2023, algorithm 1, written down a second time by deleting one weight after another.

    After each column the columns to come take the least-squares optimum for what was deleted, by the inverse of their
    own part of the Hessian.
    """
    torch.manual_seed(4)
    w, h = torch.randn(5, 12, dtype=torch.float64), moment(12)
    code = ColumnSweep(damping=0.0).project(Sparse(NToM(2, 4)), w, Full(h))
    assert isinstance(code, SparseCode)
    for row, support, found in zip(w.clone(), code.support, code.decode(), strict=True):
        for first in range(0, 12, 4):
            inverses = [torch.linalg.inv(h[j:, j:]) for j in range(12)]
            saliency = torch.stack([row[j] ** 2 / inverses[j][0, 0] for j in range(first, first + 4)])
            kept = saliency.argsort(descending=True)[:2] + first
            assert {int(j) for j in kept} == {j for j in range(first, first + 4) if support[j]}
            for j in range(first, first + 4):
                if j not in kept:
                    row[j:] -= row[j].clone() / inverses[j][0, 0] * inverses[j][0]
                    row[j] = 0
        torch.testing.assert_close(found, row, rtol=1e-8, atol=1e-8)


def test_runs_longer_than_the_sweep_looks_ahead_are_refused() -> None:
    with pytest.raises(SchemeError, match="200 columns"):
        ColumnSweep().project(Sparse(NToM(20, 200)), torch.randn(4, 200), Full(moment(200)))
