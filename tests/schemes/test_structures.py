"""Groups that live and die together, against brute force and against groups that are written out by hand."""

from collections.abc import Callable
from itertools import combinations, product
from math import ceil

import pytest
import torch
from torch import Tensor

from featherweight import file
from featherweight.coding import entropy
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Diagonal, Metric, Scores
from featherweight.core.scheme import Scheme
from featherweight.core.stage import Learn
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.sparse import Deviations, Fraction, Gradient, Magnitude, NToM, RowFraction, Scope, Sparse
from featherweight.schemes.structures import (
    Blocks,
    Channels,
    Columns,
    FilterGroups,
    Filters,
    Kernels,
    Norm,
    Structure,
    Vectors,
)
from featherweight.schemes.supports import BoxSparseCode
from featherweight.schemes.uniform import Uniform

Group = Callable[[int, int, int, int], object]
"""What the entry ``W[n, c, i, j]`` belongs to."""

GROUPS: dict[Structure, Group] = {
    Filters(): lambda n, c, i, j: n,
    Channels(): lambda n, c, i, j: c,
    Columns(): lambda n, c, i, j: (c, i, j),
    Kernels(): lambda n, c, i, j: (n, c),
    FilterGroups(1): lambda n, c, i, j: c,
    FilterGroups(3): lambda n, c, i, j: (n, c),
    Vectors(3): lambda n, c, i, j: (n, c, i),
    Vectors(1): lambda n, c, i, j: (n, i, j),
    Blocks(1, 4): lambda n, c, i, j: (n, (4 * c + 2 * i + j) // 4),
    Blocks(2, 5): lambda n, c, i, j: (n // 2, (4 * c + 2 * i + j) // 5),  # shorter at both ends
    Blocks(0, 3): lambda n, c, i, j: (4 * c + 2 * i + j) // 3,
}


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def members(structure: Structure) -> list[list[tuple[int, ...]]]:
    """The entries of every group of a tensor of shape [3, 2, 2, 2]."""
    found: dict[object, list[tuple[int, ...]]] = {}
    for at in product(range(3), range(2), range(2), range(2)):
        found.setdefault(GROUPS[structure](*at), []).append(at)
    return list(found.values())


@pytest.mark.parametrize("structure", GROUPS, ids=str)
def test_a_projection_is_the_best_of_all_choices_of_groups(structure: Structure) -> None:
    w = draw(0, 3, 2, 2, 2)
    groups = members(structure)
    for metric, kept in product((EUCLIDEAN, Diagonal(draw(1, 3, 2, 2, 2).square())), (1, 2, len(groups) - 1)):
        code = GroupSparse(Fraction(1 - kept / len(groups)), structure=structure).project(w, metric)
        best = min(_error(w, metric, chosen) for chosen in combinations(groups, kept))
        torch.testing.assert_close(float(metric.distance(w, code.decode())), best, rtol=1e-9, atol=0)
        for group in groups:
            assert len({bool(code.support[at]) for at in group}) == 1


def _error(w: Tensor, metric: Metric, chosen: tuple[list[tuple[int, ...]], ...]) -> float:
    v = torch.zeros_like(w)
    for at in (at for group in chosen for at in group):
        v[at] = w[at]
    return float(metric.distance(w, v))


@pytest.mark.parametrize("structure", GROUPS, ids=str)
def test_norms_are_those_of_the_groups(structure: Structure) -> None:
    w, box = draw(2, 3, 2, 2, 2).abs(), structure.box((3, 2, 2, 2))
    expected = {
        Norm.L2: lambda x: x.square().sum().sqrt(),
        Norm.L1: lambda x: x.sum(),
        Norm.RMS: lambda x: x.square().mean().sqrt(),
    }
    for norm, formula in expected.items():
        spread = box.spread(box.reduced(w, norm), (3, 2, 2, 2))
        for group in members(structure):
            value = formula(torch.stack([w[at] for at in group]))
            for at in group:
                torch.testing.assert_close(spread[at], value)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3), (6, 5, 3, 3)], ids=str)
