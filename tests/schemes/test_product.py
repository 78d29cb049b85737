"""Product quantization: against brute force, and what its parts promise of k-means."""

import itertools

import pytest
import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Diagonal
from featherweight.schemes.codebook import Codebook, Optimal
from featherweight.schemes.product import Product, joined, subvectors
from featherweight.schemes.vectors import lloyd_vectors, nearest_vectors, plus_plus


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(x: Tensor, d: Tensor, centroids: Tensor) -> float:
    return float((d[:, None] * (x[:, None] - centroids).square()).sum(2).min(1).values.sum())


def best_of_two(x: Tensor, d: Tensor) -> float:
    """The least weighted error of two clusters, over all ways to part the vectors."""
    least = float("inf")
    for side in itertools.product((False, True), repeat=len(x) - 1):
        chosen = torch.tensor((False, *side))
        total = 0.0
        for cell in (chosen, ~chosen):
            if bool(cell.any()):
                mean = (d[cell] * x[cell]).sum(0) / d[cell].sum(0)
                total += float((d[cell] * (x[cell] - mean).square()).sum())
        least = min(least, total)
    return least


@pytest.mark.parametrize("weighed", [False, True])
def test_near_the_best_of_all_partitions(weighed: bool) -> None:
    """Over seeds, the best start finds the best partition of eight vectors in each of two sub-spaces."""
    w = draw(8, 6)
    d = draw(8, 6, seed=1).square() + 0.1 if weighed else torch.ones(8, 6, dtype=torch.float64)
    metric = Diagonal(d) if weighed else EUCLIDEAN
    found = min(float(metric.distance(w, Product(3, 2, seed=seed).project(w, metric).decode())) for seed in range(12))
    least = best_of_two(w[:, :3], d[:, :3]) + best_of_two(w[:, 3:], d[:, 3:])
    assert least - 1e-9 <= found <= 1.01 * least  # centroids are rounded to float16


def test_a_sub_space_of_one_entry_is_a_codebook() -> None:
    w = draw(40, 1)
    ours = min(float((w - Product(1, 4, seed=seed).project(w).decode()).square().sum()) for seed in range(10))
    assert ours == pytest.approx(float((w - Codebook(4, Optimal()).project(w).decode()).square().sum()), rel=0.02)


@pytest.mark.parametrize(
    "shape, dimension, length", [((4, 7), 1, 3), ((4, 7), 0, 3), ((5, 6, 3, 3), 1, 4), ((9,), 0, 2)]
)
def test_sub_vectors_are_joined_again(shape: tuple[int, ...], dimension: int, length: int) -> None:
    w = draw(*shape)
    vectors = subvectors(w, dimension, length)
    assert vectors.shape == (w.numel() // shape[dimension], -(-shape[dimension] // length), length)
    assert torch.equal(joined(vectors, shape, dimension), w)
    flat = w.movedim(dimension, -1).reshape(-1, shape[dimension])
    assert torch.equal(vectors[-1, 0], flat[-1, :length])


def test_a_kernel_position_is_a_vector_of_its_own() -> None:
    """Along a convolution's inputs: weights of one position and output, consecutive inputs."""
    code = Product(2, 64).project(draw(8, 4, 3, 3).float())
    assert code.indices.shape == (8, 2, 3, 3) and code.codebooks.shape == (2, 64, 2)
    vector = code.codebooks.decode()[1, code.indices[5, 1, 0, 2]]
    assert torch.equal(code.decode()[5, 2:, 0, 2], vector)


def test_lloyd_never_raises_the_error_and_leaves_no_cluster_empty() -> None:
    x, d = draw(60, 3), draw(60, 3, seed=1).square() + 0.01
    start = torch.cat([x[:2], x[:1].repeat(6, 1)])  # six centroids at one place: five of them own nothing
    errors = [error(x, d, lloyd_vectors(x, d, start, rounds)) for rounds in range(0, 12)]
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(errors))
    owners = nearest_vectors(x, d, lloyd_vectors(x, d, start, 50))
    assert len(owners.unique()) == 8


def test_plus_plus_draws_far_ones() -> None:
    """Three tight groups far apart: a centroid each, whatever the seed; evenly drawn ones miss one in most cases."""
    x = (torch.arange(3, dtype=torch.float64).repeat_interleave(50)[:, None] * 100 + draw(150, 2)).contiguous()
    for seed in range(20):
        chosen = plus_plus(x, None, 3, torch.Generator().manual_seed(seed))
        assert sorted((chosen[:, 0] / 100).round().tolist()) == [0, 1, 2]


def test_one_codebook_for_all_is_smaller_and_farther() -> None:
    w = draw(64, 32).float()
    apart, shared = Product(4, 8).project(w), Product(4, 8, shared=True).project(w)
    assert apart.codebooks.shape == (8, 8, 4) and shared.codebooks.shape == (1, 8, 4)
    assert (w - apart.decode()).square().sum() < (w - shared.decode()).square().sum()


def test_an_entry_that_weighs_more_is_nearer() -> None:
    w = draw(200, 4).float()
    d = torch.tensor([100.0, 1, 1, 1]).expand(200, 4)
    moved = [(w - Product(4, 8).project(w, metric).decode()).square().mean(0) for metric in (EUCLIDEAN, Diagonal(d))]
    assert moved[1][0] < 0.3 * moved[0][0] and moved[1][1:].mean() > moved[0][1:].mean()


@pytest.mark.parametrize(
    "settings", [{"length": 0}, {"size": 0}, {"size": 5000}, {"dimension": -1}, {"iterations": -1}]
)
def test_settings_out_of_range(settings: dict[str, int]) -> None:
    with pytest.raises(SchemeError):
        Product(**settings)


def test_a_warm_start_of_another_kind() -> None:
    with pytest.raises(SchemeError, match="product code, not CodebookCode"):
        Product().project(draw(4, 8), warm=Codebook(4).project(draw(4, 8)))
