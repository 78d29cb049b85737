"""One block of memory that buffers share which are not needed at the same time."""

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 4
"""Every buffer begins at a multiple of so many bytes: integers of 32 bits lie in some."""


@dataclass(frozen=True)
class Lifetime:
    """A buffer of so many bytes that is needed from its ``first`` step to its ``last``, both included."""

    bytes: int
    first: int
    last: int

    def meets(self, other: "Lifetime") -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Arena:
    """Where each buffer begins, in bytes, and the bytes of all."""

    offsets: tuple[int, ...]
    bytes: int


def share(buffers: Sequence[Lifetime]) -> Arena:
    """Places for buffers, so that those with a step in common do not overlap.

    Greedy by size: the largest first, each in the smallest gap that holds it between those that it meets, or behind
    them (Pisarchyk and Lee 2020, arXiv 2001.03288, offset calculation). No promise of the least.
    """
    offsets: dict[int, int] = {}
    for k in sorted(range(len(buffers)), key=lambda k: (-buffers[k].bytes, buffers[k].first)):
        others = [other for other in offsets if buffers[k].meets(buffers[other])]
        met = sorted((offsets[other], _aligned(buffers[other].bytes)) for other in others)
        gaps, end = [], 0
        for start, size in met:
            if start - end >= _aligned(buffers[k].bytes):
                gaps.append((start - end, end))
            end = max(end, start + size)
        offsets[k] = min(gaps)[1] if gaps else end
    ends = (offsets[k] + _aligned(each.bytes) for k, each in enumerate(buffers))
    return Arena(tuple(offsets[k] for k in range(len(buffers))), max(ends, default=0))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