def test_each_group_of_filters_keeps_the_inputs_of_largest_sum(shape: tuple[int, ...]) -> None:
    w = draw(4, *shape)
    scheme = GroupSparse(RowFraction(0.6), structure=FilterGroups(2, norm=Norm.L1))
    kept = scheme.project(w).support.reshape(2, 3, 5, -1)
    sums = w.abs().reshape(2, 3, 5, -1).sum((1, 3))
    for group in range(2):
        reads = torch.zeros(5, dtype=torch.bool)
        reads[sums[group].topk(2).indices] = True
        assert torch.equal(kept[group], reads.view(1, 5, 1).expand_as(kept[group]))


def test_groups_of_filters_are_equal() -> None:
    with pytest.raises(SchemeError, match="no 4 equal groups"):
        GroupSparse(RowFraction(0.5), structure=FilterGroups(4)).project(draw(5, 6, 4))
    with pytest.raises(SchemeError, match="depthwise"):
        GroupSparse(RowFraction(0.5), structure=FilterGroups(2)).project(draw(5, 6, 1, 3, 3))
    with pytest.raises(SchemeError, match="0 groups"):
        FilterGroups(0)


def test_other_norms_keep_what_theirs_says() -> None:
    """A group of one large entry, one of many middling ones, and a short one at the edge."""
    w = torch.tensor([[3.0, 0.0, 0.0, 0.0, 1.4, 1.4, 1.4, 1.4, 2.5]])
    kept = {}
    for norm in Norm:
        scheme = GroupSparse(Fraction(2 / 3), structure=Blocks(1, 4, norm=norm))
        kept[norm] = int(scheme.project(w).support[0].nonzero()[0])
    assert kept == {Norm.L2: 0, Norm.L1: 4, Norm.RMS: 8}
    # Scores of any sign are summed: a group of more against it than for it goes.
    scores = Scores(torch.tensor([[-5.0, 4, 0, 0, 1, 1, 0, 0, -1]]))
    scheme = GroupSparse(Fraction(2 / 3), structure=Blocks(1, 4, norm=Norm.L1))
    assert scheme.project(w, scores).support[0].tolist() == [False] * 4 + [True] * 4 + [False]


def test_thresholds_and_rows_are_of_groups() -> None:
    w = draw(3, 6, 5, 3, 3)
    norms = w.square().mean((2, 3)).sqrt()
    layer = norms.double().square().mean().sqrt()
    code = GroupSparse(Deviations(0.9), structure=Kernels(norm=Norm.RMS)).project(w)
    assert torch.equal(code.support.all(3).all(2), norms > 0.9 * layer)
    row = GroupSparse(RowFraction(0.6), structure=Kernels()).project(w)
    assert row.support.all(3).all(2).sum(1).tolist() == [2] * 6
    pairs = GroupSparse(NToM(1, 2), structure=Columns()).project(draw(4, 7, 8))
    assert pairs.support.all(0).reshape(4, 2).sum(1).tolist() == [1] * 4


