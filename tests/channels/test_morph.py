"""Expansion by one multiplier, in the form of a cut; strengths of coupled channels; the recipe on a small network."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.channels.morph import Morph
from featherweight.channels.norms import LargestScale, NormScale
from featherweight.core.compressed import Compressed
from featherweight.core.errors import BudgetError
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import Example, Task
from featherweight.costs.layers import CostRule, Macs, Parameters
from featherweight.costs.operations import operations
from featherweight.graph.edits import walk
from featherweight.papers import morphnet
from featherweight.run import run


class Net(nn.Module):
    """A stream of 8 channels with a block of 24 beside it, and a convolution to 12."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.norm2 = nn.Conv2d(8, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.outer, self.norm3 = nn.Conv2d(24, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.last, self.norm4 = nn.Conv2d(8, 12, 3, stride=2, bias=False), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.first(x)).relu()
        x = x + self.norm3(self.outer(self.norm2(self.inner(x)).relu()))
        out: Tensor = self.head(F.relu(self.norm4(self.last(x))).mean((2, 3)))
        return out


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():
        model.norm1.weight.copy_(torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0]))
        model.norm3.weight.copy_(torch.tensor([0.5, 0, 0, -2, 0, 0, 0, 0]))  # three channels of the stream live
        model.norm2.weight.copy_(torch.linspace(0, 1, 24) * (torch.arange(24) >= 12))  # the upper twelve
        model.norm4.weight.copy_(torch.cat([torch.ones(3), torch.zeros(9)]))
    x = torch.randn(40, 1, 8, 8)
    data = [(x, torch.arange(40) % 3)] * 6

    def loss(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(outputs, batch[1])

    return Task("net", Net, lambda: model, lambda: Example((x[:1],)), train=lambda: data, loss=loss)


def cut(task: Task, rule: Morph) -> Net:
    student, _ = run(task.model(), task, Recipe("morph", (Stage("expand", edit=rule),)))
    assert isinstance(student.base, Net)
    return student.base


def widths(net: Net) -> tuple[int, int, int]:
    return net.first.out_channels, net.inner.out_channels, net.last.out_channels


def test_a_coupled_channel_is_as_strong_as_its_largest_gain(task: Task) -> None:
    student = Compressed(task.model()).eval()
    labels = walk(student.base, task.example()).labels
    groups = labels.groups()
    largest, sums = (score.scores(student, labels, groups, task) for score in (LargestScale(), NormScale()))
    stream = next(at for at, group in enumerate(groups) if len(group) == 8)
    assert largest[stream] is not None and largest[stream].tolist() == [1, 1, 0, 2, 0, 0, 0, 0]  # type: ignore[union-attr]
    assert sums[stream].tolist() == [1.5, 1, 0, 2, 0, 0, 0, 0]  # type: ignore[union-attr]


@pytest.mark.parametrize("cost", [Macs(), Parameters()])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_one_multiplier_spends_the_budget(task: Task, cost: CostRule, share: float) -> None:
    """3, 12 and 3 live: whatever the budget, widths are in these proportions, or whole."""
    net = cut(task, Morph(share, cost))
    found = widths(net)
    before, after = (operations(model, task.example()) for model in (task.model(), net))
    spent = after.macs_dense / before.macs_dense if isinstance(cost, Macs) else after.parameters / before.parameters
    assert spent <= share
    multiplier = found[1] / 12 if found[1] < 24 else found[2] / 3
    assert all(
        abs(width - min(whole, multiplier * alive)) <= max(1.0, alive / 6)
        for width, whole, alive in zip(found, (8, 24, 12), (3, 12, 3), strict=True)
    )
    assert share < 0.3 or (found[0] >= 3 and found[2] >= 3), "the multiplier is above 1"


def test_the_strongest_stay(task: Task) -> None:
    net = cut(task, Morph(0.3))
    before = task.model()
    assert isinstance(before, Net)
    kept = sorted(net.norm2.weight.tolist())
    assert kept == sorted(before.norm2.weight.tolist())[-len(kept) :]
    assert float(net.norm3.weight.min()) == -2 and float(net.norm1.weight.sum()) == 2


def test_it_is_not_a_share_of_every_group(task: Task) -> None:
    """What the gains say moves the widths: with all alive they are those of a uniform narrowing."""
    model = task.model()
    assert isinstance(model, Net)
    even = Net().eval()
    other = replace(task, model=lambda: even)
    assert widths(cut(task, Morph(0.5))) != widths(cut(other, Morph(0.5)))
    narrow = widths(cut(other, Morph(0.5)))
    assert all(abs(width / whole - narrow[1] / 24) < 0.1 for width, whole in zip(narrow, (8, 24, 12), strict=True))


def test_numbers_are_multiples_of_the_step(task: Task) -> None:
    assert all(width % 4 == 0 for width in widths(cut(task, Morph(0.5, step=4))))


def test_what_cannot_be_reached_is_said(task: Task) -> None:
    with pytest.raises(BudgetError, match="larger share"):
        cut(task, Morph(0.0005))


def test_the_recipe_comes_to_its_budget_in_rounds_and_loads(task: Task) -> None:
    recipe = morphnet.recipe(share=0.5, rounds=2, penalty=0.5, alive=0.5)
    student, coverage = run(task.model(), task, recipe)
    assert [each.stage for each in coverage] == ["shrink 1", "expand 1", "shrink 2", "expand 2", "learn"]
    before, after = (operations(model, task.example()).macs_dense for model in (task.model(), student.base))
    assert 0.25 * before < after <= 0.5 * before
    fresh = Compressed(Net())
    for edit in student.edits:
        fresh.edit(edit)
    fresh.base.load_state_dict(student.base.state_dict())
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(fresh.eval()(x), student(x))
