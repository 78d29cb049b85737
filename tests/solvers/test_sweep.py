"""The column sweep: never worse than rounding to nearest in its metric, and exact where that can be checked."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from featherweight.coding import entropy
from featherweight.core.code import Code
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Full
from featherweight.core.scheme import Scheme
from featherweight.schemes.amounts import Amount, Fraction, NToM, PermutedNToM, RowFraction
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.sparse import Sparse, SparseCode
from featherweight.schemes.structures import Blocks, Filters, Kernels
from featherweight.schemes.supports import BoxSparseCode
from featherweight.schemes.uniform import Fit, PerChannel, PerGroup, Uniform
from featherweight.schemes.waterfilling import Waterfilling
from featherweight.solvers.sweep import LAZY, ColumnSweep, sweep


@dataclass(frozen=True)
class Alone:
    """A rule that looks at one column and no costs."""

    rule: Callable[[torch.Tensor, int], torch.Tensor]
    run: int = 1

    def look_ahead(self, values: torch.Tensor, first: int, costs: torch.Tensor) -> None:
        pass

    def __call__(self, values: torch.Tensor, column: int, costs: torch.Tensor) -> torch.Tensor:
        return self.rule(values, column)


HALF = Sparse(Fraction(0.5))

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


@pytest.mark.parametrize("columns", [LAZY - 1, LAZY, 2 * LAZY + 3])
def test_lazy_blocks_change_nothing(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    w, h = torch.randn(2, 3, columns, dtype=torch.float64), torch.stack([moment(columns), moment(columns, 2.0)])
    rule = Alone(lambda values, column: values.mul(4).round().div(4))
    lazy = sweep(w, h, rule)
    monkeypatch.setattr("featherweight.solvers.sweep.LAZY", 1)
    torch.testing.assert_close(lazy, sweep(w, h, rule))


def test_groups_are_swept_as_if_each_were_alone() -> None:
    torch.manual_seed(0)
    w, h = torch.randn(3, 2, 9, dtype=torch.float64), torch.stack([moment(9), moment(9, 2.0), moment(9, 0.1)])
    rule = Alone(lambda values, column: values.mul(4).round().div(4))
    alone = [sweep(w[i : i + 1], h[i : i + 1], rule) for i in range(3)]
    torch.testing.assert_close(sweep(w, h, rule), torch.cat(alone))


@dataclass
class Costs:
    """Rounds, and adds up what its errors cost by what it is told."""

    total: float = 0.0
    run: int = 1

    def look_ahead(self, values: torch.Tensor, first: int, costs: torch.Tensor) -> None:
        pass

    def __call__(self, values: torch.Tensor, column: int, costs: torch.Tensor) -> torch.Tensor:
        self.total += float((costs * (values - values.round()).square()).sum())
        return values.round()


def test_the_costs_add_up_to_the_distance() -> None:
    """What the rule is told of each column is what the whole error is made of: without damping, exactly."""
    torch.manual_seed(0)
    w, h, g = torch.randn(4, 20, dtype=torch.float64), moment(20), torch.rand(4, dtype=torch.float64) + 0.1
    rule = Costs()
    q = sweep(w[None], h[None], rule, g, damping=0.0)[0]
    torch.testing.assert_close(rule.total, float(Full(h, g).distance(w, q)))


@pytest.mark.parametrize("scheme", [Uniform(4, granularity=PerChannel()), Waterfilling(1e-3), Codebook(8)], ids=str)
def test_a_rate_makes_the_sum_of_errors_and_bits_smaller(scheme: Scheme) -> None:
    torch.manual_seed(0)
    w, metric = torch.randn(16, 40), Full(moment(40))
    price = 0.2
    plain, traded = (ColumnSweep(price=each).project(scheme, w, metric) for each in (0.0, price))

    def cost(code: Code) -> float:
        stream = next(each for each in code.streams() if tuple(each.values.shape) == code.shape)
        return float(metric.distance(w, code.decode())) + price * entropy(stream.values.numpy(), stream.alphabet)

    assert cost(traded) < cost(plain)


@pytest.mark.parametrize("values", [Float(), Uniform(4), Codebook(6)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_pruning_by_the_sweep_is_never_worse_than_by_magnitude(values: Scheme, seed: int) -> None:
    torch.manual_seed(seed)
    w, metric = torch.randn(12, 160), Full(moment(160))
    scheme = Sparse(Fraction(0.5), values)
    swept, plain = ColumnSweep().project(scheme, w, metric), scheme.project(w)
    assert metric.distance(w, swept.decode()) <= metric.distance(w, plain.decode())
    assert int((swept.decode() != 0).sum()) <= w.numel() // 2 + 1


def test_pruning_by_the_sweep_is_clearly_better_on_correlated_inputs() -> None:
    torch.manual_seed(0)
    w, metric = torch.randn(32, 160), Full(moment(160, 3.0))
    swept, plain = (each.decode() for each in (ColumnSweep().project(HALF, w, metric), HALF.project(w)))
    assert metric.distance(w, swept) < 0.5 * metric.distance(w, plain)


@pytest.mark.parametrize("structure", [Blocks(1, 8), Blocks(3, 4), Blocks(0, 2), Blocks(1, 7)], ids=str)
@pytest.mark.parametrize("amount", [Fraction(0.5), NToM(1, 2)], ids=str)
def test_blocks_are_swept_whole(structure: Blocks, amount: Amount) -> None:
    """Also where blocks at the end are shorter, and where their width does not divide what is updated lazily."""
    torch.manual_seed(4)
    w, metric = torch.randn(6, 150), Full(moment(150, 3.0))
    scheme = GroupSparse(amount, structure=structure)
    start, code = scheme.project(w), ColumnSweep().project(scheme, w, metric)
    assert metric.distance(w, code.decode()) < 0.9 * metric.distance(w, start.decode())
    assert isinstance(code, BoxSparseCode)
    assert torch.equal(code.support, code.box.spread(code.box.any(code.support), (6, 150)))
    assert torch.equal(code.decode() != 0, code.support)


def test_what_lies_across_all_columns_is_not_swept() -> None:
    metric = Full(moment(150))
    for structure in (Filters(), Kernels(), Blocks(1, 200)):
        with pytest.raises(SchemeError, match="Blocks"):
            ColumnSweep().project(GroupSparse(Fraction(0.5), structure=structure), torch.randn(6, 150), metric)
    with pytest.raises(SchemeError, match="at most"):
        ColumnSweep().project(GroupSparse(NToM(1, 40), structure=Blocks(1, 8)), torch.randn(6, 150), metric)
    with pytest.raises(SchemeError, match="NToM"):
        ColumnSweep().project(Sparse(PermutedNToM(2, 4)), torch.randn(6, 150), metric)


def test_of_uncorrelated_inputs_nothing_is_swept() -> None:
    """An embedding's rows: the scheme's own projection is what the sweep would end with."""
    w = torch.randn(30, 6)
    metric = Full(torch.eye(6, dtype=torch.float64) * 2, torch.rand(30, dtype=torch.float64) + 0.1)
    scheme = Uniform(3, granularity=PerChannel())
    found = ColumnSweep().project(scheme, w, metric).decode()
    correlated = Full(metric.hessian + 1e-9, metric.rows)
    assert torch.equal(found, scheme.project(w).decode())
    assert torch.equal(found, ColumnSweep().project(scheme, w, correlated).decode())