def test_one_share_for_all_tensors() -> None:
    """By the mean squares of groups of any size: the weaker tensor loses more."""
    weights = {"large": draw(5, 8, 4, 3, 3), "small": 0.2 * draw(6, 6, 8, 1, 2)}
    scheme = GroupSparse(Fraction(0.5), scope=Scope.GLOBAL, structure=Kernels(norm=Norm.RMS))
    codes = scheme.project_all(weights, dict.fromkeys(weights, EUCLIDEAN))
    norms = {name: w.square().mean((2, 3)).sqrt() for name, w in weights.items()}
    least = torch.cat([each.flatten() for each in norms.values()]).sort(descending=True).values[: (32 + 48) // 2].min()
    for name, code in codes.items():
        assert isinstance(code, BoxSparseCode)
        assert torch.equal(code.support.all(3).all(2), norms[name] >= least)
    assert codes["large"].support.float().mean() > 0.9 > 0.3 > codes["small"].support.float().mean()


@pytest.mark.parametrize("values", [Uniform(4), Codebook(4), Float()], ids=str)
def test_groups_that_values_round_to_zero_leave_whole(values: Scheme) -> None:
    w = draw(7, 4, 8)
    w[1] *= 1e-4
    code = GroupSparse(Magnitude(), structure=Filters()).then(values).project(w)
    assert code.support.all(1).tolist() == [True, not isinstance(values, Uniform), True, True]
    assert code.values.shape == (int(code.support.sum()),)


def test_something_stays_where_nothing_should() -> None:
    w = torch.tensor([[0.9, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]])
    code = GroupSparse(Magnitude(10.0), structure=Filters()).project(w)
    assert code.support.all(1).tolist() == [False, True]  # the largest norm, not the largest entry


@pytest.mark.parametrize("gradient", [Gradient.MASKED, Gradient.DENSE])
def test_learning_sees_groups(gradient: Gradient) -> None:
    scheme = GroupSparse(Fraction(0.5), structure=Filters(), gradient=gradient)
    w = draw(8, 4, 6).requires_grad_()
    code = scheme.project(w.detach())
    seen = scheme.through(w, code)
    seen.backward(torch.ones_like(seen))
    assert torch.equal(seen, code.decode()) and w.grad is not None
    expected = code.support.float() if gradient is Gradient.MASKED else torch.ones(4, 6)
    assert torch.equal(w.grad, expected)
    moved = w.detach() + 3 * draw(9, 4, 6)
    after = scheme.advance({"w": moved}, {"w": EUCLIDEAN}, {"w": code})["w"]
    assert torch.equal(after.decode(), scheme.project(moved).decode())


def test_survivors_learn_and_the_file_keeps_the_groups() -> None:
    model = torch.nn.Conv2d(4, 6, 3)
    student, scheme = Compressed(model), GroupSparse(Fraction(0.5), structure=Kernels())
    student.encode({"weight": scheme.project(model.weight.detach())}, {"weight": scheme})
    student.learn({"weight": Learn.DIRECT})
    student(draw(10, 1, 4, 8, 8)).square().sum().backward()
    fields, _ = student.learnable()
    with torch.no_grad():
        for each in fields:
            assert each.grad is not None and each.shape == (12 * 9,)
            each.sub_(0.1 * each.grad)
    student.settle()
    loaded, _ = file.load(file.encode(student), torch.nn.Conv2d(4, 6, 3))
    code = loaded.codes["weight"]
    assert isinstance(code, BoxSparseCode)
    assert torch.equal(loaded.parameter("weight"), student.parameter("weight"))


@pytest.mark.parametrize("structure", [Filters(), Kernels(), Vectors(3), Columns(), Blocks(1, 8)], ids=str)
def test_a_support_takes_one_bit_a_group(structure: Structure) -> None:
    """The same tensor by entries takes about a bit an entry (less what contexts see); by groups, a bit a group."""
    w = draw(11, 32, 16, 5, 5)
    code = GroupSparse(Fraction(0.5), structure=structure).project(w)
    support = next(iter(code.streams()))
    assert support.values.numel() == len(set(_indices(structure)))
    plain = Sparse(Magnitude()).project(code.decode())
    assert torch.equal(plain.decode(), code.decode())
    sizes = [_bytes(each) for each in (code, plain)]
    assert sizes[0] <= sizes[1]
    assert sizes[0] <= ceil(entropy(support.values.numpy(), 2) / 8) + 64 + 4 * int(code.support.sum())


def _indices(structure: Structure) -> list[object]:
    groups: dict[type[Structure], Group] = {
        Filters: lambda n, c, i, j: n,
        Kernels: lambda n, c, i, j: (n, c),
        Vectors: lambda n, c, i, j: (n, c, i),
        Columns: lambda n, c, i, j: (c, i, j),
        Blocks: lambda n, c, i, j: (n, (25 * c + 5 * i + j) // 8),
    }
    return [groups[type(structure)](*at) for at in product(range(32), range(16), range(5), range(5))]


def _bytes(code: object) -> int:
    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(32, 16, 5, 5))

    student = Compressed(Holder())
    student.encode({"w": code}, {"w": Float()})  # type: ignore[dict-item]
    return len(file.encode(student))


@pytest.mark.parametrize("structure", [Filters(), Channels(), Columns(), Kernels(), Vectors(1)], ids=str)
def test_tensors_without_such_groups_are_refused(structure: Structure) -> None:
    for shape in ((), (2,) * 8):
        if isinstance(structure, Vectors) and shape == ():
            continue
        with pytest.raises(SchemeError, match="exclude it"):
            GroupSparse(Fraction(0.5), structure=structure).project(torch.ones(shape))


def test_blocks_of_negative_size() -> None:
    with pytest.raises(SchemeError, match="above 0"):
        Blocks(-1, 4)
    with pytest.raises(SchemeError, match="from the first"):
        Vectors(-1)
