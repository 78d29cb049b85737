"""Bias correction, against the means of computed outputs and numerical integration."""

import math

import pytest
import torch
from torch import Tensor, nn

from featherweight.activations.correction import clipped_normal_mean, constant_response, corrected_bias
from featherweight.core.errors import SchemeError


def test_a_corrected_layer_has_the_means_of_the_float_layer() -> None:
    torch.manual_seed(0)
    x = torch.rand(64, 6, 9, 9, dtype=torch.float64)
    layer = nn.Conv2d(6, 4, 3, groups=2).double()
    coarse = nn.Conv2d(6, 4, 3, groups=2).double()
    coarse.weight.data = (layer.weight.data * 4).floor() / 4
    coarse.bias.data = layer.bias.data.clone()
    float_mean, quantized_mean = (each(x).mean((0, 2, 3)).detach() for each in (layer, coarse))
    assert float((float_mean - quantized_mean).abs().max()) > 0.1
    coarse.bias.data = corrected_bias(coarse.bias, float_mean, quantized_mean)
    torch.testing.assert_close(coarse(x).mean((0, 2, 3)), float_mean)


def test_no_bias_is_a_bias_of_zero() -> None:
    means = torch.tensor([1.0, 2.0]), torch.tensor([1.5, 1.0])
    assert corrected_bias(None, *means).tolist() == [-0.5, 1.0]
    assert torch.equal(corrected_bias(None, *means), corrected_bias(torch.zeros(2), *means))


def test_bad_means() -> None:
    with pytest.raises(SchemeError, match="one number a channel"):
        corrected_bias(torch.zeros(2), torch.zeros(3), torch.zeros(3))
    with pytest.raises(SchemeError, match="not finite"):
        corrected_bias(None, torch.zeros(1), torch.tensor([math.nan]))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_the_response_to_a_constant_is_the_layers(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 12, 3, groups=groups, bias=False).double()
    inputs = torch.randn(6, dtype=torch.float64)
    answer = layer(inputs.reshape(1, 6, 1, 1).expand(1, 6, 3, 3)).flatten()
    torch.testing.assert_close(constant_response(layer.weight, inputs, groups), answer)


def test_the_response_of_a_linear_layer_and_a_misfit() -> None:
    weight, inputs = torch.randn(3, 5), torch.randn(5)
    torch.testing.assert_close(constant_response(weight, inputs), weight @ inputs)
    with pytest.raises(SchemeError, match="takes 5 inputs"):
        constant_response(weight, torch.randn(4))


BOUNDS = [(0.0, math.inf), (0.0, 6.0), (-math.inf, math.inf), (-math.inf, 1.0), (-1.0, 0.5)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_the_clipped_mean_is_the_integral(low: float, high: float) -> None:
    weight = torch.tensor([1.0, -0.3, 2.5, 0.01, 4.0], dtype=torch.float64)
    bias = torch.tensor([0.0, 1.0, -3.0, 0.2, 7.0], dtype=torch.float64)
    found = clipped_normal_mean(weight, bias, low=low, high=high)
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    for mean, gamma, beta in zip(found, weight, bias, strict=True):
        integral = torch.trapezoid((beta + gamma * z).clamp(low, high) * density, z)
        torch.testing.assert_close(mean, integral, atol=1e-7, rtol=1e-7)


def closed_form(beta: float, gamma: float, low: float, high: float) -> float:
    a, b = (low - beta) / gamma, (high - beta) / gamma
    phi = [math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) for z in (a, b)]
    below = [math.erfc(-z / math.sqrt(2)) / 2 for z in (a, b)]
    return gamma * (phi[0] - phi[1]) + beta * (below[1] - below[0]) + low * below[0] + high * (1 - below[1])


def test_the_clipped_mean_is_the_papers_formula() -> None:
    for beta, gamma in ((0.4, 1.3), (-2.0, 0.7), (5.0, 2.0)):
        weight, bias = (torch.tensor([each], dtype=torch.float64) for each in (gamma, beta))
        found = clipped_normal_mean(weight, bias, low=0.0, high=6.0)
        assert float(found) == pytest.approx(closed_form(beta, gamma, 0.0, 6.0), abs=1e-12)


def test_channels_without_spread() -> None:
    found = clipped_normal_mean(torch.zeros(3), torch.tensor([-1.0, 2.0, 9.0]), low=0.0, high=6.0)
    assert found.tolist() == [0, 2, 6]
    far: Tensor = clipped_normal_mean(torch.tensor([1e-3]), torch.tensor([-50.0]))
    assert far.tolist() == [0]


def test_bad_bounds() -> None:
    with pytest.raises(SchemeError, match="low < high"):
        clipped_normal_mean(torch.ones(1), torch.ones(1), low=1.0, high=1.0)
