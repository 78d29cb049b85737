"""Which entries stay, against formulas written down a second time: hysteresis, chance, two halves."""

import pytest
import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Diagonal, Scores
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.sparse import (
    Dropping,
    Fraction,
    Gradient,
    Halves,
    NToM,
    RowFraction,
    Scope,
    Sparse,
    SparseCode,
    Surgery,
)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_surgery_prunes_below_splices_above_and_leaves_the_band() -> None:
    """Guo et al. 2016, equation 3, entry by entry."""
    scheme, w = Sparse(Surgery(0.3, margin=0.2), gradient=Gradient.DENSE), draw(0, 40, 10)
    first = scheme.project(w)
    moved = w + 0.3 * draw(1, 40, 10)
    code = scheme.advance({"w": moved}, {"w": EUCLIDEAN}, {"w": first})["w"]
    assert isinstance(code, SparseCode)
    sizes = moved.abs().double()
    t = float(sizes.mean() + 0.3 * (sizes - sizes.mean()).square().mean().sqrt())
    seen = set()
    for size, was, now in zip(sizes.flatten().tolist(), first.support.flatten(), code.support.flatten(), strict=True):
        band = "below" if size < 0.8 * t else "above" if size >= 1.2 * t else "between"
        assert bool(now) == {"below": False, "between": bool(was), "above": True}[band]
        seen.add((band, bool(was)))
    assert len(seen) == 6
    # Without a code in force all entries count as alive.
    assert torch.equal(scheme.project(moved).support, sizes >= 0.8 * t)


def test_a_threshold_below_zero_prunes_nothing() -> None:
    assert bool(Sparse(Surgery(-100.0)).project(draw(0, 30)).support.all())


def test_the_next_code_of_other_amounts_forgets_the_last() -> None:
    w, moved = draw(0, 30), draw(1, 30)
    for scheme in (Sparse(Fraction(0.5)), Sparse(Fraction(0.5), scope=Scope.GLOBAL), Sparse(Halves(0.5))):
        code = scheme.advance({"w": moved}, {"w": EUCLIDEAN}, {"w": scheme.project(w)})["w"]
        assert torch.equal(code.decode(), scheme.project(moved).decode())


def test_dropping_out_and_in() -> None:
    """Shares of what leaves and returns, within four deviations; the last target is certain."""
    w = draw(2, 100, 100)
    whole = Sparse(Dropping(0.8, p_out=0.7, p_in=0.3), gradient=Gradient.RESTING)
    before = whole.at(0.5).project(w)
    assert int((~before.support).sum()) == round(0.4 * w.numel())  # the first target is certain too
    torch.manual_seed(0)
    code = whole.at(0.75).advance({"w": w}, {"w": EUCLIDEAN}, {"w": before})["w"]
    assert isinstance(code, SparseCode)
    least = w.abs() < w.abs().flatten().sort().values[round(0.6 * w.numel())]
    candidates = least & before.support
    left, returned = candidates & ~code.support, ~before.support & code.support
    for event, among, chance in ((left, candidates, 1 - 0.3 * 0.25), (returned, ~before.support, 0.3 * 0.25)):
        count = int(among.sum())
        assert abs(int(event.sum()) - chance * count) < 4 * (chance * (1 - chance) * count) ** 0.5
    assert bool(code.support[~least].all())
    end = whole.at(1.0).advance({"w": w}, {"w": EUCLIDEAN}, {"w": code})["w"]
    assert torch.equal(end.decode(), Sparse(Fraction(0.8)).project(w).decode())


def test_what_rests_keeps_its_value() -> None:
    w = draw(3, 8, 8)
    resting, masked = (Sparse(Fraction(0.5), gradient=g) for g in (Gradient.RESTING, Gradient.MASKED))
    code = masked.project(w)
    assert torch.equal(resting.carried(w, code), w)
    assert torch.equal(masked.carried(w, code), w * code.support)
    assert torch.equal(resting.through(w, code), masked.through(w, code))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("high", [0.0, 0.75, 1.0])
