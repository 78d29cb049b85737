"""Chains of layers: what is found between convolutions and linear layers, and what breaks a chain."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.architectures import ResNetCifar
from featherweight.core.compressed import Compressed
from featherweight.core.task import Example
from featherweight.graph.chains import find_chains
from featherweight.graph.fold import Fold, foldable
from featherweight.graph.trace import trace


def conv(a: int = 4, b: int = 4, **settings: int) -> nn.Conv2d:
    return nn.Conv2d(a, b, 3, padding=1, **settings)


def sequence(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict((f"m{number}", layer) for number, layer in enumerate(layers)))


IMAGE, ROW, STEPS = (2, 4, 8, 8), (2, 4), (2, 5, 4)

CASES = {
    "relu": (sequence(conv(), nn.ReLU(), conv()), IMAGE, [("m0", "m2")]),
    "nothing between": (sequence(conv(), conv(), conv()), IMAGE, [("m0", "m1", "m2")]),
    "depthwise": (sequence(conv(), nn.ReLU(), conv(groups=4), nn.ReLU(), conv(4, 6)), IMAGE, [("m0", "m2", "m4")]),
    "pools": (sequence(conv(), nn.MaxPool2d(2), nn.LeakyReLU(0.1), nn.AvgPool2d(2), conv()), IMAGE, [("m0", "m4")]),
    "flattened": (sequence(conv(), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)), IMAGE, [("m0", "m3")]),
    "averaged": (
        sequence(conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), IMAGE, [("m0", "m4")]
    ),
    "linear": (sequence(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 2)), ROW, [("m0", "m3")]),
    "linear over steps": (sequence(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), STEPS, [("m0", "m2")]),
    "tanh": (sequence(conv(), nn.Tanh(), conv()), IMAGE, []),
    "norm": (sequence(conv(), nn.BatchNorm2d(4), conv()), IMAGE, []),
    "relu6": (sequence(conv(), nn.ReLU6(), conv()), IMAGE, []),
    "pixels as features": (sequence(conv(), nn.Linear(8, 3)), IMAGE, []),
    "channels as samples": (sequence(conv(), nn.Flatten(0, 1), nn.Flatten(), nn.Linear(64, 3)), IMAGE, []),
    "without a batch": (sequence(conv(), nn.ReLU(), conv()), (4, 8, 8), []),
    "flattened steps": (sequence(nn.Linear(4, 4), nn.Flatten(), nn.Linear(20, 3)), STEPS, []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_chains(case: str) -> None:
    model, shape, found = CASES[case]
    assert find_chains(trace(model.eval(), Example((torch.zeros(shape),))), model) == found


def test_relu6_counts_where_it_is_asked_for() -> None:
    model = CASES["relu6"][0].eval()
    assert find_chains(trace(model, Example((torch.zeros(IMAGE),))), model, relu6=True) == [("m0", "m2")]


class Odd(nn.Module):
    """Channels that two layers read, a layer that runs twice, a tied weight, an average over samples."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.kind = kind
        if kind == "tied":
            self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "two readers":
                y = self.a(x)
                return self.b(y) + self.c(y)
            case "returned":
                y = self.a(x)
                return torch.cat([y, self.b(y)])
            case "twice":
                return self.b(self.a(self.a(x)))
            case "tied":
                return self.b(self.a(x).relu())
            case "mean over samples":
                return self.b(self.a(x).mean(0, keepdim=True))
            case "weight of another":
                return self.b(F.conv2d(x, self.a.weight))
        return x


@pytest.mark.parametrize("kind", ["two readers", "returned", "twice", "tied", "mean over samples", "weight of another"])
def test_what_breaks_a_chain(kind: str) -> None:
    model = Odd(kind).eval()
    assert find_chains(trace(model, Example((torch.zeros(IMAGE),))), model) == []


def test_the_pairs_of_a_residual_network() -> None:
    """Both convolutions of each of the nine blocks; all else meets at joins."""
    student = Compressed(ResNetCifar().eval())
    example = Example((torch.zeros(1, 3, 32, 32),))
    assert find_chains(trace(student.base, example), student.base) == []
    student.edit(Fold(foldable(trace(student.base, example), student.base)))
    blocks = [f"layer{layer}.{block}" for layer in (1, 2, 3) for block in range(3)]
    found = find_chains(trace(student.base, example), student.base)
    assert found == [(f"{block}.conv1", f"{block}.conv2") for block in blocks]
