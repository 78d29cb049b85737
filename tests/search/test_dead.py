"""What a training drove to zero is cut, and the model computes what it did: in float64, with nothing else at zero."""

import copy

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.architectures import ResNetCifar
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, SelectionError
from featherweight.core.stage import EditRule, Recipe, Stage
from featherweight.core.task import Example, Task
from featherweight.graph.edits import walk
from featherweight.run import run
from featherweight.search.dead import CutDead, CutGains


class Plain(nn.Module):
    """Linear layers and an activation that does not keep zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sigmoid(self.second(torch.tanh(self.first(x)))))


class Convolved(nn.Module):
    """A norm behind every convolution, none of which pads; a depthwise one; a flatten into a linear layer."""

    def __init__(self, padding: int = 0) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 6, 3, padding=padding, bias=False)
        self.norm1 = nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 6, 3, groups=6)
        self.norm2 = nn.BatchNorm2d(6)
        self.two = nn.Conv2d(6, 5, 3, padding=padding, bias=False)
        self.norm3 = nn.BatchNorm2d(5)
        self.head = nn.Linear(5 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.one(x)))
        x = torch.relu(self.norm2(self.deep(x)))
        x = torch.relu(self.norm3(self.two(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = model.double().eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn_like(tensor)
            tensor.copy_(drawn.abs() + 0.3 if "var" in name else drawn)
    return model


def task(model: nn.Module, *shape: int) -> Task:
    x = torch.randn(4, *shape, dtype=torch.float64)
    return Task("dead", lambda: model, lambda: model, lambda: Example((x,)), calibration=lambda: [x])


def cut_by(rule: EditRule, model: nn.Module, *shape: int) -> Compressed:
    student, _ = run(model, task(model, *shape), Recipe("cut", (Stage("cut", edit=rule),)))
    return student


def same(student: nn.Module, model: nn.Module, *shape: int) -> bool:
    x = torch.randn(16, *shape, dtype=torch.float64)
    return torch.allclose(student(x), model(x), rtol=1e-9, atol=1e-9)


def zero(tensor: Tensor, *at: int) -> None:
    with torch.no_grad():
        tensor[list(at)] = 0


def test_neurons_that_are_read_by_zeros_go() -> None:
    model = randomised(Plain())
    zero(model.second.weight.T, 1, 4, 5)
    student = cut_by(CutDead(), model, 5)
    assert student.base.first.weight.shape == (5, 5) and student.base.second.weight.shape == (6, 5)
    assert same(student, model, 5)


def test_neurons_without_inputs_leave_what_their_biases_were() -> None:
    model = randomised(Plain())
    zero(model.first.weight, 0, 2)
    zero(model.second.weight, 3)
    student = cut_by(CutDead(), model, 5)
    assert student.base.second.weight.shape == (5, 6) and student.base.last.weight.shape == (3, 5)
    assert same(student, model, 5), "tanh(b) and sigmoid(b) are in the biases of what read them"


def test_channels_behind_a_gain_of_zero_leave_what_their_shift_was() -> None:
    model = randomised(Convolved())
    zero(model.norm3.weight, 0, 3)
    with torch.no_grad():
        model.norm3.bias.copy_(torch.tensor([1.5, 0.2, 0.1, -0.7, 0.3]))
    student = cut_by(CutDead(), model, 2, 9, 9)
    assert student.base.two.weight.shape[0] == 3 and student.base.head.in_features == 12
    assert same(student, model, 2, 9, 9)


def test_a_layer_without_a_bias_has_the_constant_in_the_mean_of_its_norm() -> None:
    model = randomised(Convolved())
    zero(model.norm2.weight, 1, 2)
    with torch.no_grad():
        model.norm2.bias.fill_(0.8)
    student = cut_by(CutDead(), model, 2, 9, 9)
    assert student.base.deep.groups == student.base.one.out_channels == 4
    assert same(student, model, 2, 9, 9)


def test_through_a_depthwise_convolution_without_padding_a_constant_stays_one() -> None:
    model = randomised(Convolved())
    zero(model.norm1.weight, 0)
    student = cut_by(CutDead(), model, 2, 9, 9)
    assert student.base.one.out_channels == 5
    assert same(student, model, 2, 9, 9)


def test_a_constant_ends_at_the_border_of_a_padded_map() -> None:
    model = randomised(Convolved(padding=1))
    zero(model.norm2.weight, 1)
    with torch.no_grad():
        model.norm2.bias.fill_(0.8)
    with pytest.raises(SelectionError, match="is dead"):
        cut_by(CutDead(borders=False), model, 2, 9, 9)
    assert not same(cut_by(CutDead(), model, 2, 9, 9), model, 2, 9, 9)
    with torch.no_grad():
        model.norm2.bias.fill_(-0.8)
    assert same(cut_by(CutDead(borders=False), model, 2, 9, 9), model, 2, 9, 9), "relu(-0.8) is zero everywhere"


def test_in_a_residual_stream_a_channel_dies_when_all_that_write_it_do() -> None:
    model = randomised(ResNetCifar(8))
    zero(model.bn1.weight, 5)
    model.bn1.bias.data[5] = -1.0
    with pytest.raises(SelectionError, match="is dead"):
        cut_by(CutDead(), model, 3, 16, 16)
    zero(model.layer1[0].bn2.weight, 5)
    model.layer1[0].bn2.bias.data[5] = -1.0
    inner = model.layer3[0].bn1
    zero(inner.weight, *range(10))
    inner.bias.data[:10] = -0.5
    student = cut_by(CutDead(borders=False), model, 3, 16, 16)
    assert student.base.layer3[0].conv1.out_channels == 54
    assert same(student, model, 3, 16, 16)


def test_one_channel_of_a_group_stays_and_the_file_holds_the_moved_mean() -> None:
    model = randomised(Convolved()).float()
    zero(model.norm2.weight, *range(6))
    x = torch.randn(4, 2, 9, 9)
    given = Task("dead", Convolved, lambda: model, lambda: Example((x,)), calibration=lambda: [x])
    student, coverage = run(model, given, Recipe("cut", (Stage("cut", edit=CutDead()),)))
    assert student.base.one.out_channels == 1 and coverage[0].changes == 1
    loaded, _ = file.load(file.encode(student), Convolved())
    assert torch.equal(loaded(x), student(x))
    torch.testing.assert_close(student(x), model(x), rtol=1e-4, atol=1e-4)


def test_what_is_not_dead_stays() -> None:
    model = randomised(Convolved())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SelectionError, match="stronger penalty"):
        cut_by(CutDead(), model, 2, 9, 9)
    student = Compressed(model).eval()
    assert CutDead(optional=True).decide(student, task(model, 2, 9, 9)) == []
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(SchemeError):
        CutDead(tolerance=-1.0)


def test_one_threshold_for_all_gains() -> None:
    model = randomised(ResNetCifar(8))
    labels = walk(model, Example((torch.randn(1, 3, 16, 16, dtype=torch.float64),))).labels
    inner = [model.get_submodule(f"layer{k}.0.bn1") for k in (1, 2, 3)]
    strongest = []
    for places in labels.free.values():
        gains = [
            float(model.state_dict()[n][i].abs()) for n, _, i in places if ".bn" in f".{n}" and n.endswith("weight")
        ]
        strongest.append(max(gains))
    threshold = sorted(strongest)[round(0.4 * len(strongest)) - 1]
    alive = [int((norm.weight.abs() > threshold).sum()) for norm in inner]
    student = cut_by(CutGains(0.4), model, 3, 16, 16)
    assert [student.base.get_submodule(f"layer{k}.0.conv1").out_channels for k in (1, 2, 3)] == alive
    total = sum(p.shape[0] for n, p in student.base.named_parameters() if n.endswith("bn1.weight") and "layer" in n)
    assert total == sum(alive) < 112
    plain = randomised(Plain())
    with pytest.raises(SelectionError, match="batch norm"):
        cut_by(CutGains(0.5), plain, 5)
