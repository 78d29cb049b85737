"""Memberships: regularisers against sums that are written out, and what is left when layers are split by them."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from featherweight.activations.memberships import (
    Assigned,
    Disconnect,
    Membership,
    Memberships,
    SplitPenalty,
    balanced,
    overlap,
    unevenness,
    weights_between,
)
from featherweight.architectures import ResNetCifar
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SchemeError, SelectionError
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Objective, Recipe, Repaired, Stage, Tap, Training
from featherweight.core.tap import Call, Operator, Place, TapSite
from featherweight.core.task import Example, Task
from featherweight.graph.groups import Group, GroupLayers
from featherweight.run import run
from featherweight.training.objectives import TaskLoss

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + 2 * (X[:, 3] > 0).long()


def model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def task(made: nn.Module | None = None, x: Tensor = X) -> Task:
    return Task(
        "split",
        model,
        lambda: made or model(),
        lambda: Example((x[:2],)),
        train=lambda: [(X[:32], Y[:32]), (X[32:], Y[32:])],
        calibration=lambda: [(X, Y)],
        loss=lambda outputs, batch: nn.functional.cross_entropy(outputs, batch[1]),
    )


def shares(groups: int, units: int, seed: int) -> Tensor:
    return torch.randn(groups, units, generator=torch.Generator().manual_seed(seed)).softmax(0).double()


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_regularisers_are_the_sums_that_are_written_out(kernel: tuple[int, ...]) -> None:
    p, q = shares(3, 5, 0), shares(3, 4, 1)
    w = torch.randn(4, 5, *kernel, generator=torch.Generator().manual_seed(2)).double()
    size = w.reshape(4, 5, -1).square().mean(2).sqrt()
    total = 0.0
    for g in range(3):
        inside, outside = torch.diag(p[g]), torch.diag(q[g])
        between = outside @ size @ (torch.eye(5) - inside)
        total += float(between.norm(dim=0).sum()) / (5 * 4**0.5)
        between = (torch.eye(4) - outside) @ size @ inside
        total += float(between.norm(dim=1).sum()) / (4 * 5**0.5)
    deviation = (1 / w[0].numel()) ** 0.5
    assert float(weights_between(w, p, q)) == pytest.approx(total / (2 * 2 / 3 * deviation))
    pairs = sum(float(p[i] @ p[j]) for i in range(3) for j in range(i))
    assert float(overlap(p)) == pytest.approx(pairs / (5 * 2 / (2 * 3)))
    assert float(unevenness(p)) == pytest.approx(sum(float(p[g].sum()) ** 2 for g in range(3)) / (25 / 3))


def test_what_is_split_costs_nothing() -> None:
    of = torch.arange(6) % 3
    p = nn.functional.one_hot(of).T.double()
    w = (of[:, None] == of).double() * 2.0
    assert float(weights_between(w, p, p)) < 1e-4 and float(overlap(p)) == 0 and float(unevenness(p)) == 1
    equal = torch.full_like(p, 1 / 3)
    assert float(overlap(equal)) == pytest.approx(1) and float(unevenness(p.flip(1))) == 1


def test_groups_are_equally_large_and_the_surest_come_first() -> None:
    for units in (6, 7):
        of = balanced(shares(3, units, 3))
        assert of.bincount(minlength=3).max() == -(-units // 3)
    assert balanced(torch.tensor([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]])).tolist() == [0, 0, 1]


def test_layers_share_the_memberships_of_what_is_between_them() -> None:
    student = Compressed(model())
    student.tap(Memberships(2, WEIGHTS).taps(student, task()))
    assert len(student.sites) == 4 and len(student.taps) == 3
    first, last = Call("0", Operator.LINEAR), Call("2", Operator.LINEAR)
    assert student.sites[Place(first, None)] is student.sites[Place(last)]
    torch.testing.assert_close(student(X), model()(X))


def test_residual_additions_share_memberships() -> None:
    resnet, x = ResNetCifar(20).eval(), torch.rand(2, 3, 32, 32)
    student = Compressed(resnet)
    student.tap(Memberships(2, Sites(("layer3.[12].*", "linear.*"), min_dims=2)).taps(student, task(resnet, x)))
    stream = {student.sites[Place(Call(f"layer3.{b}.conv1", Operator.CONVOLVE))] for b in (1, 2)}
    stream |= {student.sites[Place(Call(f"layer3.{b}.conv2", Operator.CONVOLVE), None)] for b in (1, 2)}
    stream |= {student.sites[Place(Call("linear", Operator.LINEAR))]}
    assert len(stream) == 1 and len(student.taps) == 4  # the stream, both insides, and the classes


@pytest.fixture(scope="module")
def learned() -> Iterator[Compressed]:
    stage = Stage(
        "learn",
        tap=Memberships(2, WEIGHTS),
        training=Training(100, 1e-2, code_lr=10),
        objective=Objective((TaskLoss(), SplitPenalty(between=0.5))),
    )
    yield run(model(), task(), Recipe("learn", (stage,)))[0]


def test_memberships_settle_to_groups_of_what_belongs_together(learned: Compressed) -> None:
    """Two questions about two inputs: neither needs the other's."""
    assert {type(each) for each in learned.sites.values()} == {Assigned}
    pixels = learned.sites[Place(Call("0", Operator.LINEAR))]
    assert isinstance(pixels, Assigned) and pixels.of.bincount().tolist() == [3, 3]
    for name in ("0.weight", "2.weight"):
        path = name.partition(".")[0]
        p, q = (learned.sites[Place(Call(path, Operator.LINEAR), operand)] for operand in (0, None))
        assert isinstance(p, Assigned) and isinstance(q, Assigned)
        w, within = learned.parameter(name).detach().square(), q.of[:, None] == p.of
        assert float(w[within].sum()) > 1.5 * float(w[~within].sum())


def test_split_layers_are_groups_that_compute_the_same(learned: Compressed) -> None:
    stages = (Stage("disconnect", repairs=(Disconnect(),)), Stage("split", edit=GroupLayers(2)))
    student = Compressed(learned.base)
    student.tap(_sites(learned))
    assert isinstance(Disconnect().repair(student, student, task()), Repaired) and not student.sites
    whole = student(X)
    with pytest.raises(SelectionError, match="have settled"):
        run(learned.finished(), task(), Recipe("split", stages))
    (edit,) = GroupLayers(2).decide(student, task())
    assert isinstance(edit, Group) and edit.layers.keys() == {"0", "2"}
    student.edit(edit)
    torch.testing.assert_close(student(X), whole)
    assert student.parameter("0.weight").shape == (8, 3, 1) and student.parameter("2.weight").shape == (4, 4, 1)


def _sites(student: Compressed) -> list[TapSite]:
    return [TapSite(place, each) for place, each in student.sites.items()]


def test_bad_input() -> None:
    student = Compressed(model())
    with pytest.raises(SchemeError, match="2 or more"):
        Memberships(1, WEIGHTS)
    tied = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    tied[1].weight = tied[0].weight
    with pytest.raises(SelectionError, match="leave it out"):
        Memberships(2, WEIGHTS).taps(Compressed(tied), task(tied))
    with pytest.raises(SelectionError, match="no layer has memberships"):
        SplitPenalty()(Tap(X, (X, Y), None, student, lambda outputs, batch: outputs.sum()))
    for record in ([], [1], [1, "2"], [[1]]):
        with pytest.raises(FormatError):
            Membership.from_json(record)
    for record in ([], [1], [["0"]], [[0], 1]):
        with pytest.raises(FormatError):
            Assigned.from_json(record)
