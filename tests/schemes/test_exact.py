"""Exact projections against brute force on cases small enough for it, and rates against their objective."""

from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Diagonal, Full
from featherweight.core.rate import Rate, bits_of
from featherweight.schemes.codebook import Codebook, CodebookCode, Lloyd, Optimal, Start, Unbiased
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.kmeans import lloyd, optimal, spread, unbiased
from featherweight.schemes.lowrank import LowRank, LowRankCode, Price, Rank
from featherweight.schemes.sparse import Deviations, Fraction, Magnitude, Scope, Sparse, SparseCode
from featherweight.schemes.uniform import Fit, PerChannel, PerGroup, PerTensor, Uniform, UniformCode, blocks, unblocked

SEEDS = range(6)


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def weights(seed: int, count: int) -> Tensor:
    return draw(seed + 100, count).square() * (draw(seed + 200, count) > -1)


def clustered(x: Tensor, d: Tensor, labels: list[int]) -> float:
    """The error of these clusters with their best centroids."""
    error = 0.0
    at = torch.tensor(labels)
    for label in set(labels):
        values, mass = x[at == label], d[at == label]
        if float(mass.sum()) > 0:
            error += float((mass * (values - (mass * values).sum() / mass.sum()).square()).sum())
    return error


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_k_means_by_dynamic_programming_is_the_best_of_all_clusterings(seed: int, k: int, weighted: bool) -> None:
    """Of all, not only of those into intervals."""
    x = draw(seed, 7).mul(4).round().div(4) if seed % 2 else draw(seed, 7)
    d = weights(seed, 7) if weighted else torch.ones(7, dtype=torch.float64)
    best = min(clustered(x, d, list(labels)) for labels in product(range(k), repeat=7))
    found = optimal(x, d if weighted else None, k)
    assert len(found) <= k
    error = float((d * (x[:, None] - found).square().amin(1)).sum())
    assert error == pytest.approx(best, abs=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_k_means_by_dynamic_programming_is_the_best_of_all_intervals(seed: int) -> None:
    """Larger, far from zero, in a heavy-tailed metric."""
    x = (draw(seed, 14) + 1e3).sort().values
    d = weights(seed, 14) ** 2
    edges = ([0, *cut, 14] for cut in combinations(range(1, 14), 3))
    labelled = ([label for label in range(4) for _ in range(edge[label], edge[label + 1])] for edge in edges)
    best = min(clustered(x, d, labels) for labels in labelled)
    found = optimal(x, d, 4)
    assert float((d * (x[:, None] - found).square().amin(1)).sum()) == pytest.approx(best, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("start", Start)
@pytest.mark.parametrize("seed", SEEDS)
def test_lloyd_ends_between_its_start_and_the_optimum(seed: int, start: Start) -> None:
    w = draw(seed, 200, dtype=torch.float32)
    local = Codebook(6, Lloyd(start, seed=seed)).project(w)
    best = Codebook(6, Optimal()).project(w)
    one = Codebook(6, Lloyd(start, iterations=1, seed=seed)).project(w)
    errors = [float(EUCLIDEAN.distance(w, code.decode())) for code in (best, local, one)]
    assert errors[0] <= errors[1] * (1 + 1e-3) and errors[1] <= errors[2] * (1 + 1e-3)


def test_lloyd_is_the_textbook_iteration() -> None:
    x, d = draw(1, 50), weights(1, 50)
    centroids = spread(x.min(), x.max(), 5)
    torch.testing.assert_close(centroids, torch.linspace(float(x.min()), float(x.max()), 5, dtype=torch.float64))
    for _ in range(100):
        nearest = (x[:, None] - centroids).abs().argmin(1)
        means = [(d * x)[nearest == k].sum() / d[nearest == k].sum() if d[nearest == k].sum() > 0 else centroids[k]
                 for k in range(5)]  # fmt: skip
        centroids = torch.stack(means).sort().values
    torch.testing.assert_close(lloyd(x, d, spread(x.min(), x.max(), 5), 100), centroids)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("seed", SEEDS)
def test_sparse_keeps_the_best_of_all_supports(seed: int, share: float, weighted: bool) -> None:
    w, d = draw(seed, 3, 3), weights(seed, 9).reshape(3, 3)
    metric = Diagonal(d) if weighted else EUCLIDEAN
    code = Sparse(Fraction(share)).project(w, metric)
    kept = 9 - round(share * 9)
    supports = (torch.tensor([i in at for i in range(9)]).reshape(3, 3) for at in combinations(range(9), kept))
    best = min(float(metric.distance(w, w * support)) for support in supports)
    assert float(metric.distance(w, code.decode())) == pytest.approx(best, abs=1e-12)
    assert int(code.support.sum()) <= kept


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_metric_of_any_size_does_not_underflow(dtype: torch.dtype) -> None:
    """``√d |w|`` is compared exactly: in the weight's own type these would all be zero, or infinite."""
    w = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=dtype)
    for scale in (1e-38, 1e30):
        code = Sparse(Fraction(0.5)).project(w, Diagonal(torch.tensor([9.0, 1.0, 0.5, 0.2]) * scale))
        assert code.support.tolist() == [True, False, True, False]


def test_a_global_share_is_one_threshold() -> None:
    scheme = Sparse(Fraction(0.6), scope=Scope.GLOBAL)
    given = {"a": draw(1, 4, 5), "b": 10 * draw(2, 30), "c": 1e-3 * draw(3, 5, 5)}
    metrics = {"a": EUCLIDEAN, "b": EUCLIDEAN, "c": Diagonal(torch.ones(5, 5))}
    codes = scheme.project_all(given, metrics)
    everything = torch.cat([w.flatten().abs() for w in given.values()])
    threshold = everything.sort(descending=True).values[75 - round(0.6 * 75) - 1]
    for name in ("a", "b"):
        assert torch.equal(codes[name].support, given[name].abs() >= threshold)
    assert int(codes["c"].support.sum()) == 1  # never empty: the largest stays


@pytest.mark.parametrize(
    "amount, expected",
    [
        (Magnitude(0.5), [0, 1, 1, 0]),
        (Magnitude(), [1, 1, 1, 0]),
        (Deviations(1.0), [0, 0, 1, 0]),
        (Magnitude(9.0), [0, 0, 1, 0]),
    ],
)
def test_thresholds(amount: Magnitude | Deviations, expected: list[int]) -> None:
    """The root mean square of these is 1.58; one entry always stays."""
    assert Sparse(amount).project(torch.tensor([0.5, -1.0, 3.0, 0.0])).support.tolist() == [
        bool(each) for each in expected
    ]


@pytest.mark.parametrize("target, share", [(0.5, 0.45), (1.0, 0.9)])
def test_a_share_of_the_effect(target: float, share: float) -> None:
    assert Sparse(Fraction(0.9)).at(target) == Sparse(Fraction(share))
    assert Sparse(Magnitude(0.9)).at(target) == Sparse(Magnitude(share))
    with pytest.raises(SchemeError, match="no gradual form"):
        Uniform().at(0.5)


def test_what_a_value_scheme_rounds_to_zero_leaves_the_support() -> None:
    w = torch.tensor([1.0, 0.9, 1e-3, -1.0, 0.0])
    code = Sparse(Magnitude()).then(Uniform(2)).project(w)
    assert isinstance(code, SparseCode) and code.support.tolist() == [True, True, False, True, False]


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 9])
def test_truncated_svd_is_the_best_of_its_rank(rank: int) -> None:
    """The error is the root sum of the squared singular values left out; no gradient step from there improves it."""
    w = draw(0, 4, 2, 3)
    code = LowRank(Rank(rank)).project(w)
    assert isinstance(code, LowRankCode)
    values = torch.linalg.svdvals(w.flatten(1))
    assert float(EUCLIDEAN.distance(w, code.decode())) == pytest.approx(
        float(values[rank:].square().sum()), rel=1e-9, abs=1e-12
    )
    assert code.rank == min(rank, 4)
    balanced = code.left.decode().T @ code.left.decode() - code.right.decode() @ code.right.decode().T
    torch.testing.assert_close(balanced, torch.zeros_like(balanced), atol=1e-12, rtol=0)


