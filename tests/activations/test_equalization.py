"""Equalized layers compute what they did, and their ranges meet."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from featherweight.activations.equalization import (
    Layer,
    absorbed,
    equalization_scales,
    equalize,
    equalize_chain,
    rescaled,
)
from featherweight.core.errors import SchemeError


def conv(outputs: int, inputs: int, groups: int = 1, bias: bool = True) -> Layer:
    """Channels of very different magnitudes, as depthwise networks have."""
    spread = torch.logspace(-3, 2, outputs, dtype=torch.float64)[torch.randperm(outputs)]
    weight = torch.randn(outputs, inputs // groups, 3, 3, dtype=torch.float64) * spread[:, None, None, None]
    return Layer(weight, torch.randn(outputs, dtype=torch.float64) if bias else None, groups)


def linear(outputs: int, inputs: int) -> Layer:
    weight = torch.randn(outputs, inputs, dtype=torch.float64) * torch.logspace(-2, 2, inputs, dtype=torch.float64)
    return Layer(weight, torch.randn(outputs, dtype=torch.float64))


def run(layers: list[Layer], x: Tensor) -> Tensor:
    """Convolutions, pooling, flattening and linear layers, with leaky ReLUs in between."""
    for at, layer in enumerate(layers):
        if layer.weight.ndim == 2:
            x = functional.linear(x.flatten(1), layer.weight, layer.bias)
        else:
            x = functional.conv2d(x, layer.weight, layer.bias, padding=1, groups=layer.groups)
        if at + 1 < len(layers):
            x = functional.leaky_relu(x, 0.1)
            x = functional.max_pool2d(x, 2) if x.ndim == 4 and layers[at + 1].weight.ndim == 2 else x
    return x


def network() -> list[Layer]:
    torch.manual_seed(0)
    return [
        conv(8, 3),
        conv(8, 8, groups=8),
        conv(12, 8, bias=False),
        conv(12, 12, groups=3),
        linear(7, 48),
        linear(5, 7),
    ]


def test_a_pair_has_equal_ranges_and_the_same_function() -> None:
    first, second = network()[:2]
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    a, b, scales = equalize(first, second)
    expected = (first.weight.abs().amax((1, 2, 3)) * second.weight.abs().amax((1, 2, 3))).sqrt()
    torch.testing.assert_close(a.weight.abs().amax((1, 2, 3)), expected)
    torch.testing.assert_close(b.weight.abs().amax((1, 2, 3)), expected)  # depthwise: in = out
    torch.testing.assert_close(scales, (first.weight / a.weight)[:, 0, 0, 0])
    torch.testing.assert_close(run([a, b], x), run([first, second], x))
    torch.testing.assert_close(equalization_scales(a, b), torch.ones(8, dtype=torch.float64))


@pytest.mark.parametrize("groups", [1, 2, 4, 12])
def test_input_ranges_in_groups(groups: int) -> None:
    torch.manual_seed(1)
    layer = conv(24, 12, groups)
    expected = torch.zeros(12, dtype=torch.float64)
    for out in range(24):
        for k in range(12 // groups):
            channel = out // (24 // groups) * (12 // groups) + k
            expected[channel] = max(expected[channel], layer.weight[out, k].abs().max())
    assert torch.equal(layer.input_ranges(), expected)


def test_a_chain_computes_the_same_and_every_pair_is_equal() -> None:
    layers = network()
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    chain, totals = equalize_chain(layers, tolerance=1e-9, sweeps=1000)
    torch.testing.assert_close(run(chain, x), run(layers, x), rtol=1e-9, atol=1e-9)
    for first, second, before, total in zip(chain, chain[1:], layers, totals, strict=False):
        scales = equalization_scales(first, second)
        torch.testing.assert_close(scales, torch.ones_like(scales), rtol=1e-6, atol=1e-6)
        if before.bias is not None:
            torch.testing.assert_close(first.bias, before.bias / total)
    assert spread_of(chain[1]) < 0.01 * spread_of(layers[1])


def spread_of(layer: Layer) -> float:
    ranges = layer.output_ranges()
    return float(ranges.max() / ranges.min())


def test_each_scale_maximises_the_product_of_precisions() -> None:
    """The sum over channels of ``r₁ r₂ / (R₁ R₂)``, where ``R`` is the range of all of a layer's channels."""

    def precision(first: Layer, second: Layer) -> float:
        r1, r2 = first.output_ranges(), second.input_ranges()
        return float((r1 / r1.max() * (r2 / r2.max())).sum())

    first, second = network()[:2]
    a, b, _ = equalize(first, second)
    best = precision(a, b)
    torch.manual_seed(4)
    for _ in range(200):
        scales = torch.exp(0.5 * torch.randn(8, dtype=torch.float64))
        assert precision(*rescaled(a, b, scales)) <= best * (1 + 1e-12)


