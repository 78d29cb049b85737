"""Cutting channels until a cost is met."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import BudgetError, SelectionError
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import Example, Task
from featherweight.costs.latency import Latency
from featherweight.costs.layers import CostRule, LayerCosts, Macs, Parameters
from featherweight.costs.operations import operations
from featherweight.engines.engine import Arrays, Capabilities, Engine, Exported, Precision, Runner, Settings
from featherweight.run import run
from featherweight.search.channels import Curve, Narrow, Surgeon, Tradeoff, allocate


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 12, 3, padding=1), nn.Linear(12 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.norm(self.first(x)))))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.rand(32, 1, 8, 8)
    return Task("net", Net, lambda: model, lambda: Example((x[:1],)), calibration=lambda: [x])


def narrowed(task: Task, rule: Narrow) -> Compressed:
    return run(task.model(), task, Recipe("narrow", (Stage("cut", edit=rule),)))[0]


@pytest.mark.parametrize("cost", [Macs(), Parameters()])
def test_the_cost_is_at_most_the_share(task: Task, cost: CostRule) -> None:
    student = narrowed(task, Narrow(0.5, cost))
    before, after = (operations(model, task.example()) for model in (task.model(), student.base))
    if isinstance(cost, Macs):
        assert 0.3 * before.macs_dense < after.macs_dense <= 0.5 * before.macs_dense
    else:
        assert 0.3 * before.parameters < after.parameters <= 0.5 * before.parameters


def test_numbers_are_multiples_of_the_step(task: Task) -> None:
    base = narrowed(task, Narrow(0.5, step=4)).base
    assert base.get_submodule("first").out_channels % 4 == base.get_submodule("second").out_channels % 4 == 0


@torch.no_grad()
def test_what_stays_makes_up_for_what_goes(task: Task) -> None:
    x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    wanted = task.model()(x)
    errors = [
        float((narrowed(task, Narrow(0.5, make_up=make_up))(x) - wanted).square().sum()) for make_up in (True, False)
    ]
    assert errors[0] < errors[1]


class Up(nn.Module):
    """A transposed convolution reads what one layer makes, and another reads what it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 12, 3, 2, 1), nn.ConvTranspose2d(12, 10, 3, 2, 1, output_padding=1)
        self.out = nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        outer: Tensor = self.out(F.relu(self.up(F.relu(self.down(x)))))
        return outer


@pytest.fixture
def upward() -> Task:
    torch.manual_seed(0)
    model, x = Up().eval(), torch.rand(32, 1, 8, 8)
    return Task("up", Up, lambda: model, lambda: Example((x[:1],)), calibration=lambda: [x])


def test_both_sides_of_a_transposed_convolution_are_cut(upward: Task) -> None:
    base = narrowed(upward, Narrow(0.4, Parameters())).base
    up = base.get_submodule("up")
    assert isinstance(up, nn.ConvTranspose2d) and up.in_channels < 12 and up.out_channels < 10
    assert up.weight.shape[:2] == (up.in_channels, up.out_channels)


@torch.no_grad()
@pytest.mark.parametrize("within", ["down.*", "up.*"])
def test_a_transposed_convolution_makes_up_for_what_it_no_longer_reads(upward: Task, within: str) -> None:
    """What stays is the best of all values: no other set of weights in its place is nearer to what was."""
    x = next(iter(upward.calibration_data()))
    model = upward.model()
    small = narrowed(upward, Narrow(0.7, Parameters(), within=(within,))).base
    reader, taken = ("up", F.relu) if within == "down.*" else ("out", F.relu)
    own, other = model.get_submodule(reader), small.get_submodule(reader)
    before = {"up": lambda net: taken(net.down(x)), "out": lambda net: taken(net.up(F.relu(net.down(x))))}[reader]
    wanted, inputs = own(before(model)), before(small)

    def error(change: float) -> float:
        weight = other.weight + change * torch.randn(other.weight.shape, generator=generator)
        outputs = torch.func.functional_call(other, {"weight": weight}, (inputs,))
        return float((outputs - wanted).square().sum())

    generator = torch.Generator().manual_seed(0)
    best = error(0.0)
    assert all(error(change) > best for change in (1e-2, 1e-2, 3e-2, 1e-1))
    plain = narrowed(upward, Narrow(0.7, Parameters(), within=(within,), make_up=False)).base
    assert best < float((plain.get_submodule(reader)(before(plain)) - wanted).square().sum())


def test_only_groups_within_are_cut(task: Task) -> None:
    base = narrowed(task, Narrow(0.8, within=("first.*",))).base
    assert base.get_submodule("first").out_channels < 8 and base.get_submodule("second").out_channels == 12
    with pytest.raises(SelectionError, match="nothing"):
        narrowed(task, Narrow(0.8, within=("nothing.*",)))


