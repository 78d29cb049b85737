"""Entropy-constrained codes: against all partitions, and against every other code of the same entropy that is tried."""

from collections.abc import Iterator
from math import log, pi

import pytest
import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Diagonal, Metric
from featherweight.core.rate import Rate
from featherweight.schemes import entropy as module
from featherweight.schemes.codebook import Codebook, Lloyd, Optimal
from featherweight.schemes.entropy import Cells, EntropyConstrained, MeanBits, Multiplier, entropy
from featherweight.schemes.kmeans import lloyd, optimal, spread


def draw(seed: int, count: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def importance(seed: int, count: int) -> Tensor:
    return draw(seed + 100, count).square() * (draw(seed + 200, count) > -1)


def error(x: Tensor, d: Tensor, cells: Tensor) -> float:
    """The weighted squared error of cells with their own best centroids."""
    total = 0.0
    for cell in cells.unique():
        values, mass = x[cells == cell], d[cells == cell]
        if float(mass.sum()) > 0:
            total += float((mass * (values - (mass * values).sum() / mass.sum()).square()).sum())
    return total


def bits(cells: Tensor) -> float:
    shares = cells.flatten().unique(return_counts=True)[1].double() / cells.numel()
    return float(-(shares * shares.log2()).sum())


def partitions(count: int) -> Iterator[list[int]]:
    """Every partition once: an entry joins a cell that is there, or founds the next."""
    if count == 0:
        yield []
        return
    for cells in partitions(count - 1):
        yield from ([*cells, cell] for cell in range(max(cells, default=-1) + 2))


@pytest.mark.parametrize("price", [0.0, 0.02, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_all_partitions(seed: int, price: float) -> None:
    """Of all, not only of those into intervals; some entries are equal in half of the cases."""
    x = draw(seed, 7).mul(2).round().div(2) if seed % 2 else draw(seed, 7)
    one = torch.ones(7, dtype=torch.float64)
    best = min(error(x, one, cells) + price * 7 * bits(cells) for cells in map(torch.tensor, partitions(7)))
    cells = EntropyConstrained(Multiplier(price)).project(x).indices
    found = error(x, one, cells) + price * 7 * bits(cells)
    assert found == pytest.approx(best, abs=1e-9)


def family(x: Tensor, d: Tensor, own: list[Tensor]) -> Iterator[Tensor]:
    """Cells: of uniform grids, of codebooks by k-means, and the scheme's own with entries that changed their cell."""
    for width in torch.logspace(-0.8, 0.8, 22, dtype=torch.float64):
        for phase in (0.0, 0.25, 0.5):
            yield (x / width + phase).round().unique(return_inverse=True)[1]
    metric = Diagonal(d)
    for size in range(2, 14):
        yield Codebook(size, Optimal()).project(x, metric).indices
        yield Codebook(size, Lloyd()).project(x).indices
    generator = torch.Generator().manual_seed(1)
    for cells in own:
        for share in (0.01, 0.05):
            moved = torch.rand(x.shape, generator=generator) < share
            others = torch.randint(int(cells.max()) + 1, x.shape, generator=generator)
            neighbours = (cells + torch.randint(-1, 2, x.shape, generator=generator)).clamp(0, int(cells.max()))
            yield torch.where(moved, others, cells)
            yield torch.where(moved, neighbours, cells)


PRICES = [0.003, 0.006, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.3, 0.5]


@pytest.mark.parametrize("weighted", [False, True])
def test_no_member_of_a_sampled_family_lies_under_the_curve(weighted: bool) -> None:
    """At every λ no member has a smaller error + λ bits: all lie above the curve's supporting lines."""
    x = draw(6, 300)
    d = importance(6, 300) if weighted else torch.ones(300, dtype=torch.float64)
    metric: Metric = Diagonal(d) if weighted else EUCLIDEAN
    own = [EntropyConstrained(Multiplier(price)).project(x, metric).indices for price in PRICES]
    rates, errors = [bits(cells) for cells in own], [error(x, d, cells) for cells in own]
    assert rates == sorted(rates, reverse=True) and errors == sorted(errors)
    members = [(error(x, d, cells), bits(cells)) for cells in family(x, d, own)]
    for price, least, rate in zip(PRICES, errors, rates, strict=True):
        assert min(e + 300 * price * b for e, b in members) >= (least + 300 * price * rate) * (1 - 1e-6)


def test_weights_decide_the_centroids() -> None:
    """``c = Σ h w / Σ h`` of a cell or a bin, as nearly as float16 holds it."""
    x, h = draw(1, 500), importance(1, 500)
    code = EntropyConstrained(Multiplier(0.03)).project(x, Diagonal(h))
    close(code.centroids.decode(), means(x, h, code.indices))
    binned = EntropyConstrained(Multiplier(0.03), Cells.BINS).project(x, Diagonal(h))
    width = (6 * 0.03 / (log(2) * float(h.mean()))) ** 0.5
    centroids = means(x, h, (x / width).round())
    near = (x[:, None] - centroids).abs().argmin(1)
    close(binned.centroids.decode(), centroids[near.unique()])


def means(x: Tensor, h: Tensor, cells: Tensor) -> Tensor:
    return torch.stack([(h * x)[cells == k].sum() / h[cells == k].sum() for k in cells.unique()])


def close(stored: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(stored.double(), expected, rtol=2**-10, atol=1e-4)


@pytest.mark.parametrize("k", [2, 5, 16])
def test_hessian_weighted_k_means(k: int) -> None:
    """Choi, El-Khamy and Lee 2016, equation 9: centroids are ``Σ h w / Σ h`` of the entries nearest to them."""
    x, h = draw(2, 300), importance(2, 300)
    local, best = lloyd(x, h, spread(x.min(), x.max(), k), 1000), optimal(x, h, k)
    for centroids in (local, best):
        near = (x[:, None] - centroids).abs().argmin(1)
        used = near.unique()
        mass = torch.zeros(len(centroids), dtype=torch.float64).index_add(0, near, h)[used]
        torch.testing.assert_close(centroids[used][mass > 0], means(x, h, near)[mass > 0], rtol=1e-9, atol=1e-9)
    for fit, centroids in ((Lloyd(iterations=1000), local), (Optimal(), best)):
        code = Codebook(k, fit).project(x, Diagonal(h))
        close(code.centroids.decode(), centroids[(x[:, None] - centroids).abs().argmin(1).unique()])
        plain = Codebook(k, fit).project(x)
        assert Diagonal(h).distance(x, code.decode()) < Diagonal(h).distance(x, plain.decode())


def test_bins_have_the_width_of_high_rate_theory() -> None:
    """At small λ the error is ``Δ²/12`` and the rate ``h − log₂ Δ`` (Gish and Pierce 1968), for a Gaussian."""
    x, price = draw(3, 20_000), 1e-3
    code = EntropyConstrained(Multiplier(price), Cells.BINS).project(x)
    width = (6 * price / log(2)) ** 0.5
    assert float(EUCLIDEAN.distance(x, code.decode())) / 20_000 == pytest.approx(width**2 / 12, rel=0.03)
    expected = 0.5 * torch.log2(torch.tensor(2 * pi * 2.718281828)) - torch.log2(torch.tensor(width))
    assert entropy(code.indices) == pytest.approx(float(expected), abs=0.02)
    iterated = EntropyConstrained(Multiplier(price)).project(x)
    assert entropy(iterated.indices) == pytest.approx(entropy(code.indices), abs=0.1)


@pytest.mark.parametrize("cells", Cells)
@pytest.mark.parametrize("mean", [0.0, 0.4, 1.0, 2.3])
def test_a_mean_of_bits_is_met_and_used(cells: Cells, mean: float) -> None:
    x = draw(4, 3000)
    code = EntropyConstrained(MeanBits(mean), cells).project(x)
    assert entropy(code.indices) <= mean
    if cells is Cells.ITERATED:
        assert entropy(code.indices) >= mean - 0.05
    assert set(code.indices.unique().tolist()) == set(range(code.size))


def test_more_entries_than_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grouping entries for the first cells costs next to nothing once Lloyd's iteration is done."""
    x = draw(5, 900)
    exact = EntropyConstrained(Multiplier(0.03)).project(x)
    monkeypatch.setattr(module, "EDGES", 100)
    coarse = EntropyConstrained(Multiplier(0.03)).project(x)
    one = torch.ones_like(x)
    sums = [error(x, one, code.indices) + 0.03 * 900 * bits(code.indices) for code in (exact, coarse)]
    assert sums[0] <= sums[1] <= 1.01 * sums[0]


def test_what_cannot_be() -> None:
    with pytest.raises(SchemeError, match="λ = -1"):
        Multiplier(-1.0)
    with pytest.raises(SchemeError, match="not in 0..32"):
        MeanBits(-0.5)
    with pytest.raises(SchemeError, match="bins of no width"):
        EntropyConstrained(Multiplier(0), Cells.BINS)
    with pytest.raises(SchemeError, match="a rate of its own"):
        EntropyConstrained(Multiplier(0.1)).project(draw(0, 5), rate=Rate(0.1, torch.zeros(3)))
