"""RePr's parts: the overlap by hand, what goes over all layers, and that what returns is orthogonal."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from featherweight.channels.overlap import FilterOverlap, Reintroduce, overlap, returned
from featherweight.core.stage import Recipe, Stage, Training
from featherweight.core.task import Example, Task
from featherweight.run import run
from featherweight.schemes.amounts import Fraction
from featherweight.schemes.floats import Floats
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.sparse import Scope
from featherweight.schemes.structures import Filters, Norm


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_overlap_by_hand() -> None:
    w = torch.tensor([[2.0, 0, 0, 0], [0, 3, 0, 0], [1, 1, 0, 0], [0, 0, 5, 0]])
    half = 0.5**0.5
    torch.testing.assert_close(overlap(w), torch.tensor([half, half, 2 * half, 0.0]).double() / 4)
    torch.testing.assert_close(overlap(torch.ones(3, 2)), torch.full((3,), 2 / 3).double())
    assert overlap(torch.zeros(2, 2)).tolist() == [0.0, 0.0]


def test_what_returns_is_orthogonal_to_what_stayed_to_what_it_was_and_to_each_other() -> None:
    now, former = draw(6, 20), draw(6, 20, seed=1)
    dropped = torch.tensor([True, False, False, True, False, False])
    after = returned(now, former, dropped, torch.Generator().manual_seed(0))
    assert torch.equal(after[~dropped], now[~dropped].double())
    around = torch.cat([now[~dropped].double(), former[dropped].double()])
    assert float((after[dropped] @ around.T).abs().max()) < 1e-10
    products = after[dropped] @ after[dropped].T
    length = float(now[~dropped].double().norm(dim=1).mean())
    torch.testing.assert_close(products, torch.eye(2).double() * length**2)


def test_where_there_is_no_room_what_returns_is_orthogonal_to_itself_and_as_long() -> None:
    dropped = torch.tensor([True] * 3 + [False] * 5)
    after = returned(draw(8, 6), draw(8, 6, seed=1), dropped, torch.Generator().manual_seed(0))
    length = float(draw(8, 6)[~dropped].double().norm(dim=1).mean())
    torch.testing.assert_close(after[dropped] @ after[dropped].T, torch.eye(3).double() * length**2)
    crowded = returned(draw(8, 2), draw(8, 2, seed=1), dropped, torch.Generator().manual_seed(0))
    assert (
        bool(torch.isfinite(crowded).all())
        and len({float(n) for n in crowded[dropped].norm(dim=1).round(decimals=6)}) == 1
    )


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 10, 3)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))
        return out


def task() -> Task:
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        model.second.weight[4] = 2 * model.second.weight[7]  # parallel: both overlap most
        model.second.weight[2] = -model.second.weight[7]
    x, y = torch.rand(64, 1, 8, 8), torch.arange(64) % 3
    data = [(x, y)] * 4

    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch[1])

    return Task("net", Net, lambda: model, lambda: Example((x[:1],)), train=lambda: data, loss=loss)


DROP = Stage(
    "without",
    {"*.weight": GroupSparse(Fraction(0.25), scope=Scope.GLOBAL, structure=Filters(norm=Norm.RMS))},
    metric=FilterOverlap(),
    training=Training(2, 1e-2),
)


def test_the_largest_overlaps_of_all_layers_go_and_come_back_in_full_size() -> None:
    """Filters of 9, 54 and 10 entries compare by their overlap alone; the others have learned meanwhile."""
    given = task()
    weights = dict(given.model().named_parameters())
    names = ["first.weight", "second.weight", "head.weight"]
    every = torch.cat([overlap(weights[name]) for name in names])
    worst = set(every.topk(round(0.25 * len(every))).indices.tolist())
    without, _ = run(given.model(), given, Recipe("drop", (DROP,)))
    gone = torch.cat([(without.weight(name).flatten(1) == 0).all(1) for name in names])
    assert set(gone.nonzero().flatten().tolist()) == worst

    student, (coverage,) = run(given.model(), given, Recipe("drop", (replace(DROP, repairs=(Reintroduce(),)),)))
    assert set(coverage.repaired) == {
        name for name in names if bool((without.weight(name).flatten(1) == 0).all(1).any())
    }
    for name in names:
        before, after, kept = (
            w.detach().flatten(1).double() for w in (weights[name], student.weight(name), without.weight(name))
        )
        dropped = (kept == 0).all(1)
        assert torch.equal(after[~dropped], kept[~dropped]) and bool((after[dropped] != 0).any(1).all())
        if bool(dropped.any()) and len(before) + int(dropped.sum()) <= before.shape[1]:
            around = torch.cat([after[~dropped], before[dropped]])
            assert float((after[dropped] @ around.T).abs().max()) < 1e-5
        assert not torch.equal(before[~dropped], after[~dropped])


def test_it_goes_on_in_full() -> None:
    """Another stage trains the new filters too, but for those whose rectifier is never open."""
    given = task()
    stage = replace(DROP, repairs=(Reintroduce(),))
    one, _ = run(given.model(), given, Recipe("drop", (stage,)))
    student, _ = run(given.model(), given, Recipe("drop", (stage, Stage("all", training=Training(1, 1e-2)))))
    for each in (one, student):  # of these two filters were dropped, of the head none
        assert [name for name, code in each.codes.items() if isinstance(code, Floats)] == [
            "first.weight",
            "second.weight",
        ]
    moved = (student.weight("second.weight") != one.weight("second.weight")).flatten(1).any(1)
    assert float(moved.double().mean()) > 0.5