@pytest.mark.parametrize("price", [1e-6, 0.05, 0.3, 1.0, 100.0])
def test_a_priced_rank_is_the_best_of_all_ranks(price: float) -> None:
    w = draw(1, 6, 5)
    code = LowRank(Price(price)).project(w)
    costs = [
        float(EUCLIDEAN.distance(w, LowRank(Rank(rank)).project(w).decode())) + price * rank * 11
        for rank in range(1, 6)
    ]
    assert code.rank == 1 + costs.index(min(costs))


@pytest.mark.parametrize("width", [Width.FLOAT16, Width.BFLOAT16, Width.FLOAT32])
def test_floats_are_rounded_to_nearest(width: Width) -> None:
    """No number of the format is nearer: neither neighbour."""
    w = draw(2, 100) * torch.logspace(-3, 3, 100, dtype=torch.float64)
    stored = Float(width).project(w).decode()
    narrow = stored.to(width.dtype)
    assert torch.equal(narrow.double(), stored)
    for direction in (-torch.inf, torch.inf):
        neighbour = torch.nextafter(narrow, torch.full_like(narrow, direction)).double()
        assert bool(((stored - w).abs() <= (neighbour - w).abs()).all())


RATED = [Uniform(3), Uniform(2, False, PerChannel()), Uniform(1), Codebook(5), Codebook(4, Optimal())]