def test_an_impossible_share_tells_the_nearest_and_changes_nothing(task: Task) -> None:
    before = {name: tensor.clone() for name, tensor in task.model().state_dict().items()}
    with pytest.raises(BudgetError, match=r"the narrowest model has [\d,]+"):
        narrowed(task, Narrow(0.01))
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model().state_dict().items())


class Cliffs(LayerCosts):
    """A weight costs its rows, rounded up to fours."""

    unit = "fours"

    def of(self, name: str, shape: tuple[int, ...]) -> float:
        return -(-shape[0] // 4)


def test_numbers_that_save_nothing_are_passed_over(task: Task) -> None:
    from featherweight.graph.edits import walk

    labels = walk(task.model(), task.example()).labels
    group = next(group for group in labels.groups() if labels.free[group[0]][0][0] == "second.weight")
    curve = Curve(tuple(group), tuple(float(k**2) for k in range(13)))
    shapes = {"second.weight": (12, 8, 3, 3)}
    given = Tradeoff(labels, [curve], Cliffs(), shapes)
    assert allocate(given, 0.7) == [4]
    assert allocate(given, 0.4) == [8]


def test_the_surgeon_weighs_every_group(task: Task) -> None:
    from featherweight.graph.edits import walk

    student = Compressed(task.model()).eval()
    labels = walk(student.base, task.example()).labels
    curves = Surgeon().curves(student, labels, task)
    assert sorted(len(curve.labels) for curve in curves) == [8, 12]
    assert all(list(curve.errors) == sorted(curve.errors) and curve.errors[-1] > 0 for curve in curves)


class Idle(Runner):
    def run(self, inputs: Arrays) -> list[np.ndarray]:
        return []


@dataclass(frozen=True)
class Counting(Engine):
    """Counts what is exported; runs nothing."""

    folder: Path
    name = "counting"
    suffix = ".none"
    extra = None
    capabilities = Capabilities(False, False, False, frozenset({Precision.FLOAT32}))

    def export(self, model: nn.Module, example: Example, path: Path) -> Exported:
        shapes = [tuple(parameter.shape) for parameter in model.parameters()]
        with (self.folder / "exported").open("a") as file:
            file.write(f"{type(model).__name__} {shapes} {tuple(example.args[0].shape)}\n")
        return Exported(path, 0, True)

    def open(self, path: Path, settings: Settings) -> Runner:
        return Idle()

    def version(self) -> str:
        return "1"


def test_layers_are_measured_once_and_kept(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psutil")
    monkeypatch.setenv("FEATHERWEIGHT_CACHE", str(tmp_path / "cache"))
    rule = Latency(Counting(tmp_path), batch=4, grid=4, seconds=0.001)
    times = rule.measure(Compressed(task.model()).eval(), task)
    first = times.of("second.weight", (12, 8, 3, 3))
    assert first > 0 and times.of("second.weight", (10, 5, 3, 3)) == first  # rounded up to twelve and eight
    assert times.of("second.weight", (8, 4, 3, 3)) > 0 and times.of("norm.weight", (8,)) == 0
    lines = (tmp_path / "exported").read_text().splitlines()
    assert lines == ["Conv2d [(12, 8, 3, 3), (12,)] (4, 8, 8, 8)", "Conv2d [(8, 4, 3, 3), (8,)] (4, 4, 8, 8)"]
    again = rule.measure(Compressed(task.model()).eval(), task)
    assert again.of("second.weight", (12, 8, 3, 3)) == first
    assert len((tmp_path / "exported").read_text().splitlines()) == 2


class Estimated(Macs):
    """Operations that turn out to be a fifth more than estimated, once there are fewer of them."""

    tolerance = 0.001
    asked: list[float] = []

    def actual(self, model: nn.Module, original: nn.Module, task: Task) -> float:
        macs = [operations(each, task.example()).macs_dense for each in (model, original)]
        self.asked.append(macs[0] / macs[1])
        return 1.2 * macs[0] / macs[1]


def test_an_estimate_is_corrected_by_what_is_measured(task: Task) -> None:
    Estimated.asked.clear()
    student = narrowed(task, Narrow(0.6, Estimated()))
    share = operations(student.base, task.example()).macs_dense / operations(task.model(), task.example()).macs_dense
    assert abs(1.2 * share / 0.6 - 1) < 0.1 and len(Estimated.asked) > 1
    assert share == min(Estimated.asked, key=lambda each: abs(1.2 * each / 0.6 - 1))
