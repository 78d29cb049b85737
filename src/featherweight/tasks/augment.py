"""Random changes of images that keep their meaning, a whole batch at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shift:
    """Move every image by its own whole number of pixels, -``pixels`` to ``pixels``, down and to the right.

    What comes in at the border has ``background``, one value a channel (of normalised inputs: the value that a black
    pixel has). The same as padding by ``pixels`` and cropping at random. ``[n, c, h, w]`` -> the same shape.
    """

    pixels: int
    background: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        border = self.pixels
        canvas = torch.tensor(self.background, dtype=images.dtype, device=images.device).view(1, channels, 1, 1)
        canvas = canvas.repeat(count, 1, height + 2 * border, width + 2 * border)
        canvas[:, :, border : border + height, border : border + width] = images
        corner = torch.randint(0, 2 * border + 1, (2, count, 1), device=images.device)
        rows = (corner[0] + torch.arange(height, device=images.device)).view(count, 1, height, 1)
        columns = (corner[1] + torch.arange(width, device=images.device)).view(count, 1, 1, width)
        image = torch.arange(count, device=images.device).view(count, 1, 1, 1)
        channel = torch.arange(channels, device=images.device).view(1, channels, 1, 1)
        return canvas[image, channel, rows, columns]


@dataclass(frozen=True)
class ShiftAndFlip:
    """:class:`Shift`, and every second image, at random, with left and right swapped: the usual one for CIFAR-10."""

    shift: Shift

    def __call__(self, images: Tensor) -> Tensor:
        swap = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return self.shift(torch.where(swap, images.flip(3), images))
