"""Activations and gradients in fixed point: both are rounded, on average to what they were; nothing stays."""

import torch
from torch import nn

from featherweight.activations.fixed_point import LimitedPrecision, LimitedPrecisions
from featherweight.core.compressed import Compressed
from featherweight.core.task import Example, Task
from featherweight.schemes.fixed_point import FixedPoint, Rounding


def test_values_and_gradients_are_on_their_grids() -> None:
    function = LimitedPrecision(FixedPoint(3, 4), FixedPoint(1, 6))
    x = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    upstream = 0.3 * torch.randn(50, 40, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = function(x)
        y.backward(upstream)
    assert torch.equal(y, FixedPoint(3, 4).rounded(y)) and not torch.equal(y, FixedPoint(3, 4).rounded(x))
    assert x.grad is not None and torch.equal(x.grad, FixedPoint(1, 6).rounded(x.grad))
    assert abs(float((y - x).detach().mean())) < 4 * 2**-4 * 0.5 / 2000**0.5
    assert abs(float((x.grad - upstream).mean())) < 4 * 2**-6 * 0.5 / 2000**0.5
    function.eval()
    assert torch.equal(function(x), FixedPoint(3, 4).rounded(x.detach()))
    assert function.settled() is None


def test_what_layers_take_in_and_give_out_is_rounded_while_learning() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.randn(4, 6)
    task = Task("t", lambda: model, lambda: model, lambda: Example((x,)), calibration=lambda: [(x,)])
    student = Compressed(model)
    sites = LimitedPrecisions(grid=FixedPoint(4, 3), rounding=Rounding.NEAREST).taps(student, task)
    assert {str(site.place) for site in sites} == {
        f"{layer}: linear, {what}" for layer in "02" for what in ("operand 1", "result")
    }
    student.tap(sites)
    seen = student(x)
    assert torch.equal(seen, FixedPoint(4, 3).rounded(seen)) and not torch.equal(seen, model(x))
    student.settle()
    assert not student.sites and torch.equal(student(x), model(x))
