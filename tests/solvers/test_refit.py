"""Refitted numbers are those of least squares, and never worse than the ones that they replace."""

import pytest
import torch
from torch import Tensor

from featherweight.core.code import Code, Role
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Diagonal, Full, Metric
from featherweight.core.scheme import Scheme
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.lowrank import LowRank
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.schemes.uniform import PerChannel, PerGroup, Uniform
from featherweight.solvers.refit import Refit, refit
from featherweight.solvers.sweep import ColumnSweep

SCHEMES: list[Scheme] = [
    Uniform(2),
    Uniform(3, granularity=PerChannel()),
    Uniform(3, granularity=PerChannel(1)),
    Uniform(4, symmetric=False, granularity=PerGroup(5)),
    Codebook(5),
    Sparse(Fraction(0.6)),
    Sparse(Fraction(0.5), Codebook(4)),
]


def correlated(columns: int) -> Tensor:
    x = torch.randn(200, columns, dtype=torch.float64)
    x = x + x[:, :1]
    return x.T @ x / len(x)


def metrics(rows: int, columns: int) -> list[Metric]:
    return [
        Full(correlated(columns)),
        Full(torch.stack([correlated(columns), correlated(columns)]), torch.rand(rows) + 0.1),
        Diagonal(torch.rand(rows, columns)),
        EUCLIDEAN,
    ]


def matrix_of(metric: Metric, w: Tensor) -> Tensor:
    """``L`` [entries, entries] with ``‖v‖² = |L v|²``, by distances alone: the metric's matrix, factored."""
    eye = torch.eye(w.numel(), dtype=torch.float64).reshape(-1, *w.shape)
    zero = torch.zeros(w.shape, dtype=torch.float64)
    own = [float(metric.distance(e, zero)) for e in eye]
    both = [[float(metric.distance(e, -f)) for f in eye] for e in eye]
    m = torch.tensor(
        [[(both[i][j] - own[i] - own[j]) / 2 for j in range(len(eye))] for i in range(len(eye))], dtype=torch.float64
    )
    values, vectors = torch.linalg.eigh(m)
    return values.clamp(min=0).sqrt()[:, None] * vectors.T


def columns_of(code: Code) -> Tensor:
    """The matrix of the decoding, number by number."""
    paths = code.tensors(Role.DIRECT)
    found = []
    for path, tensor in paths.items():
        for i in range(tensor.numel()):
            numbers = {p: torch.zeros_like(t) for p, t in paths.items()}
            numbers[path].view(-1)[i] = 1.0
            found.append(code.with_tensors(numbers).decode().double().flatten())
    return torch.stack(found, 1)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("which", range(4))
def test_the_numbers_are_those_of_least_squares(scheme: Scheme, which: int) -> None:
    torch.manual_seed(which)
    w = torch.randn(4, 5)
    metric = metrics(4, 5)[which]
    code = scheme.project(w)
    factor, decoding = matrix_of(metric, w), columns_of(code)
    theta = torch.linalg.lstsq(factor @ decoding, factor @ w.double().flatten()[:, None], driver="gelsd").solution
    least = (factor @ (w.double().flatten()[:, None] - decoding @ theta)).square().sum()
    before = metric.distance(w, code.decode())
    after = metric.distance(w, refit(code, w, metric).decode())
    assert least * (1 - 1e-9) <= after <= before
    torch.testing.assert_close(after, least, rtol=1e-3, atol=1e-4 * float(before))  # numbers are stored in 16 bits


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_symbols_stay_and_numbers_are_of_their_width(scheme: Scheme) -> None:
    torch.manual_seed(0)
    w, metric = torch.randn(8, 10), Full(correlated(10))
    code, fitted = scheme.project(w), refit(scheme.project(w), w, metric)
    before, after = code.tensors(), fitted.tensors()
    direct = code.tensors(Role.DIRECT)
    assert all(torch.equal(before[path], after[path]) for path in before if path not in direct)
    assert torch.equal(fitted.stored().decode(), fitted.decode()) and fitted.dtype == code.dtype


def test_survivors_make_up_for_what_was_pruned() -> None:
    torch.manual_seed(0)
    w, metric = torch.randn(16, 20), Full(correlated(20))
    scheme = Sparse(Fraction(0.5))
    code = scheme.project(w)
    assert metric.distance(w, refit(code, w, metric).decode()) < 0.7 * metric.distance(w, code.decode())


def test_behind_the_sweep_it_is_never_worse() -> None:
    torch.manual_seed(0)
    w, metric = torch.randn(16, 20), Full(correlated(20))
    scheme = Uniform(3, granularity=PerChannel())
    swept = metric.distance(w, ColumnSweep().project(scheme, w, metric).decode())
    assert metric.distance(w, Refit(ColumnSweep()).project(scheme, w, metric).decode()) < swept
    alone = metric.distance(w, scheme.project(w, metric).decode())
    assert metric.distance(w, Refit().project(scheme, w, metric).decode()) <= alone


def test_what_has_no_least_squares() -> None:
    w = torch.randn(6, 6)
    with pytest.raises(SchemeError, match="linearly"):
        refit(LowRank(2).project(w), w, EUCLIDEAN)


def test_what_cannot_be_better_stays() -> None:
    w = torch.randn(3, 4)
    code = Float(Width.FLOAT16).project(w)
    assert refit(code, w, EUCLIDEAN) is code
