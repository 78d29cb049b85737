"""Noise at the outputs to first order: exact where the network is linear, near where it is not."""

import math

import pytest
import torch
from torch import Tensor, nn

from featherweight.activations.noise import WithinNoiseTaps, activation_noise, noisy_places
from featherweight.activations.quantizers import Quantizer
from featherweight.activations.rules import Calibrated
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.metric import Diagonal
from featherweight.core.tap import Operator, watching
from featherweight.core.task import Example, Task
from featherweight.metrics.noise import (
    NoiseGain,
    activation_gains,
    decibels,
    output_power,
    relative_noise,
    truncation_mean,
)
from featherweight.papers import finite_precision_error_analysis
from featherweight.run import run
from featherweight.schemes.allocated import WithinNoise, rounding_noise
from featherweight.schemes.uniform import PerChannel, Uniform, UniformCode
from featherweight.tasks import find

BATCHES = 8


def data(samples: int = 512, width: int = 12) -> list[Tensor]:
    return list(torch.randn(samples, width, generator=torch.Generator().manual_seed(1)).split(samples // BATCHES))


def made(*layers: nn.Module, width: int = 12) -> tuple[Compressed, Task]:
    model = nn.Sequential(*layers).eval()
    batches = data(width=width)
    task = Task("noise", lambda: model, lambda: model, lambda: Example((batches[0][:1],)), calibration=lambda: batches)
    return Compressed(model).eval(), task


def layers(seed: int = 0) -> tuple[nn.Module, ...]:
    torch.manual_seed(seed)
    return nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 10)


def test_gains_of_a_linear_layer_are_those_of_the_formula() -> None:
    """Of its weights ``E[x²]``, of what it takes in the squares of its columns; over the outputs' power."""
    student, task = made(nn.Linear(12, 7))
    x, w = torch.cat(data()), student.weight("0.weight")
    power = float(student(x).square().sum(1).mean())
    assert output_power(student, task, BATCHES) == pytest.approx(power, rel=1e-5)
    gains = NoiseGain(BATCHES, draws=64).measure(student, ["0.weight"], task)["0.weight"]
    assert isinstance(gains, Diagonal)
    expected = x.square().mean(0) / power
    assert ((gains.diagonal - expected).abs() / expected).mean() < 0.15  # of so many random projections
    (place,) = noisy_places(Calibrated(), student, task)
    assert (place.call.operator, place.operand) == (Operator.LINEAR, 0)
    found = activation_gains(student, task, [place], BATCHES, draws=32)
    assert found[place] == pytest.approx(float(w.square().sum()) / power, rel=0.1)


def test_zeros_have_no_error() -> None:
    student, task = made(nn.ReLU(), nn.Linear(12, 7))
    (place,) = noisy_places(Calibrated(), student, task)
    x = torch.cat(data()).relu()
    expected = float(((x != 0) * student.weight("1.weight").square().sum(0)).sum(1).mean())
    power = output_power(student, task, BATCHES)
    assert activation_gains(student, task, [place], BATCHES, draws=32)[place] * power == pytest.approx(
        expected, rel=0.1
    )
    w = torch.tensor([[0.0, 1.0, -2.0], [0.0, 0.0, 0.0]])
    code, costs = Uniform(4, granularity=PerChannel()).project(w), torch.tensor([[5.0, 2.0, 1.0], [9.0, 9.0, 9.0]])
    assert rounding_noise(code, w, Diagonal(costs)) == pytest.approx(3 * (2 / 7) ** 2 / 12, rel=1e-3)


def weights_rounded(student: Compressed, bits: int) -> dict[str, UniformCode]:
    scheme = Uniform(bits, granularity=PerChannel())
    return {name: scheme.project(student.weight(name)) for name in ("0.weight", "2.weight", "4.weight")}


@torch.no_grad()
def noise_of(exact: Tensor, found: Tensor) -> float:
    return float((found - exact).square().sum() / exact.square().sum())


@pytest.mark.parametrize("bits", [5, 6, 7, 8])
def test_rounding_of_weights_is_predicted(bits: int) -> None:
    student, task = made(*layers())
    codes, x = weights_rounded(student, bits), torch.cat(data())
    gains = NoiseGain(BATCHES).measure(student, list(codes), task)
    predicted = sum(rounding_noise(code, student.weight(name), gains[name]) for name, code in codes.items())
    with torch.no_grad():
        found = torch.func.functional_call(student.base, {name: code.decode() for name, code in codes.items()}, (x,))
    assert abs(decibels(noise_of(student(x), found)) - decibels(predicted)) < 3


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_rounding_of_activations_is_predicted(bits: int) -> None:
    student, task = made(*layers())
    rule, x = Calibrated(bits, batches=BATCHES), torch.cat(data())
    places = noisy_places(rule, student, task)
    taps = rule.taps(student, task)
    predicted = activation_noise(taps, activation_gains(student, task, places, BATCHES))
    exact = student(x)
    student.tap(taps)
    assert len(places) == 3
    assert abs(decibels(noise_of(exact, student(x))) - decibels(predicted)) < 2


def test_the_mean_of_truncation_is_predicted() -> None:
    """It is far more than the noise: means add up."""
    student, task = made(*layers())
    codes, x = weights_rounded(student, 8), torch.cat(data())
    taps = Calibrated(8, batches=BATCHES).taps(student, task)
    steps = {name: code.scales.decode()[:, None] for name, code in codes.items()}
    scales = {site.place: float(site.function.scale) for site in taps if isinstance(site.function, Quantizer)}
    truncated = {name: (student.weight(name) / step).floor() * step for name, step in steps.items()}
    with (
        torch.no_grad(),
        watching(student.base, lambda place, y: (y / scales[place]).floor() * scales[place], list(scales)),
    ):
        found = torch.func.functional_call(student.base, truncated, (x,))
    mean = truncation_mean(student, task, steps, scales, BATCHES)
    gains = NoiseGain(BATCHES).measure(student, list(codes), task)
    noise = sum(rounding_noise(code, student.weight(name), gains[name]) for name, code in codes.items())
    noise += activation_noise(taps, activation_gains(student, task, list(scales), BATCHES))
    assert mean > 5 * noise
    assert abs(decibels(noise_of(student(x), found)) - decibels(mean + noise)) < 1
    assert truncation_mean(student, task, {}, {}, BATCHES) == 0


def test_the_recipe_takes_the_fewest_bits_that_do() -> None:
    _, task = made(*layers())
    x, exact = torch.cat(data()), Compressed(task.model()).eval()
    for snr in (15.0, 25.0, 35.0):
        student, _ = run(task.model(), task, finite_precision_error_analysis.recipe(snr=snr))
        assert decibels(noise_of(exact(x), student.eval()(x))) > snr - 2
        (weights,) = {code.bits for name, code in student.codes.items() if name.endswith("weight")}
        (activations,) = {each.bits for each in student.sites.values()}
        gains = NoiseGain().measure(exact, ["0.weight", "2.weight", "4.weight"], task)
        fewer = weights_rounded(exact, weights - 1)
        noise = sum(rounding_noise(code, exact.weight(name), gains[name]) for name, code in fewer.items())
        assert noise > 0.8 * relative_noise(snr) / 2  # gains are those behind activations that are quantized
        assert 2 <= activations <= 8
    with pytest.raises(SchemeError, match="8 bits of activations leave a noise of"):
        run(task.model(), task, finite_precision_error_analysis.recipe(snr=90.0))


def test_decibels() -> None:
    assert decibels(0.01) == pytest.approx(20) and decibels(0) == math.inf
    assert relative_noise(decibels(0.37)) == pytest.approx(0.37)


def test_what_has_no_noise_or_no_signal_is_told() -> None:
    student, task = made(nn.Linear(12, 3))
    with torch.no_grad():
        student.base[0].weight.zero_()
        student.base[0].bias.zero_()
    with pytest.raises(TaskError, match="no signal"):
        output_power(Compressed(student.base), task)
    nothing = Task("none", task.architecture, task.model, task.example, calibration=lambda: [])
    with pytest.raises(TaskError, match="holds no batch"):
        output_power(student, nothing)
    for wrong in (lambda: WithinNoise(0.0), lambda: WithinNoise(1.0, least=1), lambda: WithinNoiseTaps(-1.0)):
        with pytest.raises(SchemeError, match="2..8 bits"):
            wrong()
    w = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    with pytest.raises(SchemeError, match="8 bits leave a noise of .*allow more noise"):
        WithinNoise(1e-12).project(w)


def test_layers_may_be_left_out() -> None:
    student, task = made(*layers())
    rule = WithinNoiseTaps(1e-3, Calibrated(batches=2))
    assert len(rule.taps(student, task)) == 3
    assert len(rule.without(["2.weight"]).taps(student, task)) == 2


def test_the_digits_network(digits_model: nn.Module) -> None:
    """Its activations to six bits: predicted on training digits, measured on others."""
    task = find("digits")
    student = Compressed(digits_model).eval()
    rule, x = Calibrated(6, batches=2), task.evaluation().inputs
    places, taps = noisy_places(rule, student, task), rule.taps(student, task)
    predicted = activation_noise(taps, activation_gains(student, task, places, 2))
    quantized = Compressed(digits_model).eval()
    quantized.tap(taps)
    assert abs(decibels(noise_of(student(x), quantized(x))) - decibels(predicted)) < 3
