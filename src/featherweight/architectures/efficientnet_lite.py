"""EfficientNet-Lite, 0 to 4: one network of inverted residuals, scaled in width, depth and resolution together.

Source: Tan, Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019, arXiv
1905.11946, table 1 and section 3.3. The Lite variants, published beside the authors' code in 2020 for mobile
processors, leave the squeeze-and-excitation blocks out, have ReLU6 in the place of swish, and keep stem, head and the
number of blocks of the first and the last stage unscaled.
"""

from dataclasses import dataclass
from math import ceil

import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.errors import SchemeError

STEM, HEAD = 32, 1280
"""Channels before the blocks and behind them, whatever the scale."""
EPSILON, MOMENTUM = 1e-3, 0.01
"""Of batch normalisation, as the published weights were trained."""


@dataclass(frozen=True)
class Stage:
    """A row of table 1: ``repeats`` blocks of ``channels`` channels, the first of which has the stride."""

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int


STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)


@dataclass(frozen=True)
class Scale:
    """Factors on channels and on blocks, the side of the images in pixels, and the dropout before the last layer."""

    width: float
    depth: float
    resolution: int
    dropout: float

    def channels(self, channels: int) -> int:
        """Scaled and rounded to a multiple of 8, never below 90 % of the scaled number."""
        scaled = channels * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded

    def blocks(self, stage: Stage) -> int:
        """The blocks of a stage; the first and the last stage are not scaled."""
        return stage.repeats if stage in (STAGES[0], STAGES[-1]) else ceil(stage.repeats * self.depth)


LITE0 = Scale(1.0, 1.0, 224, 0.2)
LITE1 = Scale(1.0, 1.1, 240, 0.2)
LITE2 = Scale(1.1, 1.2, 260, 0.3)
LITE3 = Scale(1.2, 1.4, 280, 0.3)
LITE4 = Scale(1.4, 1.8, 300, 0.3)


class SamePadding(nn.Module):
    """Zeros around maps ``[n, c, h, w]``, as many as give a convolution ``ceil(h / stride)`` rows, and columns alike.

    Where the number is odd, the bottom and the right get one more. This is the rule of the published weights; it is not
    the symmetric padding of ``nn.Conv2d`` where the stride is 2 and the size even.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def missing(self, size: int) -> int:
        return max((ceil(size / self.stride) - 1) * self.stride + self.kernel - size, 0)

    def forward(self, maps: Tensor) -> Tensor:
        rows, columns = (self.missing(size) for size in maps.shape[2:])
        return F.pad(maps, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def padding(kernel: int, stride: int) -> tuple[nn.Module, int]:
    """What comes before a convolution, and its own padding: with stride 1, the convolution pads by itself."""
    return (nn.Identity(), kernel // 2) if stride == 1 else (SamePadding(kernel, stride), 0)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON, momentum=MOMENTUM)


class InvertedResidual(nn.Module):
    """Expand with a 1x1 convolution, one filter a channel, project with a 1x1 convolution; a shortcut where it fits.

    Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = nn.Conv2d(inputs, inner, 1, bias=False) if expansion > 1 else nn.Identity()
        self.expand_norm = norm(inner) if expansion > 1 else nn.Identity()
        self.expand_act = nn.ReLU6() if expansion > 1 else nn.Identity()
        self.pad, own = padding(kernel, stride)
        self.depthwise = nn.Conv2d(inner, inner, kernel, stride, own, groups=inner, bias=False)
        self.depthwise_norm = norm(inner)
        self.depthwise_act = nn.ReLU6()
        self.project = nn.Conv2d(inner, outputs, 1, bias=False)
        self.project_norm = norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.expand_act(self.expand_norm(self.expand(maps)))
        inner = self.depthwise_act(self.depthwise_norm(self.depthwise(self.pad(inner))))
        outer: Tensor = self.project_norm(self.project(inner))
        return maps + outer if self.residual else outer


class EfficientNetLite(nn.Module):
    """``EfficientNetLite(LITE0)`` to ``LITE4``. Images ``[n, 3, s, s]`` -> logits ``[n, classes]``.

    ``s`` is ``scale.resolution`` where weights are the published ones; any other size runs. With 1,000 classes,
    parameters: 4,652,008 of Lite0, 5,416,680 of Lite1, 6,092,072 of Lite2, 8,197,096 of Lite3, 13,006,568 of Lite4.

    Stochastic depth, by which the published weights were regularised in training, is left out.
    """

    def __init__(self, scale: Scale = LITE0, classes: int = 1000) -> None:
        super().__init__()
        if min(scale.width, scale.depth) <= 0 or not 0 <= scale.dropout < 1:
            raise SchemeError(f"{scale} is no scale of an EfficientNet; width and depth are over 0, dropout below 1")
        self.stem_pad, own = padding(3, 2)
        self.stem = nn.Conv2d(3, STEM, 3, 2, own, bias=False)
        self.stem_norm = norm(STEM)
        self.stem_act = nn.ReLU6()
        blocks, channels = [], STEM
        for stage in STAGES:
            for number in range(scale.blocks(stage)):
                outputs, stride = scale.channels(stage.channels), stage.stride if number == 0 else 1
                blocks.append(InvertedResidual(channels, outputs, stage.expansion, stage.kernel, stride))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(channels, HEAD, 1, bias=False)
        self.head_norm = norm(HEAD)
        self.head_act = nn.ReLU6()
        self.dropout = nn.Dropout(scale.dropout)
        self.classifier = nn.Linear(HEAD, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem_act(self.stem_norm(self.stem(self.stem_pad(images))))
        maps = self.head_act(self.head_norm(self.head(self.blocks(maps))))
        logits: Tensor = self.classifier(self.dropout(maps.mean(dim=(2, 3))))
        return logits
