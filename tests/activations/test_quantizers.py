"""Backward rules of activation quantizers, against independent formulas, and taps that copy and learn."""

import copy

import pytest
import torch
from torch import nn

from featherweight.activations.quantizers import LearnedStep, LearnedSteps, Sign
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SelectionError
from featherweight.core.task import Example, Task
from featherweight.file import encode


def test_learned_step_forward_and_gradients() -> None:
    torch.manual_seed(0)
    x = (3 * torch.randn(5, 7, dtype=torch.float64)).requires_grad_()
    quantizer = LearnedStep(3, torch.tensor(0.8, dtype=torch.float64), signed=True)
    y = quantizer(x)
    ratio = x.detach() / 0.8
    torch.testing.assert_close(y.detach(), 0.8 * ratio.clamp(-4, 3).round())
    y.sum().backward()
    inside = (ratio >= -4) & (ratio <= 3)
    assert torch.equal(x.grad, inside.double())
    by_step = torch.where(inside, ratio.round() - ratio, ratio.clamp(-4, 3)).sum()
    torch.testing.assert_close(quantizer.step.grad, by_step * (7 * 3) ** -0.5)


def test_step_starts_unsigned_after_a_relu() -> None:
    x = torch.rand(4, 5)
    quantizer = LearnedStep.starting_from(x, 4)
    assert (quantizer.low, quantizer.high) == (0, 15)
    torch.testing.assert_close(quantizer.step.detach(), 2 * x.mean() / 15**0.5)


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
    for site in LearnedSteps(("*",), 3).taps(student, task)[-2:]:
        student.tap(site.module, site.function, site.output)
    return model, student


def test_taps_quantize_the_copy_and_not_the_model() -> None:
    model, student = tapped()
    x = torch.randn(5, 4)
    assert not torch.allclose(student(x), model(x))
    assert not model.second._forward_pre_hooks
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
    task = Task("two", Two, lambda: model, lambda: Example((torch.randn(1, 4),)))
    with pytest.raises(SelectionError, match="third"):
        LearnedSteps(("third",)).taps(student, task)


def test_the_file_says_that_it_cannot_hold_them() -> None:
    _, student = tapped()
    with pytest.raises(FormatError, match="activation quantizers"):
        encode(student)