@pytest.mark.parametrize("scheme", RATED, ids=str)
@pytest.mark.parametrize("price", [0.0, 0.02, 1e6])
@pytest.mark.parametrize("weighted", [False, True])
def test_with_a_rate_every_symbol_is_the_best_of_all(scheme: Uniform | Codebook, price: float, weighted: bool) -> None:
    """``d (w − ŵ)² + λ bits`` of each entry, against every other symbol under the same table and the same numbers."""
    w = draw(3, 4, 10, dtype=torch.float32)
    d = weights(3, 40).reshape(4, 10).float() if weighted else torch.ones(4, 10)
    metric = Diagonal(d) if weighted else EUCLIDEAN
    cold = scheme.project(w, metric)
    alphabet = cold.grid.alphabet if isinstance(cold, UniformCode) else cold.size
    bits = bits_of(
        torch.randint(alphabet, (50,), generator=torch.Generator().manual_seed(1)).square() % alphabet, alphabet
    )
    code = scheme.project(w, metric, warm=cold, rate=Rate(price, bits))

    def cost(symbols: Tensor) -> Tensor:
        decoded = _with_symbols(code, symbols).decode()
        return d * (w - decoded).square() + price * bits[symbols.long()].float()

    taken = cost(_symbols(code))
    for symbol in range(alphabet):
        assert bool((taken <= cost(torch.full((4, 10), symbol)) * (1 + 1e-6) + 1e-5).all())
    if price == 0 and not weighted:
        torch.testing.assert_close(code.decode(), cold.decode())
    if price == 1e6:
        assert bool((_symbols(code) == bits.argmin()).all())


def _symbols(code: UniformCode | CodebookCode) -> Tensor:
    if isinstance(code, CodebookCode):
        return code.indices
    return (code.levels - code.grid.low) // code.grid.step


def _with_symbols(code: UniformCode | CodebookCode, symbols: Tensor) -> UniformCode | CodebookCode:
    if isinstance(code, CodebookCode):
        return code.with_tensors({"indices": symbols.to(torch.int32)})
    return code.with_tensors({"levels": (symbols * code.grid.step + code.grid.low).to(torch.int16)})


def test_a_rate_must_fit_the_alphabet() -> None:
    for scheme in RATED:
        with pytest.raises(SchemeError, match="the rate has 99 symbols"):
            scheme.project(draw(0, 4, 10), rate=Rate(0.1, torch.zeros(99)))
    with pytest.raises(SchemeError, match="λ ≥ 0"):
        Rate(-1.0, torch.zeros(3))


def test_bits_of_a_symbol() -> None:
    """Krichevsky and Trofimov 1981: each count raised by one half."""
    counts = torch.tensor([3.0, 1.0, 0.0]) + 0.5
    torch.testing.assert_close(bits_of(torch.tensor([[0, 0], [1, 0]]), 3), -(counts / 5.5).log2().double())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_searched_scale_is_the_best_of_its_shares(seed: int) -> None:
    w, d = draw(seed, 3, 16, dtype=torch.float32), weights(seed, 48).reshape(3, 16).float()
    code = Uniform(3, True, PerChannel(), Fit.SEARCH).project(w, Diagonal(d))
    for row in range(3):
        widest = float(w[row].abs().max()) / 3
        errors = []
        for percent in range(21, 101):
            scale = torch.tensor(widest * percent / 100).half().float()
            errors.append(float((d[row] * ((w[row] / scale).round().clamp(-3, 3) * scale - w[row]).square()).sum()))
        error = float((d[row] * (code.decode()[row] - w[row]).square()).sum())
        assert error == pytest.approx(min(errors), rel=2e-2)


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(0), PerChannel(2), PerGroup(2), PerGroup(6)], ids=str)
def test_blocks(granularity: PerTensor | PerChannel | PerGroup) -> None:
    w = draw(0, 2, 3, 4)
    matrix = blocks(w, granularity)
    assert torch.equal(unblocked(matrix, (2, 3, 4), granularity), w)
    match granularity:
        case PerChannel(axis):
            assert all(torch.equal(matrix[i], w.select(axis, i).flatten()) for i in range(w.shape[axis]))
        case PerGroup(size):
            assert torch.equal(matrix, w.reshape(-1, size))
        case _:
            assert torch.equal(matrix, w.reshape(1, 24))


