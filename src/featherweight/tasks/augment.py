"""Random changes of images that keep their meaning, a whole batch at a time."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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


@dataclass(frozen=True)
class Jitter:
    """Turn, zoom and shift every square image by its own amounts, uniform within the limits.

    ``turn`` in degrees to either side, ``zoom`` as a part (0.1: 90 % to 110 %), ``shift`` in pixels or parts of them on
    both axes. Values between pixels are bilinear, and what comes in at the border is ``background``, the same in all
    channels. ``[n, c, s, s]`` -> the same shape.
    """

    turn: float
    zoom: float
    shift: float
    background: float

    def __call__(self, images: Tensor) -> Tensor:
        count, size = len(images), images.shape[-1]
        angle, zoom, across, down = (2 * torch.rand(4, count, device=images.device) - 1).unbind()
        angle, zoom = angle * math.radians(self.turn), 1 + zoom * self.zoom
        # The grid counts from -1 to 1 over the image, so that a pixel is 2 / size.
        across, down = across * self.shift * 2 / size, down * self.shift * 2 / size
        cosine, sine = angle.cos() * zoom, angle.sin() * zoom
        rows = (torch.stack((cosine, -sine, across), dim=1), torch.stack((sine, cosine, down), dim=1))
        grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
        # Samples outside count as 0, which is the background once it is taken off.
        moved: Tensor = F.grid_sample(images - self.background, grid, align_corners=False)
        return moved + self.background
