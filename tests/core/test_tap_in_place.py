"""Activations that are written to where they lie: whoever holds them sees what was made of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.activations.quantizers import Quantizer
from featherweight.activations.rules import Calibrated
from featherweight.core.compressed import Compressed
from featherweight.core.tap import FUNCTIONS, INPLACE, WRITING, Call, Function, Operator, Place, TapSite, watching
from featherweight.core.task import Example, Task
from featherweight.graph.integer import IntegerProgram
from featherweight.graph.lower import integer_program
from featherweight.schemes.uniform import PerChannel, Uniform

from .test_tap import Affine

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
STEPS: dict[str, tuple[Operator, Callable[[Tensor, Tensor], Any], Callable[[Tensor, Tensor], Tensor]]] = {
    "add_": (Operator.ADD, lambda y, x: y.add_(x), lambda y, x: y + x),
    "add_ twice itself": (Operator.ADD, lambda y, x: y.add_(y), lambda y, x: y + y),
    "mul_": (Operator.MULTIPLY, lambda y, x: y.mul_(x), lambda y, x: y * x),
    "relu_": (Operator.RELU, lambda y, x: y.relu_(), lambda y, x: y.relu()),
    "torch.relu_": (Operator.RELU, lambda y, x: torch.relu_(y), lambda y, x: y.relu()),
    "relu in place": (Operator.RELU, lambda y, x: F.relu(y, inplace=True), lambda y, x: y.relu()),
    "relu in place by position": (Operator.RELU, lambda y, x: F.relu(y, True), lambda y, x: y.relu()),
    "relu6": (Operator.RELU6, lambda y, x: F.hardtanh(y, 0.0, 6.0, True), lambda y, x: F.relu6(y)),
    "silu": (Operator.ACTIVATE, lambda y, x: F.silu(y, inplace=True), lambda y, x: F.silu(y)),
    "sigmoid_": (Operator.ACTIVATE, lambda y, x: y.sigmoid_(), lambda y, x: y.sigmoid()),
}


class Statement(nn.Module):
    """A step whose result is discarded (``used`` is false), used, or read through another name or a view."""

    def __init__(self, step: Callable[[Tensor, Tensor], Any], read: str) -> None:
        super().__init__()
        self.layer, self.head, self.step, self.read = nn.Linear(4, 4), nn.Linear(4, 2), step, read

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.read == "result":
            y = self.step(y, x)
        elif self.read == "view":
            self.step(y.view(-1), x.view(-1))
        else:
            self.step(y, x)
        logits: Tensor = self.head(y)
        return logits


def statement(name: str, read: str) -> Statement:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Statement(STEPS[name][1], read).eval()


def by_hand(model: Statement, name: str, operand: int | None, f: Function) -> Tensor:
    operator, _, step = STEPS[name]
    y, x = model.layer(X), X
    if operand is None:
        return model.head(f(step(y, x)))
    if name == "add_ twice itself":
        return model.head(f(y) + y)
    return model.head(step(f(y), x) if operand == 0 else step(y, f(x)))


@pytest.mark.parametrize("read", ["discarded", "result", "view"])
@pytest.mark.parametrize("operand", [0, 1, None])
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("make", [lambda: Affine(0.5), lambda: Quantizer(3, -4, torch.tensor(0.4), learned=True)])
def test_what_is_made_of_it_is_what_others_go_on_with(
    name: str, operand: int | None, read: str, make: Callable[[], Function]
) -> None:
    operator = STEPS[name][0]
    if operand == 1 and (operator not in (Operator.ADD, Operator.MULTIPLY) or name == "add_ twice itself"):
        return
    model, f = statement(name, read), make()
    student = Compressed(model)
    student.tap([TapSite(Place(Call("", operator), operand), f)])
    with torch.no_grad():
        torch.testing.assert_close(student(X), by_hand(model, name, operand, f))
        assert not torch.allclose(student(X), model(X))
        exported = torch.export.export(student, (X,), strict=False).module()
        torch.testing.assert_close(exported(X), student(X))


@pytest.mark.parametrize("operand", [0, None])
@pytest.mark.parametrize("name", ["add_", "add_ twice itself", "relu_", "relu6", "silu", "mul_"])
def test_gradients_are_those_of_the_same_out_of_place(name: str, operand: int | None) -> None:
    operator = STEPS[name][0]
    gradients = []
    for ours in (True, False):
        model, f = statement(name, "discarded"), Quantizer(3, -4, torch.tensor(0.4), learned=True)
        with watching(model, lambda at, x, f=f: f(x), [Place(Call("", operator), operand)] if ours else []):
            outputs = model(X) if ours else by_hand(model, name, operand, f)
        outputs.square().sum().backward()
        gradients.append([p.grad for p in (*model.parameters(), *f.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_watching_changes_nothing_and_shows_what_was_there_before() -> None:
    model, shown = statement("relu_", "discarded"), {}

    def note(at: Place, x: Tensor) -> Tensor:
        shown[at] = x
        return x

    expected = model(X)
    with watching(model, note):
        assert torch.equal(model(X), expected)
    call = Call("", Operator.RELU)
    assert torch.equal(shown[Place(call, 0)], model.layer(X))
    assert torch.equal(shown[Place(call, None)], model.layer(X).relu())


def test_which_functions_write() -> None:
    named = {each.__name__ for each in WRITING}
    assert named == {"add_", "__iadd__", "mul_", "__imul__", "relu_", "sigmoid_", "tanh_"}
    assert {each.__name__: at for each, at in INPLACE.items()} == {
        "relu": 1, "relu6": 1, "hardtanh": 3, "silu": 1, "hardswish": 1,
    }  # fmt: skip
    assert not INPLACE.keys() & WRITING and FUNCTIONS.keys() > INPLACE.keys() | WRITING


class Blocks(nn.Module):
    """Images through a sum whose result is discarded; or one through a view."""

    def __init__(self, viewed: bool) -> None:
        super().__init__()
        self.first, self.last, self.viewed = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1), viewed

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.viewed:
            y.view(y.shape).add_(x)
        else:
            y.add_(x)
        maps: Tensor = self.last(y)
        return maps


IMAGES = torch.randn(8, 4, 5, 5, generator=torch.Generator().manual_seed(3))


def calibrated(viewed: bool) -> Compressed:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Blocks(viewed).eval()
    student, scheme = Compressed(model), Uniform(8, granularity=PerChannel())
    names = ("first.weight", "last.weight")
    student.encode({name: scheme.project(student.source(name)) for name in names}, dict.fromkeys(names, scheme))
    task = Task("blocks", lambda: model, lambda: model, lambda: Example((IMAGES[:1],)), calibration=lambda: [IMAGES])
    student.tap(Calibrated(8).taps(student, task))
    return student


@torch.no_grad()
def test_a_sum_whose_result_is_discarded_is_quantized_and_runs_on_integers() -> None:
    student = calibrated(viewed=False)
    total = Place(Call("", Operator.ADD), None)
    assert total in student.sites
    seen = []
    with watching(student.base, lambda at, x: (seen.append(x), x)[1], [Place(Call("last", Operator.CONVOLVE), 0)]):
        student(IMAGES)
    levels = seen[0] / student.sites[total].scale  # type: ignore[operator]
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    lowered = integer_program(student, Example((IMAGES[:1],)))
    assert isinstance(lowered, IntegerProgram)
    difference = (lowered(IMAGES) - student(IMAGES)).abs().max() / student(IMAGES).abs().max()
    assert float(difference) < 0.05


def test_what_was_written_to_through_a_view_stays_float() -> None:
    """The graph says that the last layer takes what the first one made, which is there no more."""
    student = calibrated(viewed=True)
    calls = {place.call.module for place in student.sites}
    assert "last" not in calls and Place(Call("first", Operator.CONVOLVE), None) not in student.sites
