"""Disjoint sets of labels, in arrays."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]


class Union:
    """Disjoint sets of integers (Tarjan 1975). A set whose ``frozen`` root is true may not be cut."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.frozen: list[bool] = []

    def fresh(self, shape: Sequence[int], frozen: bool = False) -> Array:
        first, count = len(self.parent), int(np.prod(shape, dtype=np.int64))
        self.parent += range(first, first + count)
        self.frozen += [frozen] * count
        return np.arange(first, first + count, dtype=np.int64).reshape(shape)

    def find(self, label: int) -> int:
        parent = self.parent
        while parent[label] != label:
            parent[label] = label = parent[parent[label]]
        return label

    def roots(self, labels: Array) -> Array:
        find = self.find
        flat = [find(label) for label in labels.reshape(-1).tolist()]
        return np.asarray(flat, dtype=np.int64).reshape(labels.shape)

    def join(self, a: Array, b: Array) -> None:
        """Every entry of ``a`` with the entry of ``b`` at its place; shapes broadcast."""
        if a is b:
            return
        parent, frozen, find = self.parent, self.frozen, self.find
        first, second = np.broadcast_arrays(a, b)
        for x, y in zip(first.reshape(-1).tolist(), second.reshape(-1).tolist(), strict=True):
            root, other = find(x), find(y)
            if root != other:
                if other < root:
                    root, other = other, root
                parent[other] = root
                frozen[root] = frozen[root] or frozen[other]

    def join_along(self, labels: Array, axis: int) -> Array:
        """All entries that differ in ``axis`` alone; what is left is one entry of each."""
        first = labels.take([0], axis)
        self.join(labels, np.broadcast_to(first, labels.shape))
        return first.squeeze(axis)

    def freeze(self, labels: Array) -> None:
        for label in labels.reshape(-1).tolist():
            self.frozen[self.find(label)] = True

    def all_frozen(self, labels: Array) -> bool:
        return all(self.frozen[self.find(label)] for label in labels.reshape(-1).tolist())