def test_zero_is_a_level_of_every_wider_grid() -> None:
    """So that what is pruned stays zero under quantization."""
    w = draw(4, 6, 8, dtype=torch.float32)
    w[:, ::2] = 0
    for bits in range(2, 9):
        for symmetric in (True, False):
            decoded = Uniform(bits, symmetric, PerChannel()).project(w).decode()
            assert bool((decoded[:, ::2] == 0).all())


def test_metrics_against_their_formulas() -> None:
    w, v, d = draw(0, 3, 4), draw(1, 3, 4), draw(2, 3, 4).square()
    x = draw(3, 50, 4)
    full = Full(x.T @ x / 50)
    torch.testing.assert_close(EUCLIDEAN.distance(w, v), (w - v).square().sum())
    torch.testing.assert_close(Diagonal(d).distance(w, v), (d * (w - v).square()).sum())
    torch.testing.assert_close(full.distance(w, v), (x @ (w - v).T).square().sum(1).mean())
    torch.testing.assert_close(full.weights(w), x.square().mean(0).expand(3, 4))
    with pytest.raises(SchemeError, match="diagonal is .3, 4., the tensor .2, 4."):
        Diagonal(d).weights(w[:2])
    with pytest.raises(SchemeError, match="finite and non-negative"):
        Diagonal(-d)


@pytest.mark.parametrize("inner", [Codebook(2, Optimal()), Codebook(3), Uniform(3, fit=Fit.SEARCH)], ids=str)
def test_survivors_are_projected_in_their_own_part_of_the_metric(inner: Uniform | Codebook) -> None:
    w, d = draw(5, 4, 5), weights(5, 20).reshape(4, 5)
    code = Sparse(Fraction(0.4)).then(inner).project(w, Diagonal(d))
    alone = inner.project(w[code.support], Diagonal(d[code.support]))
    assert torch.equal(code.values.decode(), alone.decode())
    assert not torch.equal(code.values.decode(), inner.project(w[code.support]).decode())


def variance(x: Tensor, d: Tensor, levels: Tensor) -> float:
    """``Σ d (u − x)(x − l)`` with the levels next to each entry."""
    above = torch.bucketize(x, levels[1:-1], right=True) + 1
    return float((d * (levels[above] - x) * (x - levels[above - 1])).sum())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", SEEDS)
def test_unbiased_levels_are_the_best_of_all(seed: int, k: int, weighted: bool) -> None:
    """Of all at entries by brute force, and of others that lie between."""
    x = (draw(seed, 9).mul(4).round().div(4) if seed % 2 else draw(seed, 9)) + 100 * (seed % 3)
    d = weights(seed, 9) if weighted else torch.ones(9, dtype=torch.float64)
    values = x.unique()
    ends, inner = values[[0, -1]], values[1:-1].tolist()
    candidates = [torch.cat([ends, torch.tensor(c, dtype=torch.float64)]).sort().values
                  for c in combinations(inner, min(k - 2, len(inner)))]  # fmt: skip
    found = unbiased(x, d if weighted else None, k)
    assert len(found) <= k
    assert variance(x, d, found) == pytest.approx(min(variance(x, d, each) for each in candidates), abs=1e-9)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(50):
        between = ends[0] + (ends[1] - ends[0]) * torch.rand(k - 2, generator=generator, dtype=torch.float64)
        assert variance(x, d, torch.cat([ends, between]).sort().values) >= variance(x, d, found) - 1e-9


def test_unbiased_levels_vary_less_than_a_uniform_grid_and_than_k_means() -> None:
    """At equal bits; the codebook has them as they are, but for float16."""
    w = draw(7, 3000)
    one = torch.ones_like(w)
    code = Codebook(8, Unbiased()).project(w)
    levels = unbiased(w, None, 8)
    torch.testing.assert_close(code.centroids.decode(), levels, rtol=2**-10, atol=0)
    ends = torch.stack([w.min(), w.max()])
    rivals = [spread(*ends, 8), torch.cat([ends, optimal(w, None, 8)[1:-1]]).sort().values]
    assert all(variance(w, one, levels) < 0.9 * variance(w, one, rival) for rival in rivals)
    with pytest.raises(SchemeError, match="two levels"):
        Codebook(1, Unbiased())
