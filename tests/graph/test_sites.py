"""The calls that a running model counts are those of its traced graph; and where activations are quantized."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.activations.quantizers import Sign
from featherweight.activations.rules import Calibrated
from featherweight.architectures import DigitsNet, LeNet5, LeNet300, ResNetCifar
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SelectionError
from featherweight.core.tap import Call, Operator, Place, TapSite, watching
from featherweight.core.task import Example, Task
from featherweight.graph.sites import find_activations, seen_alike
from featherweight.graph.trace import operands, trace


class InPlace(nn.Module):
    """``+=``, a concatenation, one rectifier module in two places, functional and in-place rectifiers, a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y += x
        y = torch.cat([self.relu(y), x], 1)
        y = F.relu_(F.relu(y)) + 1
        y = self.relu(y) * torch.sigmoid(2 * y)
        y *= y
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.relu = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.layer(self.relu(self.layer(x)))) + x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell, self.head = nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.first(x).relu())[0][:, -1])


class ByName(nn.Module):
    """Operands given by name, methods, and numbers that are no operands."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(input=self.layer(input=x))
        y = torch.cat(tensors=[torch.mul(input=y, other=x), y.mul(x).add(x, alpha=2)], dim=-2)
        y = torch.matmul(input=y, other=y.transpose(-1, -2)).matmul(y) @ self.layer.weight
        y = torch.tanh(y).tanh() - F.tanh(y).sigmoid() + 3 * F.silu(F.gelu(y))
        y = sum([F.hardtanh(y), F.relu6(y), y.clamp(min=0)])
        return F.layer_norm(F.linear(input=y, weight=self.layer.weight), (4,)).mean(dim=1)


class TwoNames(nn.Module):
    """Called by the second of its names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.again = self.layer

    def forward(self, x: Tensor) -> Tensor:
        return self.again(x).relu()


ALIKE = {
    "resnet": (lambda: ResNetCifar(20), (1, 3, 32, 32)),
    "lenet-300": (LeNet300, (1, 1, 28, 28)),
    "lenet-5": (LeNet5, (1, 1, 28, 28)),
    "digits": (DigitsNet, (1, 1, 8, 8)),
    "in place": (InPlace, (1, 3, 6, 6)),
    "twice": (Twice, (2, 4)),
    "lstm": (Recurrent, (2, 3, 4)),
    "by name": (ByName, (2, 3, 4)),
    "two names": (TwoNames, (2, 4)),
}


class Attending(nn.Module):
    """Attention runs as one function: what is in it is only seen in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.attention, self.last = nn.Linear(4, 4), nn.MultiheadAttention(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y + self.attention(y, y, y)[0])


class Shifted(nn.Module):
    """Adds in a way that is seen in the graph only, before one that is seen in both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        torch.ops.aten.add_.Tensor(y, x[:, :, :1])
        return self.conv(y.relu()) + x


ODD = {"attention": (Attending, (2, 3, 4)), "shifted": (Shifted, (1, 3, 4, 4))}


def made(name: str) -> tuple[nn.Module, Tensor]:
    build, shape = (ALIKE | ODD)[name]
    torch.manual_seed(0)
    return build().eval(), torch.rand(shape)


def task_of(model: nn.Module, x: Tensor) -> Task:
    return Task("sites", lambda: model, lambda: model, lambda: Example((x,)), calibration=lambda: [x])


def ran(model: nn.Module, x: Tensor) -> dict[Place, Tensor]:
    """What a run shows, in its order."""
    found: dict[Place, Tensor] = {}

    def note(place: Place, y: Tensor) -> Tensor:
        assert place not in found
        found[place] = y.detach().clone()
        return y

    with torch.no_grad(), watching(model, note):
        model(x)
    return found


@pytest.mark.parametrize("name", ALIKE)
def test_the_running_model_counts_as_the_graph_does(name: str) -> None:
    """The same calls in the same order, on operands of the same shapes."""
    model, x = made(name)
    traced = trace(model, Example((x,)))
    graph = {
        Place(call, number): tuple(operand.meta["val"].shape)
        for node, call in traced.calls.items()
        for number, operand in operands(node).items()
    }
    shown = {place: tuple(y.shape) for place, y in ran(model, x).items() if place.operand is not None}
    assert list(shown.items()) == list(graph.items())
    assert seen_alike(traced, model, Example((x,))) == {place.call for place in graph}


