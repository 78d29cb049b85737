"""Modelled energy: by hand for tiny layers; never more for more zeros, fewer bits or fewer channels."""

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.task import Example, Task
from featherweight.costs.energy import Energy, EnergyTable, LayerEnergies, RowStationary, Use


def task(model: nn.Module, *batches: Tensor) -> Task:
    model.eval()
    return Task("net", lambda: model, lambda: model, lambda: Example((batches[0][:1],)), calibration=lambda: [*batches])


def measured(model: nn.Module, x: Tensor, rule: Energy = Energy()) -> LayerEnergies:  # noqa: B008
    return rule.measure(Compressed(model), task(model, x))


def test_a_linear_layer_by_hand() -> None:
    """3 inputs, 2 outputs, all dense: every weight has one use, every input two, every sum three terms."""
    layer = nn.Linear(3, 2)
    energies = measured(layer, torch.ones(5, 3))
    (use,) = energies.uses["weight"]
    spent = energies.spent((2, 3), use, 1.0)
    assert spent.macs == 6
    assert spent.registers == 6 + 6 + 2 * 2 * (3 - 1)  # weights and inputs read; two sums of three terms
    assert spent.weights == 6 * (200 + 6 + 2)
    assert spent.inputs == 3 * (200 + 6 + 2)
    assert spent.sums == 2 * 200  # never in the buffer: 3 channels are held at once
    assert energies.of("weight", (2, 3)) == spent.total


def test_a_convolution_by_hand() -> None:
    """8 channels of 5 by 4, 32 filters of 3 by 2: an output of 3 by 3."""
    layer = nn.Conv2d(8, 32, (3, 2))
    energies = measured(layer, torch.ones(2, 8, 5, 4))
    (use,) = energies.uses["weight"]
    assert use == Use(1, 20, 3, 3, 1.0)
    spent = energies.spent((32, 8, 3, 2), use, 1.0)
    weights, products = 32 * 8 * 3 * 2, 32 * 8 * 3 * 2 * 9
    assert spent.macs == products
    assert spent.weights == weights * (200 + 6 + 3 * 2)  # to the elements of three rows
    assert spent.inputs == pytest.approx(8 * 20 * (200 + 2 * 6 + 2 * 3 * 2))  # once for each 16 filters, to 3 rows
    assert spent.sums == 32 * 9 * (200 + 2 * (2 - 1) * 6 + 2 * (3 - 1) * 2)  # twice 4 channels, along 3 elements
    assert spent.registers == pytest.approx(products + products + 32 * 9 * 2 * 2 * 3 * (2 * 4 - 1))


def test_zeros_and_bits_by_hand() -> None:
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
    x = torch.ones(2, 4)
    x[:, :2] = 0
    energies = measured(layer, x, Energy(weight_bits=8, input_bits=4))
    (use,) = energies.uses["weight"]
    assert energies.densities["weight"] == 0.25 and use.density == 0.5
    spent = energies.spent((4, 4), use, 0.25)
    assert spent.macs == 16 / 8 * (8 / 16) * (4 / 16)
    assert spent.weights == pytest.approx(16 * 208 * 0.25 * (8 + 4) / 16)
    assert spent.inputs == pytest.approx(4 * 208 * 4 / 16)  # half of 8 bits is no less than 4
    assert spent.sums == 4 * 200 * 4 / 16
    assert spent.registers == pytest.approx((16 * 8 / 16 + 16 * 4 / 16 + 4 * 2 * 3) / 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(3, 24, 3, stride=2, padding=1), nn.Conv2d(24, 24, 3, groups=24)
        self.point, self.head = nn.Conv2d(24, 40, 1, stride=2), nn.Linear(40, 7)
        self.line = nn.Conv1d(7, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(self.depthwise(self.first(x).relu()).relu()).mean((2, 3))
        return self.line(self.head(x)[:, :, None].expand(-1, -1, 6))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


SHAPES = {name: tuple(p.shape) for name, p in Net().named_parameters() if p.ndim > 1}


def test_it_never_rises_with_zeros_bits_or_channels_gone(net: Net) -> None:
    x = torch.rand(2, 3, 16, 16)
    energies = measured(net, x)
    for name, shape in SHAPES.items():
        (use,) = energies.uses[name]
        totals = [energies.spent(shape, use, density).total for density in torch.linspace(1, 0, 41).tolist()]
        assert all(after <= before for before, after in zip(totals, totals[1:], strict=False)), name
        for dim in (0,) if use.groups > 1 else (0, 1):
            sizes = [(*shape[:dim], n, *shape[dim + 1 :]) for n in range(shape[dim], 0, -1)]
            costs = [energies.of(name, size) for size in sizes]
            assert all(after < before for before, after in zip(costs, costs[1:], strict=False)), name
        for setting in ("weight_bits", "input_bits"):
            costs = [measured(net, x, Energy(**{setting: bits})).of(name, shape) for bits in (32, 16, 8, 4, 2, 1)]
            assert all(after <= before for before, after in zip(costs, costs[1:], strict=False)), name
        assert costs[0] > costs[-1]


def test_samples_of_a_batch_do_not_count_and_calls_add_up(net: Net) -> None:
    x = torch.rand(1, 3, 16, 16)
    once, many = (measured(net, batch) for batch in (x, x.repeat(6, 1, 1, 1)))
    for name, shape in SHAPES.items():
        assert once.of(name, shape) == pytest.approx(many.of(name, shape), rel=1e-6)
    layer = nn.Linear(3, 3)
    twice = measured(nn.Sequential(layer, layer), torch.ones(1, 3))
    assert len(twice.uses["0.weight"]) == 2


def test_dear_memory_makes_the_layer_of_many_weights_the_costliest() -> None:
    """A dense layer of as many products as a convolution costs more where memory does, and as much where it does not.

    More weights are a cost of their own: products alone do not say what a layer costs.
    """
    conv, dense = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Linear(96, 96, bias=False)
    prices = []
    for table in (EnergyTable(), EnergyTable(registers=0, array=0, buffer=0, dram=0)):
        rule = Energy(table)
        prices.append(
            (
                measured(conv, torch.ones(1, 4, 8, 8), rule).of("weight", (4, 4, 3, 3)),
                measured(dense, torch.ones(1, 96), rule).of("weight", (96, 96)),
            )
        )
    assert prices[0][1] > 5 * prices[0][0] and prices[1][0] == prices[1][1] == 9216


def test_refusals() -> None:
    with pytest.raises(SchemeError, match="LSTM"):
        measured(nn.LSTM(3, 4), torch.ones(1, 2, 3))
    with pytest.raises(TaskError, match="no batch"):
        Energy().measure(Compressed(nn.Linear(2, 2)), Task("t", nn.Identity, nn.Identity, Example, calibration=list))
    with pytest.raises(SchemeError):
        Energy(weight_bits=0)
    with pytest.raises(SchemeError):
        RowStationary(filters=0)
