"""A stream: the symbols of one array, or of one byte plane of it, and the matrices in it."""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.coding.adaptive import Counts, block_counts
from featherweight.coding.geometric import fit

Values = NDArray[np.unsignedinteger[Any]]

VIEWS = 5
"""How many ways there are to cut an array into lines: see :meth:`Stream.view`."""
_MATRIX = 2  # axes


class Stream:
    """Symbols of one alphabet (2 to 4,096 symbols) with the shape of their array; a decoder fills them in."""

    def __init__(self, values: Values, shape: tuple[int, ...], alphabet: int) -> None:
        self.values = values  # flat, in C order
        self.shape = shape
        self.alphabet = alphabet

    @cached_property
    def blocks(self) -> Counts:
        """Counts of the symbols a block, as :func:`block_counts` gives them: one pass over the symbols."""
        return block_counts(self.values, self.alphabet)

    @cached_property
    def counts(self) -> Counts:
        """Counts of the symbols over the whole stream."""
        total: Counts = self.blocks.sum(axis=0)
        return total

    @cached_property
    def shape_of_counts(self) -> tuple[int, int]:
        """Centre and ratio of the two-sided geometric distribution that is nearest to the counts."""
        return fit(self.counts)

    def view(self, number: int) -> Values | None:
        """The array as lines: shape (lines, a, b), writable in place; None where the array has no such view.

        All axes after the second are joined, to axes (d0, d1, k); for the weights of a convolution these are output
        channel, input channel, and kernel position. The views: 0, a line an index of d0 (an output); 1, a line an
        index of (d1, k); 2, a line an index of (d0, d1) (a kernel); 3, a line an index of k (a kernel position); 4, a
        line an index of d1 (an input). The entries of a line are in C order of the axes that remain. Views 2 to 4 need
        three axes or more. There are at least two lines, of at least two entries.
        """
        if len(self.shape) < _MATRIX or (len(self.shape) == _MATRIX and number > 1):
            return None
        first, second = self.shape[:2]
        cube = self.values.reshape(first, second, -1)
        view: Values = (
            cube,
            self.values.reshape(first, -1).T[:, :, None],
            self.values.reshape(first * second, -1)[:, :, None],
            self.values.reshape(first * second, -1).T[:, :, None],
            cube.transpose(1, 0, 2),
        )[number]
        return view if view.shape[0] > 1 and view.shape[1] * view.shape[2] > 1 else None
