"""EfficientNet-Lite: sizes by the formula of its table, its padding, its scaling."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from featherweight.architectures.efficientnet_lite import (
    LITE0,
    LITE1,
    LITE2,
    LITE3,
    LITE4,
    EfficientNetLite,
    InvertedResidual,
    SamePadding,
    Scale,
)
from featherweight.core.errors import SchemeError

TABLE = [(1, 16, 1, 3), (6, 24, 2, 3), (6, 40, 2, 5), (6, 80, 3, 3), (6, 112, 3, 5), (6, 192, 4, 5), (6, 320, 1, 3)]
"""Expansion, channels, repeats, kernel: Tan and Le, table 1, without squeeze-and-excitation."""


def formula(width: float, depth: float, classes: int = 1000) -> int:
    """Parameters counted from the table alone: convolutions without bias, two numbers a channel of each norm."""

    def conv(inputs: int, outputs: int, kernel: int) -> int:
        return kernel * kernel * inputs * outputs + 2 * outputs

    def nearest_eight(channels: float) -> int:
        down, up = 8 * math.floor(channels / 8), 8 * math.ceil(channels / 8)
        near = up if up - channels <= channels - down else down
        return near if near >= 0.9 * channels else near + 8

    total, channels = conv(3, 32, 3), 32
    for row, (expansion, base, repeats, kernel) in enumerate(TABLE):
        outputs = nearest_eight(base * width)
        for _ in range(repeats if row in (0, 6) else math.ceil(repeats * depth)):
            inner = channels * expansion
            total += (conv(channels, inner, 1) if expansion > 1 else 0) + conv(1, inner, kernel)
            total += conv(inner, outputs, 1)
            channels = outputs
    return total + conv(channels, 1280, 1) + 1280 * classes + classes


@pytest.mark.parametrize(
    ("scale", "count"),
    [(LITE0, 4_652_008), (LITE1, 5_416_680), (LITE2, 6_092_072), (LITE3, 8_197_096), (LITE4, 13_006_568)],
)
def test_sizes(scale: Scale, count: int) -> None:
    with torch.device("meta"):
        model = EfficientNetLite(scale)
    assert sum(parameter.numel() for parameter in model.parameters()) == count == formula(scale.width, scale.depth)
    assert not any(isinstance(module, nn.Sigmoid | nn.SiLU) for module in model.modules())
    assert model.dropout.p == scale.dropout


def test_shapes_at_any_resolution() -> None:
    model = EfficientNetLite(Scale(0.25, 0.5, 32, 0.0), classes=7).eval()
    for side in (32, 33, 50):
        assert model(torch.randn(2, 3, side, side)).shape == (2, 7)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [7, 8, 15, 16])
def test_the_padding_is_the_least_that_keeps_every_second_pixel(kernel: int, size: int) -> None:
    """Against the sums themselves: output i is of inputs 2i - before to 2i - before + kernel - 1, zeros outside."""
    maps, weight = torch.randn(1, 1, size, size), torch.randn(1, 1, kernel, kernel)
    found = F.conv2d(SamePadding(kernel, 2)(maps), weight, stride=2)[0, 0]
    assert found.shape == (-(-size // 2),) * 2
    before = (kernel - 1) // 2 if size % 2 else (kernel - 2) // 2
    for i, j in ((0, 0), (1, 2), (found.shape[0] - 1, found.shape[1] - 1)):
        expected = sum(
            float(weight[0, 0, a, b] * maps[0, 0, 2 * i - before + a, 2 * j - before + b])
            for a in range(kernel)
            for b in range(kernel)
            if 0 <= 2 * i - before + a < size and 0 <= 2 * j - before + b < size
        )
        assert found[i, j].item() == pytest.approx(expected, abs=1e-5)


def test_a_shortcut_only_where_shapes_stay() -> None:
    maps = torch.randn(2, 8, 6, 6)
    block = InvertedResidual(8, 8, 6, 3, 1).eval()
    nn.init.zeros_(block.project_norm.weight)
    assert torch.equal(block(maps), maps)
    assert not InvertedResidual(8, 8, 6, 3, 2).residual and not InvertedResidual(8, 16, 6, 3, 1).residual


def test_impossible_scales_are_refused() -> None:
    for scale in (Scale(0, 1, 224, 0.2), Scale(1, -1, 224, 0.2), Scale(1, 1, 224, 1.0)):
        with pytest.raises(SchemeError, match="no scale of an EfficientNet"):
            EfficientNetLite(scale)