def test_halves_of_each_sign(share: float, high: float) -> None:
    scores = draw(4, 30, 40)
    scores[:3] = 0
    support = Halves(share, high, seed=1).support(scores)
    assert int(support.sum()) == min(scores.numel() - round(share * scores.numel()), int((scores != 0).sum()))
    for side in (1, -1):
        ranked = (side * scores[side * scores > 0]).sort(descending=True).values
        kept = int((support & (side * scores > 0)).sum())
        assert abs(kept - int(support.sum()) * len(ranked) / int((scores != 0).sum())) <= 0.5
        middle = float(ranked[(len(ranked) + 1) // 2 - 1])
        upper = int((support & (side * scores >= middle)).sum())
        lower = int((support & (side * scores > 0) & (side * scores < middle)).sum())
        assert upper + lower == kept
        room = len(ranked) // 2
        assert upper == max(min(round(high * kept), len(ranked) - room), kept - room)
    assert not bool(support[:3].any())  # an entry of score zero never stays
    again = Halves(share, high, seed=2).support(scores)
    assert not torch.equal(support, again)


@pytest.mark.parametrize("shape", [(6, 8), (5, 7), (4, 3, 3, 3), (11,), ()], ids=str)
@pytest.mark.parametrize("n, m", [(2, 4), (1, 4), (3, 5), (2, 2)])
def test_the_most_important_of_every_run_stay(shape: tuple[int, ...], n: int, m: int) -> None:
    scores = draw(11, *shape).abs()
    support = NToM(n, m).support(scores)
    assert support.shape == scores.shape
    rows, kept = (each.reshape(shape[0] if len(shape) > 1 else 1, -1) for each in (scores, support))
    for row, stays in zip(rows.tolist(), kept.tolist(), strict=True):
        for first in range(0, len(row), m):
            run = row[first : first + m]
            wanted = set(sorted(range(len(run)), key=run.__getitem__)[-n:])
            assert {at for at, stay in enumerate(stays[first : first + m]) if stay} == wanted
    assert torch.equal(NToM(n, m).support(scores * support), support)


def test_runs_are_thinned_by_and_by() -> None:
    w = draw(12, 10, 16)
    kept = [int(NToM(2, 8).at(target).support(w.abs()).sum()) for target in (0.1, 0.5, 1.0)]
    assert kept == [7 * 20, 5 * 20, 2 * 20]
    assert int(NToM(2, 4).support(0 * w).sum()) == 0
    with pytest.raises(SchemeError, match="5 of 4"):
        NToM(5, 4)


@pytest.mark.parametrize("shape", [(6, 10), (3, 2, 5), (10,)], ids=str)
def test_every_row_loses_as_much(shape: tuple[int, ...]) -> None:
    scores = draw(13, *shape).abs() * torch.arange(1, shape[0] + 1).reshape(-1, *[1] * (len(shape) - 1))
    support = RowFraction(0.3).support(scores)
    rows, kept = (each.reshape(shape[0] if len(shape) > 1 else 1, -1) for each in (scores, support))
    assert kept.sum(1).tolist() == [7] * len(rows)
    for row, stays in zip(rows, kept, strict=True):
        assert float(row[stays].min()) > float(row[~stays].max())
    assert int(RowFraction(0.6).at(0.5).support(scores).sum()) == int(support.sum())


def test_scores_decide_which_and_nothing_else() -> None:
    w = draw(5, 6, 8)
    scores = draw(6, 6, 8)
    code = Sparse(Fraction(0.5)).project(w, Scores(scores))
    assert torch.equal(code.decode(), w * (scores > scores.flatten().sort().values[23]))
    # What the survivors become is as without scores.
    shared = Sparse(Fraction(0.5)).then(Codebook(3)).project(w, Scores(scores))
    alone = Codebook(3).project(w[code.support])
    assert torch.equal(shared.values.decode(), alone.decode())
    assert Scores(scores).distance(w, 0 * w) == EUCLIDEAN.distance(w, 0 * w)
    assert Scores(scores) != Scores(scores + 1)


def test_importances() -> None:
    w, d = draw(7, 5), draw(8, 5).abs()
    assert torch.equal(EUCLIDEAN.importance(w), w.abs())
    torch.testing.assert_close(Diagonal(d).importance(w).square(), (d * w.square()).double())
    with pytest.raises(SchemeError, match="the scores are"):
        Scores(d).importance(draw(9, 4))
    with pytest.raises(SchemeError, match="finite"):
        Scores(torch.tensor([1.0, float("nan")]))
