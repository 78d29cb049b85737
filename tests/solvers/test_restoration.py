"""Restoration: which entries come back, and that survivors are the least squares of the outputs."""

import pytest
import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN
from featherweight.metrics.responses import Responses
from featherweight.schemes.sparse import Fraction, RowFraction, Sparse
from featherweight.schemes.uniform import PerTensor, Uniform
from featherweight.solvers.restoration import Restoration, fit


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def responses(x: Tensor, y: Tensor) -> Responses:
    return Responses(x.double().T @ x.double() / len(x), inputs=x, outputs=y, bias=torch.zeros(y.shape[1]))


def test_what_is_missed_most_comes_back_though_it_is_small() -> None:
    """A small weight on a large input; magnitude would keep the large weights on inputs of nothing."""
    x = draw(200, 6) * torch.tensor([1.0, 1.0, 0.01, 0.01, 50.0, 0.01])
    w = torch.tensor([[3.0, 2.0, 1.5, 1.4, 0.5, 1.0]])
    metric = responses(x, x @ w.T)
    by_size, by_error = (Restoration(share).support(w, metric, torch.tensor([3])) for share in (0.0, 0.34))
    assert by_size.tolist() == [[True, True, True, False, False, False]]
    assert by_error.tolist() == [[True, True, False, False, True, False]]


def test_it_comes_back_by_the_greatest_fall_of_the_sum_of_magnitudes() -> None:
    """Against trying every single entry, one round at a time."""
    x, w = draw(100, 9) + draw(100, 1, seed=1), draw(4, 9, seed=2)
    metric, counts = responses(x, x @ w.T), torch.tensor([5, 5, 4, 3])
    support = Restoration(0.6, rounds=9).support(w, metric, counts)
    for row, count in enumerate(counts.tolist()):
        kept = set(w[row].abs().topk(count - round(0.6 * count)).indices.tolist())
        while len(kept) < count:

            def left(j: int, kept: set[int] = kept, row: int = row) -> float:
                mask = torch.tensor([at in kept or at == j for at in range(9)])
                return float((x @ (w[row] * ~mask)).abs().sum())

            kept.add(min(set(range(9)) - kept, key=left))
        assert set(support[row].nonzero().flatten().tolist()) == kept


def test_survivors_are_the_least_squares_of_the_outputs() -> None:
    x, w, y = draw(80, 7), draw(3, 7, seed=1), draw(80, 3, seed=2)
    support = draw(3, 7, seed=3) > -0.3
    fitted = fit(w, support, responses(x, y), 1e-12)
    for row in range(3):
        at = support[row]
        expected = torch.linalg.lstsq(x[:, at].double(), y[:, row : row + 1].double()).solution[:, 0]
        torch.testing.assert_close(fitted[row, at], expected, rtol=1e-6, atol=1e-8)
    assert not bool(fitted[~support].any())


@pytest.mark.parametrize("amount", [Fraction(0.6), RowFraction(0.6)])
def test_outputs_are_nearer_than_by_magnitude_at_as_many_entries_in_every_row(amount: Fraction | RowFraction) -> None:
    x = (draw(300, 3) @ draw(3, 20, seed=1) + 0.5 * draw(300, 20, seed=2)).relu()
    w = draw(8, 20, seed=3)
    metric, scheme = responses(x, x @ w.T), Sparse(amount)
    plain, ours = scheme.project(w, EUCLIDEAN), Restoration().project(scheme, w, metric)
    assert torch.equal((plain.decode() != 0).sum(1), (ours.decode() != 0).sum(1))
    assert float(metric.error(ours.decode())) < 0.3 * float(metric.error(plain.decode()))


def test_survivors_are_stored_by_their_own_scheme_and_shapes_are_kept() -> None:
    x, w = draw(50, 18), draw(4, 2, 3, 3, seed=1)
    scheme = Sparse(Fraction(0.5), Uniform(4, PerTensor()))
    code = Restoration().project(scheme, w, responses(x, x @ w.flatten(1).T))
    assert code.decode().shape == w.shape and len(code.decode().unique()) <= 16


def test_refusals() -> None:
    w = draw(3, 4)
    with pytest.raises(SchemeError, match="LayerResponses"):
        Restoration().project(Sparse(Fraction(0.5)), w, EUCLIDEAN)
    with pytest.raises(SchemeError, match="sparse"):
        Restoration().project(Uniform(4, PerTensor()), w, responses(draw(5, 4), draw(5, 3)))
    for settings in ({"restored": 1.5}, {"rounds": 0}, {"damping": 0.0}):
        with pytest.raises(SchemeError):
            Restoration(**settings)
