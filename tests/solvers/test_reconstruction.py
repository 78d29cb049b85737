"""Block reconstruction: what belongs together is rounded together, and the block is never farther from its output."""

import pytest
import torch
from torch import Tensor, nn

from featherweight.activations.dropping import QuantizationDrop
from featherweight.activations.ranges import MinMax
from featherweight.activations.rules import Calibrated
from featherweight.architectures.resnet_cifar import ResNetCifar
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import Example, Task
from featherweight.run import run
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.uniform import PerChannel, Uniform, UniformCode
from featherweight.solvers.reconstruction import BlockReconstruction, block_of

SCHEME = Uniform(3, granularity=PerChannel())
QUICK = BlockReconstruction(steps=150, lr=0.05, samples=64)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(self.first(x).relu())
        return y


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = Residual(), Residual(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.two(self.one(x)))
        return y


def made() -> tuple[nn.Module, Task, Tensor]:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(64, 8)
    x = x + x[:, :1]
    return model, Task("t", Net, lambda: model, lambda: Example((x[:2],)), calibration=lambda: [x[:32], x[32:]]), x


def test_blocks_of_a_residual_network() -> None:
    model = ResNetCifar(20)
    assert block_of(model, "conv1.weight") == "conv1" and block_of(model, "linear.weight") == "linear"
    assert block_of(model, "layer2.0.conv2.weight") == "layer2.0"
    assert block_of(model, "layer2.0.conv2.weight", ("layer?",)) == "layer2"
    assert block_of(model, "layer2.0.conv2.weight", ("*.conv2",)) == "layer2.0.conv2"
    names = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "linear.weight"]
    groups = BlockReconstruction().groups(Compressed(model), names)
    assert groups == [names[:1], names[1:3], names[3:]]


@pytest.mark.parametrize("fisher", [False, True])
def test_a_blocks_output_is_nearer_than_by_rounding(fisher: bool) -> None:
    model, task, x = made()
    student = Compressed(model).eval()
    original = Compressed(model).eval()
    schemes = {"one.first.weight": SCHEME, "one.second.weight": SCHEME}
    solver = BlockReconstruction(steps=300, lr=0.05, samples=64, fisher=fisher)
    learned = solver.project(student, original, schemes, task)
    assert torch.equal(student.weight("one.first.weight"), original.weight("one.first.weight"))
    errors = []
    for codes in ({name: SCHEME.project(original.weight(name).detach()) for name in schemes}, learned):
        tried = Compressed(model).eval()
        tried.encode(codes, schemes)
        errors.append(float((tried.base.one(x) - model.one(x)).detach().square().mean()))  # type: ignore[operator]
    assert errors[1] < 0.6 * errors[0]
    for name, code in learned.items():
        nearest = SCHEME.project(original.weight(name).detach())
        assert isinstance(code, UniformCode) and torch.equal(code.scales.decode(), nearest.scales.decode())
        assert (code.levels - nearest.levels).abs().max() <= 1


def test_later_blocks_make_up_for_earlier_ones_in_a_run() -> None:
    model, task, x = made()
    recipe = Recipe("r", (Stage("round", {WEIGHTS: SCHEME}, projector=QUICK),))
    student, (covered,) = run(model, task, recipe)
    assert len(covered.touched) == 5
    nearest, _ = run(model, task, Recipe("r", (Stage("round", {WEIGHTS: SCHEME}),)))
    assert (student(x) - model(x)).square().mean() < 0.6 * (nearest(x) - model(x)).square().mean()


def test_quantized_activations_are_dropped_while_it_learns_and_back_afterwards() -> None:
    model, task, x = made()
    tap = Calibrated(4, MinMax())
    recipe = Recipe(
        "r", (Stage("round", {WEIGHTS: SCHEME}, projector=BlockReconstruction(steps=50, drop=0.5), tap=tap),)
    )
    student, _ = run(model, task, recipe)
    assert student.sites and not any(isinstance(function, QuantizationDrop) for function in student.sites.values())
    assert all(function.settled() is function for function in student.sites.values())
    again, _ = run(model, task, recipe)
    assert torch.equal(student(x), again(x))


def test_dropping_leaves_the_share_that_is_asked_for() -> None:
    torch.manual_seed(0)
    student = Compressed(made()[0])
    student.tap(Calibrated(2, MinMax()).taps(student, made()[1]))
    function = next(iter(student.sites.values()))
    x = torch.randn(10_000) * 0.9
    kept = (QuantizationDrop(function, 0.3)(x) == x).float().mean()
    assert 0.28 < float(kept) < 0.32
    assert torch.equal(QuantizationDrop(function, 0.0)(x), function(x)) and torch.equal(
        QuantizationDrop(function, 1.0)(x), x
    )
    with pytest.raises(SchemeError, match="0 to 1"):
        QuantizationDrop(function, 1.5)
    with pytest.raises(FormatError):
        QuantizationDrop.from_json([])


def test_what_cannot_be_reconstructed_is_told() -> None:
    model, task, _ = made()
    student, original = Compressed(model).eval(), Compressed(model).eval()
    with pytest.raises(SchemeError, match="levels of Uniform"):
        QUICK.project(student, original, {"head.weight": Codebook(4)}, task)
    with pytest.raises(SchemeError, match="tap rule"):
        BlockReconstruction(drop=0.5).project(student, original, {"head.weight": SCHEME}, task)
    with pytest.raises(SchemeError, match="one step"):
        BlockReconstruction(steps=0)
