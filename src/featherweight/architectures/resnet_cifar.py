"""The residual networks for CIFAR-10.

Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, section 4.2: 6n + 2 layers, 16,
32 and 64 channels at 32x32, 16x16 and 8x8, shortcuts without parameters (option A).
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.errors import SchemeError


class Shortcut(nn.Module):
    """Option A: every ``stride``-th pixel, with channels of zeros before and behind until there are ``outputs``.

    ``before`` of the zeros come first; half of them, rounded down, where it is ``None``.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, before: int | None = None) -> None:
        super().__init__()
        added = outputs - inputs
        self.stride = stride
        self.before = added // 2 if before is None else before
        self.behind = added - self.before
        if self.before < 0 or self.behind < 0:
            raise SchemeError(
                f"a shortcut from {inputs} to {outputs} channels cannot have {self.before} channels of zeros before; "
                "a stage is no narrower than the one before it, and the zeros are at most the difference"
            )

    def forward(self, maps: Tensor) -> Tensor:
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.behind))


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and the shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, before: int | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        unchanged = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if unchanged else Shortcut(inputs, outputs, stride, before)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.bn1(self.conv1(maps)).relu()
        outer: Tensor = self.bn2(self.conv2(inner)) + self.shortcut(maps)
        return outer.relu()


def stage(inputs: int, outputs: int, blocks: int, stride: int, before: int | None = None) -> nn.Sequential:
    """``blocks`` blocks, of which the first changes the number of channels and the resolution."""
    first = Block(inputs, outputs, stride, before)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


class ResNetCifar(nn.Module):
    """``ResNetCifar(depth)`` with depth 6n + 2: 20, 32, 44, 56, 110 ... ``[n, 3, 32, 32]`` -> logits ``[n, 10]``.

    Parameters: 269,722 at depth 20, 464,154 at 32, 658,586 at 44, 853,018 at 56, 1,727,962 at 110. Weights start as He,
    Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015.

    ``widths`` are the channels of the three stages, and ``offsets`` the channels of zeros that the shortcuts into the
    second and the third stage put before their input: half of those that are missing where it is ``None``. A network
    whose stages were cut is built with other widths and offsets.
    """

    def __init__(
        self, depth: int = 20, widths: tuple[int, int, int] = (16, 32, 64), offsets: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise SchemeError(f"a CIFAR ResNet has 6n + 2 layers (20, 32, 44, 56, 110); {depth} is no such number")
        if len(widths) != 3 or min(widths) < 1 or any(wide > wider for wide, wider in pairwise(widths)):
            raise SchemeError(f"a CIFAR ResNet has three stages, none narrower than the one before; not {widths}")
        blocks = (depth - 2) // 6
        first, second, third = widths
        into_second, into_third = (None, None) if offsets is None else offsets
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = stage(first, first, blocks, 1)
        self.layer2 = stage(first, second, blocks, 2, into_second)
        self.layer3 = stage(second, third, blocks, 2, into_third)
        self.linear = nn.Linear(third, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.bn1(self.conv1(images)).relu()
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: Tensor = self.linear(maps.mean(dim=(2, 3)))
        return logits