def test_dead_channels_stay() -> None:
    first, second = network()[:2]
    first.weight[2] = 0
    second.weight[5] = 0
    a, b, scales = equalize(first, second)
    assert scales[2] == scales[5] == 1
    assert bool(a.weight.isfinite().all()) and bool(b.weight.isfinite().all())


def test_float32_is_kept() -> None:
    first, second, scales = equalize(Layer(torch.randn(4, 3)), Layer(torch.randn(2, 4)))
    assert {first.weight.dtype, second.weight.dtype, scales.dtype} == {torch.float32}
    assert first.bias is None


@pytest.mark.parametrize("depthwise", [False, True])
def test_absorbed_biases_change_nothing_where_no_unit_falls_below(depthwise: bool) -> None:
    torch.manual_seed(0)
    gamma, beta = torch.rand(6).double() + 0.1, torch.tensor([9.0, 5.0, 7.0, -1.0, 0.0, 8.0]).double()
    first = Layer(torch.randn(6, 4).double()[:, :, None, None], beta.clone())
    second = Layer(torch.randn(6, 1 if depthwise else 6, 3, 3).double(), None, 6 if depthwise else 1)
    x = 0.05 * torch.randn(2, 4, 5, 5).double()

    def function(a: Layer, b: Layer) -> Tensor:
        return functional.conv2d(functional.conv2d(x, a.weight, a.bias).relu(), b.weight, b.bias, groups=b.groups)

    lowered, raised = absorbed(first, second, gamma, beta)
    assert first.bias is not None and lowered.bias is not None
    torch.testing.assert_close(first.bias - lowered.bias, (beta - 3 * gamma).clamp(min=0))
    assert float((first.bias - lowered.bias).max()) > 5
    torch.testing.assert_close(function(lowered, raised), function(first, second))


def test_absorbing_through_a_flattening() -> None:
    torch.manual_seed(0)
    beta = torch.tensor([4.0, 6.0]).double()
    first = Layer(torch.randn(2, 1, 1, 1).double() * 0.1, beta)
    second = Layer(torch.randn(3, 8).double(), torch.randn(3).double())
    x = torch.rand(5, 1, 2, 2).double()
    lowered, raised = absorbed(first, second, torch.full((2,), 0.5).double(), beta)

    def function(a: Layer, b: Layer) -> Tensor:
        return functional.linear(functional.conv2d(x, a.weight, a.bias).relu().flatten(1), b.weight, b.bias)

    torch.testing.assert_close(function(lowered, raised), function(first, second))


def test_modules_are_layers() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv1d(4, 6, 3), nn.Conv1d(6, 6, 3, groups=3)
    x = torch.randn(2, 4, 9)
    expected = second(first(x).relu())
    a, b, _ = equalize(Layer(first.weight, first.bias), Layer(second.weight, second.bias, 3))
    with torch.no_grad():
        first.weight.copy_(a.weight)
        first.bias.copy_(a.bias)
        second.weight.copy_(b.weight)
    torch.testing.assert_close(second(first(x).relu()), expected, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SchemeError, match="8 outputs is not followed by one of 16 inputs"):
        equalize(conv(8, 3), conv(4, 16))
    with pytest.raises(SchemeError, match="7 outputs is not followed"):
        equalize(linear(7, 3), linear(2, 14))
    with pytest.raises(SchemeError, match="in 2 groups"):
        Layer(torch.ones(3, 2), groups=2)
    with pytest.raises(SchemeError, match="no bias of shape"):
        Layer(torch.ones(3, 2), torch.ones(2))
    with pytest.raises(SchemeError, match="NaN"):
        Layer(torch.full((3, 2), torch.nan))
    with pytest.raises(SchemeError, match="at least two"):
        equalize_chain([linear(2, 3)])
    with pytest.raises(SchemeError, match="fold its batch norm"):
        absorbed(conv(4, 3, bias=False), conv(4, 4), torch.ones(4), torch.ones(4))
    with pytest.raises(SchemeError, match="no batch norm"):
        absorbed(conv(4, 3), conv(4, 4), torch.ones(3), torch.ones(4))
