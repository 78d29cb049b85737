"""N:M supports: patterns as numbers, and runs of permuted channels, against brute force."""

from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Diagonal
from featherweight.core.stage import Learn
from featherweight.schemes.runs import Runs, numbered, permuted, table
from featherweight.schemes.sparse import Gradient, NToM, PermutedNToM, Sparse
from featherweight.schemes.supports import RunSparseCode, SparseCode
from featherweight.schemes.uniform import Uniform


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kept(w: Tensor, runs: Runs) -> float:
    return float((w.double().square() * runs.support(w.abs())).sum())


def test_patterns_are_numbered_as_the_table_has_them() -> None:
    rows = [positions for k in range(3) for positions in combinations(range(4), k)]
    assert [tuple(row.nonzero().flatten().tolist()) for row in table(2, 4)] == rows
    assert numbered(table(2, 4), 2).tolist() == list(range(11)) and Runs(2, 4).patterns == 11


@pytest.mark.parametrize("shape", [(5, 8), (5, 7), (3, 6, 2, 2), (4, 5, 3), (2, 1)])
def test_runs_of_permuted_channels_are_split_and_joined(shape: tuple[int, ...]) -> None:
    w = draw(0, *shape)
    channels = shape[1]
    at = torch.randperm(channels, generator=torch.Generator().manual_seed(1)) // 3
    runs = Runs(1, 3, at)
    split = runs.split(w)
    assert torch.equal(runs.joined(split, shape), w)
    for c in range(channels):
        line = w[:, c].flatten().tolist()
        found = split[:, at[c]]  # [lines, m]
        assert all(value in found[row].tolist() for row, value in enumerate(line))


def test_the_support_is_that_of_each_run() -> None:
    """Of every run of two channels the larger stays, at each output and position apart."""
    w = draw(2, 4, 6, 3)
    at = torch.tensor([2, 0, 1, 1, 0, 2])
    support = Runs(1, 2, at).support(w.abs())
    for n in range(4):
        for i in range(3):
            for a, b in ((0, 5), (1, 4), (2, 3)):
                larger, smaller = (a, b) if w[n, a, i].abs() > w[n, b, i].abs() else (b, a)
                assert support[n, larger, i] and not support[n, smaller, i]


def partitions(channels: int, m: int) -> list[Tensor]:
    """All ways to put channels into runs of ``m``, the last perhaps shorter."""
    found = {
        tuple(tuple(sorted(order[first : first + m])) for first in range(0, channels, m))
        for order in permutations(range(channels))
    }
    made = []
    for runs in found:
        at = torch.empty(channels, dtype=torch.long)
        for number, run in enumerate(runs):
            at[list(run)] = number
        made.append(at)
    return made


