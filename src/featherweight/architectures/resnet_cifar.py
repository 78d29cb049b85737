"""The residual networks for CIFAR-10.

Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, section 4.2: 6n + 2 layers, 16,
32 and 64 channels at 32x32, 16x16 and 8x8, shortcuts without parameters (option A).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.errors import SchemeError


class Shortcut(nn.Module):
    """Option A: every ``stride``-th pixel, with channels of zeros before and behind until there are ``outputs``."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.behind = outputs - inputs - self.before

    def forward(self, maps: Tensor) -> Tensor:
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.behind))


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and the shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        unchanged = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if unchanged else Shortcut(inputs, outputs, stride)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.bn1(self.conv1(maps)).relu()
        outer: Tensor = self.bn2(self.conv2(inner)) + self.shortcut(maps)
        return outer.relu()


def stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """``blocks`` blocks, of which the first changes the number of channels and the resolution."""
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


class ResNetCifar(nn.Module):
    """``ResNetCifar(depth)`` with depth 6n + 2: 20, 32, 44, 56, 110 ... ``[n, 3, 32, 32]`` -> logits ``[n, 10]``.

    Parameters: 269,722 at depth 20, 464,154 at 32, 658,586 at 44, 853,018 at 56, 1,727,962 at 110. Weights start as He,
    Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015.
    """

    def __init__(self, depth: int = 20) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise SchemeError(f"a CIFAR ResNet has 6n + 2 layers (20, 32, 44, 56, 110); {depth} is no such number")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, blocks, 1)
        self.layer2 = stage(16, 32, blocks, 2)
        self.layer3 = stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.bn1(self.conv1(images)).relu()
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: Tensor = self.linear(maps.mean(dim=(2, 3)))
        return logits
