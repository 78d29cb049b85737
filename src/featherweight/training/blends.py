"""Blends of images: what a teacher is asked about that no training has shown it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.task import Batch, Data


def _check(share: float) -> None:
    if not 0 < share <= 1:
        raise SchemeError(f"a share of {share} of the images that are blended; give one above 0, and at most 1")


def _parts(images: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Other images of the batch, one for each, and how much of each stays, [n, 1, 1, 1], uniform in [0, 1]."""
    if images.ndim != 4 or not images.is_floating_point():
        raise TaskError(f"only batches of images [n, c, h, w] of floats can be blended, not {list(images.shape)}")
    others = images[torch.randperm(len(images), device=images.device)]
    blended, stays = torch.rand(2, len(images), 1, 1, 1, device=images.device)
    return others, torch.where(blended < share, stays, 1.0)


@dataclass(frozen=True)
class MixUp:
    """``λ x + (1 − λ) x'`` for a ``share`` of a batch's images ``x``, with ``x'`` another one and ``λ ~ U(0, 1)``.

    Zhang, Cissé, Dauphin and Lopez-Paz (2018, arXiv 1710.09412) with α = 1; every image has its own ``λ``.
    ``[n, c, h, w]`` -> the same shape, a new tensor.
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        _check(self.share)

    def __call__(self, images: Tensor) -> Tensor:
        others, stays = _parts(images, self.share)
        return torch.lerp(others, images, stays)


@dataclass(frozen=True)
class CutMix:
    """A box of another image of the batch in a ``share`` of the images, ``1 − λ`` of the area, with ``λ ~ U(0, 1)``.

    Yun et al. (2019, arXiv 1905.04899, equations 1 and 2): sides ``h √(1 − λ)`` and ``w √(1 − λ)``, the centre
    anywhere, what lies outside cut off. Every image has its own box. ``[n, c, h, w]`` -> the same shape, a new tensor.
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        _check(self.share)

    def __call__(self, images: Tensor) -> Tensor:
        others, stays = _parts(images, self.share)
        half = (1 - stays).sqrt() / 2
        rows, columns = (self._within(size, half) for size in images.shape[2:])
        return torch.where(rows.unsqueeze(3) & columns.unsqueeze(2), others, images)

    def _within(self, size: int, half: Tensor) -> Tensor:
        """[n, 1, size], true at the pixels of a side that lie within its box, by their middles."""
        centre = torch.rand_like(half) * size
        pixel = torch.arange(size, device=half.device) + 0.5
        return ((pixel - centre).abs() < half * size).squeeze(2)


@dataclass(frozen=True, eq=False)
class Blended:
    """The inputs of ``data``, blended and without labels. Draws from torch's global generator."""

    data: Data
    blend: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.data:
            inputs = batch[0] if isinstance(batch, tuple | list) else batch
            if not isinstance(inputs, Tensor):
                raise TaskError("only inputs that are one tensor of images can be blended; learn by Training")
            yield self.blend(inputs)