@pytest.mark.parametrize("channels, n, m", [(6, 1, 3), (7, 1, 3), (6, 1, 2), (8, 2, 4)])
def test_the_search_finds_the_best_partition_or_nearly(channels: int, n: int, m: int) -> None:
    """Never below the channels as they stand, never above brute force, and there where all is two whole runs."""
    ways, hits = partitions(channels, m), 0
    for seed in range(12):
        w = draw(seed, 5, channels)
        found, plain = permuted(w.abs(), n, m, 50), permuted(w.abs(), n, m, 0)
        best = max(kept(w, Runs(n, m, way)) for way in ways)
        assert plain.members is not None and plain.members.tolist() == [c // m for c in range(channels)]
        assert kept(w, plain) <= kept(w, found) * (1 + 1e-12) and kept(w, found) <= best * (1 + 1e-12)
        hits += kept(w, found) >= best * (1 - 1e-9)
        assert kept(w, found) >= 0.97 * best
    assert hits == 12 or (channels > 2 * m and hits >= 8)


@pytest.mark.parametrize("n, m", [(2, 4), (1, 4), (4, 8), (3, 3), (2, 5)])
@pytest.mark.parametrize("shape", [(16, 24), (8, 12, 3, 3), (10, 23)])
def test_more_stays_with_the_search_than_without_it(shape: tuple[int, ...], n: int, m: int) -> None:
    """In the projection's own metric; and no swap of two channels is left that would gain."""
    w = draw(3, *shape) * draw(4, 1, shape[1], *(1 for _ in shape[2:])).exp()
    for metric in (EUCLIDEAN, Diagonal(draw(5, *shape).square())):
        searched, plain = (Sparse(PermutedNToM(n, m, rounds)).project(w, metric) for rounds in (200, 0))
        left = [float(metric.distance(w, code.decode())) for code in (searched, plain)]
        assert left[0] <= left[1] and (n == m or left[0] < left[1])
        members = searched.members if isinstance(searched, RunSparseCode) else None
        assert members is not None and members.bincount().tolist()[:-1] == [m] * (-(-shape[1] // m) - 1)
        support = searched.support.movedim(1, -1).flatten(0, -2)
        assert all(int(support[:, members == run].sum(1).max()) <= n for run in range(int(members.max()) + 1))
        importance = metric.importance(w)
        most = kept(importance, Runs(n, m, members))
        for a, b in combinations(range(min(shape[1], 12)), 2):
            swapped = members.clone()
            swapped[[a, b]] = members[[b, a]]
            assert kept(importance, Runs(n, m, swapped)) <= most * (1 + 1e-8)


def test_along_the_channels_of_a_kernel_without_a_search() -> None:
    """Runs of four channels at each position, which are no neighbours in a row."""
    w = draw(6, 4, 8, 3, 3)
    code = Sparse(PermutedNToM(2, 4, 0)).project(w)
    expected = Sparse(NToM(2, 4)).project(w.movedim(1, -1).reshape(-1, 8)).support
    assert torch.equal(code.support.movedim(1, -1).reshape(-1, 8), expected)


@pytest.mark.parametrize("amount", [NToM(2, 4), PermutedNToM(2, 4)], ids=["neighbours", "permuted"])
def test_learning_and_schedules(amount: NToM | PermutedNToM) -> None:
    scheme = Sparse(amount, gradient=Gradient.DENSE).then(Uniform(4))
    assert scheme.at(0.5).amount.n == 3
    w = draw(7, 6, 16)
    code = scheme.project(w)
    moved = w + draw(8, 6, 16)
    warm, after = scheme.project(moved, warm=code), scheme.advance({"w": moved}, {"w": EUCLIDEAN}, {"w": code})["w"]
    assert torch.equal(warm.support, code.support) and warm.layout() == code.layout()
    assert torch.equal(after.decode(), scheme.project(moved).decode())
    layer = nn.Linear(16, 6)
    student = Compressed(layer)
    student.encode({"weight": code}, {"weight": scheme})
    student.learn({"weight": Learn.LATENT})
    student(draw(9, 2, 16)).sum().backward()
    student.settle()
    loaded, _ = file.load(file.encode(student), nn.Linear(16, 6))
    assert type(loaded.codes["weight"]) is RunSparseCode
    assert torch.equal(loaded.parameter("weight"), student.parameter("weight"))


def test_a_run_takes_the_logarithm_of_its_patterns() -> None:
    """2:4 in two thirds of the bits that a support by entries takes."""

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(128, 256))

    w = draw(10, 128, 256)
    code = Sparse(NToM(2, 4)).then(Uniform(4)).project(w)
    plain = SparseCode(code.shape, code.dtype, code.support, code.values)
    sizes = []
    for each in (code, plain):
        student = Compressed(Holder())
        student.encode({"w": each}, {"w": Uniform(4)})
        sizes.append(len(file.encode(student)))
    alive = code.support  # 4-bit values round some to zero, and those leave
    assert sizes[0] < sizes[1] - 0.2 * alive.numel() / 8


def test_long_runs_are_written_by_entries() -> None:
    w = draw(11, 4, 64)
    assert type(Sparse(NToM(1, 33)).project(w)) is SparseCode
    assert type(Sparse(NToM(8, 16)).project(w)) is SparseCode
    assert type(Sparse(NToM(1, 32)).project(w)) is RunSparseCode


def test_what_has_no_channels_and_searches_of_negative_length() -> None:
    with pytest.raises(SchemeError, match="no input channels"):
        Sparse(PermutedNToM(2, 4)).project(draw(12, 8))
    with pytest.raises(SchemeError, match="0 for none"):
        PermutedNToM(2, 4, -1)
    with pytest.raises(SchemeError, match="cannot stay"):
        PermutedNToM(5, 4)