@pytest.mark.parametrize("name", ODD)
def test_what_is_not_seen_alike_is_left_out(name: str) -> None:
    model, x = made(name)
    traced = trace(model, Example((x,)))
    alike = seen_alike(traced, model, Example((x,)))
    shown = ran(model, x)
    assert alike < set(traced.calls.values())
    for node, call in traced.calls.items():
        if call in alike:
            its = {place.operand: tuple(y.shape) for place, y in shown.items() if place.call == call}
            its.pop(None)
            assert its == {number: tuple(y.meta["val"].shape) for number, y in operands(node).items()}
    student = Compressed(model)
    sites = Calibrated(4).taps(student, task_of(model, x))
    assert sites and {site.place.call for site in sites} <= alike
    student.tap(sites)
    assert {site.place for site in sites} <= ran(student.base, x).keys()


def test_attention_leaves_the_layers_around_it() -> None:
    model, x = made("attention")
    places = {str(site.place) for site in Calibrated().taps(Compressed(model), task_of(model, x))}
    assert places == {"first: linear, operand 1", "the model: add, result"}


def test_a_shifted_count_is_no_place() -> None:
    """The graph's second addition is the run's first."""
    model, x = made("shifted")
    traced = trace(model, Example((x,)))
    assert Call("", Operator.ADD, 1) in traced.calls.values()
    assert not any(call.operator is Operator.ADD for call in seen_alike(traced, model, Example((x,))))


@pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning")  # of recurrent layers
@pytest.mark.parametrize("name", [*ALIKE, *ODD])
def test_a_tapped_model_is_counted_alike_and_exports(name: str) -> None:
    model, x = made(name)
    student = Compressed(model)
    alike = seen_alike(trace(model, Example((x,))), model, Example((x,)))
    student.tap(Calibrated(4).taps(student, task_of(model, x)))
    assert seen_alike(trace(student.base, Example((x,))), student.base, Example((x,))) == alike
    exported = torch.export.export(student, (x,), strict=False).module()
    assert torch.equal(exported(x), student(x)) and not torch.equal(student(x), model(x))
    assert torch.equal(torch.export.export(student.base, (x,), strict=False).module()(x), student(x))


def test_a_binarized_join_is_counted_alike_and_exports() -> None:
    """What a function adds up inside is no addition of the model."""
    model, x = made("in place")
    student = Compressed(model)
    places = [place for place in ran(model, x) if place.call.operator in (Operator.ADD, Operator.CONVOLVE)]
    student.tap([TapSite(place, Sign()) for place in places if place.operand is not None])
    before, after = (trace(each, Example((x,))) for each in (model, student.base))
    assert list(before.calls.values()) == list(after.calls.values())
    assert torch.equal(torch.export.export(student, (x,), strict=False).module()(x), student(x))


def test_the_places_of_a_residual_network() -> None:
    """Between two blocks, a tensor is quantized once, where it is made; parts of it again, where they are used."""
    model, x = made("resnet")
    traced = trace(model, Example((x,)))
    found = find_activations(traced, lambda name: True)
    places = [place for each in found for place in each.places]
    assert len(set(places)) == len(places)
    named = {str(place) for place in places}
    assert {"conv1: convolve, operand 1", "the model: relu, result", "the model: mean, result"} <= named
    assert {"layer1.0: relu, result", "layer1.0.bn2: normalize, result", "layer1.0: relu 2, result"} <= named
    assert not any(each.shared for each in found)
    weights_only = find_activations(traced, lambda name: name == "linear.weight", joins=False)
    assert [str(place) for each in weights_only for place in each.places] == ["the model: mean, result"]


def test_what_is_concatenated_has_one_range() -> None:
    model, x = made("in place")
    sites = Calibrated().taps(Compressed(model), task_of(model, x))
    functions = {str(site.place): site.function for site in sites}
    assert functions["relu: relu, result"] is functions["the model: cat, operand 2"]
    assert functions["conv: convolve, result"] is not functions["relu: relu, result"]


def test_a_model_that_cannot_be_traced() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu() if x.sum().item() > 0 else x

    with pytest.raises(SelectionError, match="cannot be traced .*compress its weights instead"):
        trace(Branching(), Example((torch.rand(2),)))


def test_tracing_leaves_the_model_as_it_is() -> None:
    model, x = made("lstm")
    twin = copy.deepcopy(model)
    trace(model, Example((x,)))
    assert model.state_dict().keys() == twin.state_dict().keys()
    assert torch.equal(model(x), twin(x))
