"""Logarithmic quantizers of activations and gradients, against formulas."""

import pytest
import torch
from torch import Tensor, nn

from featherweight.activations.logarithmic import LogActivations, LogGradient, LogQuantizer
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.task import Example, Task
from featherweight.report.layers import activations
from featherweight.schemes.logarithmic import Base


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("base", Base)
def test_the_nearest_exponent_of_the_levels(base: Base, signed: bool) -> None:
    """The nearest in ratio of every level that is listed here, where x is not below all of them."""
    x = 3 * draw(500)
    y = LogQuantizer(5, base, 1, signed=signed)(x)
    levels = 2 ** (torch.arange(-3, 2, dtype=torch.float64) / base.value)
    nearest = levels[(x.abs().double().log2()[:, None] - levels.log2()).abs().argmin(1)]
    under = x.abs().double() < levels[0] * 2 ** (-0.5 / base.value)
    expected = torch.where(under, 0, x.sign() * nearest)
    torch.testing.assert_close(y, (expected if signed else expected.clamp(min=0)).float())
    assert 0 < int(under.sum()) < 450


def test_zero_stays_zero_and_powers_stay_what_they_are() -> None:
    function = LogQuantizer(4, Base.TWO, 2, signed=True)
    x = torch.tensor([0.0, -0.0, 0.5, 1, -2, 4, 8, 1e30, -1e30, 1e-30])
    assert torch.equal(function(x), torch.tensor([0.0, 0, 0.5, 1, -2, 4, 4, 4, -4, 0]))


@pytest.mark.parametrize("signed", [True, False])
def test_gradients_pass_inside_the_range(signed: bool) -> None:
    x, g = (4 * draw(100)).requires_grad_(), draw(100, seed=1)
    LogQuantizer(3, Base.TWO, 1, signed=signed)(x).backward(g)
    inside = (x.abs() < 2**1.5) & (signed | (x > 0))
    assert x.grad is not None and torch.equal(x.grad, g * inside)
    assert 0 < int(inside.sum()) < 100


def test_covering_takes_top_and_sign_from_what_it_sees() -> None:
    both, positive = LogQuantizer.covering(torch.tensor([-3.0, 1.0]), 4), LogQuantizer.covering(torch.rand(9) + 1, 4)
    assert (both.magnitudes, both.top, both.signed, both.bits) == (7, 2, True, 4)
    assert (positive.magnitudes, positive.signed, positive.bits) == (15, False, 4)
    assert LogQuantizer.covering(torch.tensor([1.5, 0.0]), 3, Base.ROOT).top == 1
    assert LogQuantizer.covering(torch.zeros(3), 3).top == 0
    with pytest.raises(SchemeError, match="one bit"):
        LogQuantizer.covering(torch.tensor([-1.0]), 1)


def test_gradients_are_powers_of_two_near_what_they_were() -> None:
    x, g = draw(4, 5).requires_grad_(), draw(4, 5, seed=2)
    y = LogGradient(5)(x)
    assert torch.equal(y, x)
    y.backward(g)
    assert x.grad is not None
    exponents = torch.log2(x.grad[x.grad != 0].abs())
    assert torch.equal(exponents, exponents.round()) and float(exponents.max() - exponents.min()) < 15
    ratio = (x.grad / g)[x.grad != 0]
    assert float(ratio.min()) >= 2**-0.501 and float(ratio.max()) <= 2**0.501


def test_the_rule_taps_inputs_and_the_gradients_of_results() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    example = draw(8, 4)
    task = Task("log", lambda: model, lambda: model, lambda: Example((example,)), calibration=lambda: [(example,)])
    student = Compressed(model)
    student.tap(LogActivations(bits=3, exceptions=(("0", 5),), gradients=5).taps(student, task))
    kinds = {str(place): function for place, function in student.sites.items()}
    assert [f.bits for f in kinds.values() if isinstance(f, LogQuantizer)] == [5, 3]
    assert sum(isinstance(f, LogGradient) for f in kinds.values()) == 2
    student.settle()
    assert all(isinstance(function, LogQuantizer) for function in student.sites.values())
    told = activations(student.sites)
    assert [(each.function, each.bits) for each in told] == [("logarithmic", 5), ("logarithmic", 3)]
    assert told[0].low == -told[0].high and told[1].low == 0.0  # type: ignore[operator]


@pytest.mark.parametrize(
    "record", [[], [7, 1, 0], [0, 1, 0, 0], [129, 1, 0, 0], [7, 3, 0, 0], [7, 1, 128, 0], [7, 1, 0, 2], [7, 1, 0, True]]
)
def test_malformed_records(record: list) -> None:
    with pytest.raises(FormatError):
        LogQuantizer.from_json(record)
