"""Backward rules of activation quantizers, against independent formulas, and taps that copy and learn."""

import copy

import pytest
import torch
from torch import nn

from featherweight.activations.quantizers import Quantizer, Sign
from featherweight.activations.rules import LearnedSteps
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SelectionError
from featherweight.core.tap import TapSite
from featherweight.core.task import Example, Task
from featherweight.file import encode, load


@pytest.mark.parametrize(("bits", "lowest"), [(3, -4), (2, 0), (8, -100), (1, 0)])
def test_learned_scale_forward_and_gradients(bits: int, lowest: int) -> None:
    torch.manual_seed(0)
    x = (3 * torch.randn(5, 7, dtype=torch.float64)).requires_grad_()
    quantizer = Quantizer(bits, lowest, torch.tensor(0.8, dtype=torch.float64), learned=True)
    y = quantizer(x)
    ratio, highest = x.detach() / 0.8, lowest + 2**bits - 1
    torch.testing.assert_close(y.detach(), 0.8 * ratio.round().clamp(lowest, highest))
    weights = torch.randn(5, 7, dtype=torch.float64)
    (weights * y).sum().backward()
    inside = (ratio > lowest) & (ratio < highest)
    assert torch.equal(x.grad, weights * inside)
    by_scale = weights * torch.where(inside, ratio.round() - ratio, ratio.clamp(lowest, highest))
    torch.testing.assert_close(quantizer.scale.grad, by_scale.sum() * (7 * max(highest, 1)) ** -0.5)


def test_a_fixed_scale_has_no_gradient() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    quantizer = Quantizer(4, -8, torch.tensor(0.1))
    quantizer(x).sum().backward()
    assert quantizer.scale.grad is None
    assert torch.equal(x.grad, ((x > -0.8) & (x < 0.7)).float())


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 6.0), (0.0, 0.0)])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_levels_cover_a_range_and_hold_zero(low: float, high: float, bits: int, symmetric: bool) -> None:
    quantizer = Quantizer.covering(low, high, bits, symmetric=symmetric)
    step = quantizer.scale.item()
    assert quantizer(torch.zeros(1)).item() == 0
    ends = torch.tensor([low, high, min(low, 0), max(high, 0)])
    # An affine grid is moved by at most half a step, so that zero is a level: as much of an end can be cut off.
    assert bool(((quantizer(ends) - ends).abs() <= step * 1.0001).all())
    assert not (symmetric and low < 0) or quantizer.symmetric


def test_what_is_exported_is_what_is_trained() -> None:
    x = 3 * torch.randn(100)
    quantizer = Quantizer.covering(-2.0, 5.0, 5)
    exported = torch.export.export(quantizer, (x,), strict=False).module()
    assert torch.equal(exported(x), quantizer(x))


@pytest.mark.parametrize("record", [[], [8, 0], [9, 0, 1.0], [8, 1, 1.0], [8, -300, 1.0], [8, 0, 0.0], [8, 0, -1.0],
                                    [8, 0, float("inf")], [8, 0, float("nan")], [8, 0, 1e-60], [8.0, 0, 1.0],
                                    [8, 0, "1"], [8, 0, 1]])  # fmt: skip
def test_malformed_records_of_quantizers(record: list) -> None:
    with pytest.raises(FormatError):
        Quantizer.from_json(record)
    with pytest.raises(FormatError):
        Sign.from_json([*record, 1])


def test_scale_starts_unsigned_after_a_relu() -> None:
    x = torch.rand(4, 5)
    quantizer = Quantizer.starting_from(x, 4)
    assert (quantizer.lowest, quantizer.highest) == (0, 15)
    torch.testing.assert_close(quantizer.scale.detach(), 2 * x.mean() / 15**0.5)


def test_sign_passes_gradients_where_small() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    y = Sign()(x)
    assert y.tolist() == [-1, -1, 1, 1, 1]
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def tapped() -> tuple[Two, Compressed]:
    torch.manual_seed(0)
    model, x = Two(), torch.randn(16, 4)
    task = Task("two", Two, lambda: model, lambda: Example((x,)), calibration=lambda: [x])
    student = Compressed(model)
    student.tap(LearnedSteps(("*",), 3).taps(student, task))
    return model, student


def test_taps_quantize_the_copy_and_not_the_model() -> None:
    model, student = tapped()
    x = torch.randn(5, 4)
    assert not torch.allclose(student(x), model(x))
    assert not model.second._forward_pre_hooks and not model._forward_pre_hooks
    assert len(list(student.taps.parameters())) == 2


def test_a_copy_has_taps_of_its_own() -> None:
    _, student = tapped()
    x = torch.randn(5, 4)
    before = student(x)
    other = copy.deepcopy(student)
    with torch.no_grad():
        for step in other.taps.parameters():
            step.mul_(3)
    assert torch.equal(student(x), before)
    assert not torch.equal(other(x), before)


def test_no_such_module() -> None:
    model, student = tapped()
    task = Task(
        "two", Two, lambda: model, lambda: Example((torch.randn(1, 4),)), calibration=lambda: [torch.randn(1, 4)]
    )
    with pytest.raises(SelectionError, match="third"):
        LearnedSteps(("third",)).taps(student, task)


def test_a_file_holds_them() -> None:
    model, student = tapped()
    loaded, _ = load(encode(student), model)
    x = torch.randn(5, 4)
    assert torch.equal(loaded(x), student(x))
    assert [str(place) for place in loaded.sites] == [
        "first: linear, operand 1",
        "second: linear, operand 1",
    ]
    assert not torch.equal(loaded(x), model(x))


def test_a_file_cannot_hold_what_it_does_not_know() -> None:
    _, student = tapped()

    class Own(Sign):
        pass

    student.tap([TapSite(next(iter(student.sites)), Own())])
    with pytest.raises(FormatError, match="Own"):
        encode(student)
