"""Labels as dimensions are split, merged, joined and summed over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.graph.labelled import Algebra, Labelled, _runs
from featherweight.graph.union import Union


def one(algebra: Algebra, *shape: int) -> Labelled:
    return Labelled(shape, tuple(((dim,), algebra.union.fresh([size])) for dim, size in enumerate(shape)))


def test_a_view_there_and_back_changes_nothing() -> None:
    algebra = Algebra(Union())
    x = Labelled((2, 12), (((1,), algebra.union.fresh([12])),))
    back = algebra.view(algebra.view(x, (2, 3, 4)), (2, 12))
    assert (back.blocks[0][1] == x.blocks[0][1]).all() and back.blocks[0][0] == (1,)


def test_a_shuffle_moves_labels() -> None:
    algebra = Algebra(Union())
    x = Labelled((1, 6, 5, 5), (((1,), algebra.union.fresh([6])),))
    y = algebra.view(algebra.permute(algebra.view(x, (1, 2, 3, 5, 5)), [0, 2, 1, 3, 4]), (1, 6, 5, 5))
    assert y.blocks[0][1].tolist() == [0, 3, 1, 4, 2, 5]


def test_what_stays_of_a_split_is_a_rectangle() -> None:
    algebra = Algebra(Union())
    x = Labelled((6,), (((0,), algebra.union.fresh([6])),))
    algebra.view(x, (2, 3))
    algebra.settle()
    assert algebra.union.roots(x.blocks[0][1]).tolist() == [0, 1, 2, 0, 1, 2]


def test_a_sum_over_entries_leaves_heads() -> None:
    algebra = Algebra(Union())
    x = algebra.view(Labelled((6,), (((0,), algebra.union.fresh([6])),)), (2, 3))
    heads = algebra.drop(x, 1)
    assert heads.shape == (2,) and heads.blocks[0][0] == (0,)
    algebra.settle()
    assert algebra.union.roots(np.arange(6)).tolist() == [0, 0, 0, 3, 3, 3]


def test_broadcasting_joins_index_by_index() -> None:
    algebra = Algebra(Union())
    a, b = one(algebra, 2, 3), one(algebra, 3)
    found = algebra.merge([a, b], (2, 3))
    assert (algebra.union.roots(found.block(1)[1]) == algebra.union.roots(b.blocks[0][1])).all()  # type: ignore[index]
    assert len(set(algebra.union.roots(found.block(0)[1]).tolist())) == 2  # type: ignore[index]


def test_what_meets_a_fixed_dimension_is_frozen() -> None:
    algebra = Algebra(Union())
    a = one(algebra, 3)
    algebra.merge([a, Labelled((3,))], (3,))
    assert algebra.all_frozen(a)
    b = one(algebra, 3)
    algebra.merge([b, Labelled((1,))], (3,))
    assert not algebra.all_frozen(b)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms())
def test_runs_are_of_equal_size_and_cover_all(shape: list[int], random: object) -> None:
    flat = [size for number in shape for size in ((1, number) if random.random() < 0.5 else (number,))]  # type: ignore[attr-defined]
    merged = [int(np.prod(flat[:2])), *flat[2:]] if len(flat) > 1 else flat
    runs = _runs(flat, merged)
    assert [dim for inside, _ in runs for dim in inside] == list(range(len(flat)))
    assert [dim for _, outside in runs for dim in outside] == list(range(len(merged)))
    for inside, outside in runs:
        assert np.prod([flat[d] for d in inside]) == np.prod([merged[d] for d in outside])


def test_sets_are_joined_and_frozen_together() -> None:
    union = Union()
    a, b = union.fresh([3]), union.fresh([3])
    union.join(a, b)
    union.freeze(b[:1])
    assert union.all_frozen(a[:1]) and not union.all_frozen(a[1:])
    assert (union.roots(a) == union.roots(b)).all()
    with pytest.raises(ValueError, match="broadcast"):
        union.join(a, union.fresh([2]))
