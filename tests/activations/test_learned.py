"""Activations whose ranges learn: forward and backward rules against independent formulas, and what stays."""

import pytest
import torch

from featherweight.activations.learned import (
    Clipped,
    HalfWave,
    MovingRange,
    QuantizedGradient,
    ShiftedError,
    half_wave_step,
)
from featherweight.activations.quantizers import Quantizer
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.tap import Call, Operator, Place, TapSite
from featherweight.file import encode


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_clipping_and_its_gradients() -> None:
    x = draw(6, 7).double().requires_grad_()
    clipped = Clipped(3, torch.tensor(0.9, dtype=torch.float64))
    weights = draw(6, 7, seed=1).double()
    y = clipped(x)
    step = 0.9 / 7
    torch.testing.assert_close(y, (x.detach().clamp(0, 0.9) / step).round() * step)
    (weights * y).sum().backward()
    torch.testing.assert_close(x.grad, weights * ((x > 0) & (x < 0.9)))
    torch.testing.assert_close(clipped.alpha.grad, weights[x.detach() >= 0.9].sum())


def test_what_stays_of_clipping_computes_the_same() -> None:
    x = 3 * draw(100)
    clipped = Clipped(4, torch.tensor(1.3))
    kept = clipped.settled()
    assert isinstance(kept, Quantizer) and (kept.lowest, kept.highest) == (0, 15)
    torch.testing.assert_close(kept(x), clipped(x))


def test_half_wave_never_makes_zero_of_what_is_positive() -> None:
    x = torch.tensor([-1.0, 0.0, 1e-6, 0.3, 0.9, 1.2, 5.0], requires_grad=True)
    y = HalfWave(2, 0.5)(x)
    assert y.tolist() == [0, 0, 0.5, 0.5, 1.0, 1.0, 1.5]
    y.sum().backward()
    assert x.grad.tolist()[0] == 0 and x.grad.tolist()[2:] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_the_half_wave_step_is_best_for_half_a_gaussian(bits: int) -> None:
    x = draw(400_000, seed=3).double().abs()

    def error(step: float) -> float:
        levels = step * torch.arange(1, 2**bits, dtype=torch.float64)
        return float((x[:, None] - levels).square().amin(1).mean())

    step = half_wave_step(bits)
    assert all(error(step) <= error(step * factor) for factor in (0.9, 0.95, 1.05, 1.1))


def test_moving_ranges_wait_then_quantize_and_stay() -> None:
    moving = MovingRange(8, decay=0.5, delay=1)
    first, second = torch.tensor([[-1.0, 2.0]]), torch.tensor([[0.5, 4.0]])
    assert torch.equal(moving(first), first)
    moving(second)
    assert (float(moving.low), float(moving.high)) == (-0.5, 3.0)
    kept = moving.settled()
    x = draw(50)
    assert torch.equal(kept(x), Quantizer.covering(-0.5, 3.0, 8)(x))
    moving.eval()
    assert torch.equal(moving(x), kept(x)) and int(moving.seen) == 2
    with pytest.raises(SchemeError, match="no batch"):
        MovingRange(8).settled()


def test_quantized_gradients_lie_on_their_grid_and_are_right_on_average() -> None:
    x = draw(4, 5).requires_grad_()
    g = draw(4, 5, seed=2)
    total = torch.zeros(4, 5)
    for seed in range(300):
        torch.manual_seed(seed)
        x.grad = None
        y = QuantizedGradient(4)(x)
        assert torch.equal(y, x)
        y.backward(g)
        largest = g.abs().amax(1, keepdim=True)
        levels = (x.grad / (2 * largest) + 0.5) * 15
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        total += x.grad
    assert float((total / 300 - g).abs().max()) < 0.1 * float(g.abs().max())


def test_random_rounding_of_small_gradients_leans_to_no_side_in_bfloat16() -> None:
    g = 0.01 * draw(64, 2048)
    g[:, 0] = 1.0  # the largest: all others are far below a step
    x = torch.zeros(64, 2048, dtype=torch.bfloat16, requires_grad=True)
    torch.manual_seed(7)  # another than the gradient's, whose draws would follow it
    QuantizedGradient(6)(x).backward(g.bfloat16())
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    assert abs(float((x.grad.float() - g)[:, 1:].mean())) < 3e-4


def test_learning_functions_settle_in_the_student_and_in_the_file() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    student = Compressed(model)
    last, first = Call("2", Operator.LINEAR), Call("0", Operator.LINEAR)
    student.tap(
        [TapSite(Place(last), Clipped(4, torch.tensor(1.0))), TapSite(Place(first, None), QuantizedGradient(4))]
    )
    with pytest.raises(FormatError, match="cannot hold"):
        encode(student)
    x = draw(3, 4)
    before = student(x)
    student.settle()
    assert [type(function) for function in student.sites.values()] == [Quantizer]
    torch.testing.assert_close(student(x), before)
    encode(student)


@pytest.mark.parametrize("record", [[], [2], [0, 0.5], [9, 0.5], [2, 0.0], [2, -1.0], [2, float("nan")], [2, "x"]])
def test_malformed_half_waves(record: list) -> None:
    with pytest.raises(FormatError):
        HalfWave.from_json(record)


def test_errors_become_integers_of_which_the_proportions_count() -> None:
    """By hand for 3 bits: σ = ¼, and the power of two next to 5 is 4, so that 5 is clipped to ¾."""
    for size in (1.0, 2.0**30):
        x = torch.zeros(2, 3, requires_grad=True)
        y = ShiftedError(3)(x)
        assert torch.equal(y, x)
        y.backward(size * torch.tensor([[5.0, -0.6, 0.4], [0.0, 1.6, -3.2]]))
        assert x.grad is not None and x.grad.tolist() == [[0.75, -0.25, 0.0], [0.0, 0.5, -0.75]]
    with pytest.raises(SchemeError, match="2..16"):
        ShiftedError(1)
