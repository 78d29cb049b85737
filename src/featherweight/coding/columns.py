"""Column-adaptive coding of supports: binary matrices whose rows and columns differ in density.

The lines of a view are coded in order. In line ``i`` the entry of column ``j`` is 1 with the odds ::

    level * (ones[j] + s * g) / (i - ones[j] + s * (1 - g)),    g = (total + 1/2) / (i * columns + 1)

where ``ones[j]`` counts the ones of column ``j`` in the ``i`` lines before, ``total`` is their sum, and the strength
``s`` shrinks the estimate of a column towards the mean of all. The level, one of twelve factors, is sent with each
line: so the log-odds are a column's effect plus a line's effect, as in the model of Rasch (1960). Pixels at the border
of an image that no neuron looks at, and neurons that have lost nearly all inputs, then cost next to nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.coding.rangecoder import UNIT, RangeDecoder, RangeEncoder, Weights
from featherweight.coding.stream import VIEWS, Stream, Values
from featherweight.core.errors import FormatError

STRENGTHS = (2, 4, 8, 16, 32, 64, 128, 256)
LEVELS = np.array([1, 16, 64, 91, 128, 181, 256, 362, 512, 724, 1024, 4096]) / 256
_BINARY = 2
_LEVEL_INCREMENT = 4
_SEARCH_VIEWS = (0, 1, 3, 4)
_SEARCH_STRENGTHS = (3, 1, 2, 4, 5)  # indices into STRENGTHS; the first one decides between the views
_PREFIX = 1 << 16  # entries that decide between views and strengths
_SEARCH_LINES = 64  # lines per column: more of them would take more time than they are likely to save bits
_MAX_COLUMNS = 1 << 18  # bounds the tables of one line: 4 MiB
_MAX_LINES = 1 << 15  # bounds the library calls
_MIN_COLUMNS = 8


class _State:
    """What both sides know before a line: the ones of each column, and the levels of the lines so far."""

    def __init__(self, columns: int, strength: int) -> None:
        self._ones = np.zeros(columns)
        self._total = 0.0
        self._lines = 0.0
        self._strength = float(STRENGTHS[strength])
        self.level_weights = np.ones(len(LEVELS))

    def odds(self) -> NDArray[np.float64]:
        """The odds of a one in each column, at level 1: sums, products, and a quotient in float64, in this order."""
        mean = (self._total + 0.5) / (self._lines * self._ones.size + 1.0)
        ones = self._ones + self._strength * mean
        zeros = (self._lines - self._ones) + self._strength * (1.0 - mean)
        odds: NDArray[np.float64] = ones / zeros
        return odds

    def update(self, line: NDArray[Any], level: int) -> None:
        """Count a line."""
        self._ones += line
        self._total += float(np.count_nonzero(line))
        self._lines += 1.0
        self.level_weights[level] += _LEVEL_INCREMENT


def _weights(odds: NDArray[np.float64], level: int) -> Weights:
    """The weights of 0 and 1 for each column: integers, both at least 1, that sum to 2**24."""
    scaled = odds * LEVELS[level]
    ones = np.clip(np.floor(scaled / (1.0 + scaled) * UNIT), 1, UNIT - 1)
    return np.stack([UNIT - ones, ones], axis=1)


def _nearest_level(odds: NDArray[np.float64], line: NDArray[Any]) -> int:
    """The level nearest, in ratio, to the ones of the line over those expected at level 1."""
    factor = (np.count_nonzero(line) + 0.25) / (float((odds / (1.0 + odds)).sum()) + 0.25)
    return int(np.argmin(np.abs(np.log2(LEVELS / factor))))


@dataclass(frozen=True)
class Columns:
    """The description: a view, a strength (an index), and the level of each line; and the bits of the whole."""

    view: int
    strength: int
    levels: tuple[int, ...]
    bits: float


def plan(stream: Stream) -> Columns | None:
    """The description with (locally) the fewest bits, which are exact; None for anything but a binary matrix."""
    if stream.alphabet != _BINARY:
        return None
    views = {
        number: view
        for number in _SEARCH_VIEWS
        if (view := stream.view(number)) is not None and _fits(view) and len(view) <= _SEARCH_LINES * view[0].size
    }
    if not views:
        return None
    density = max(1, int(stream.counts[1])) / stream.values.size
    number = max(views, key=lambda candidate: _gain(views[candidate], _SEARCH_STRENGTHS[0], density))
    strength = max(_SEARCH_STRENGTHS, key=lambda candidate: _gain(views[number], candidate, density))
    bits, levels = _measure(views[number], strength)
    return Columns(number, strength, levels, bits + float(np.log2(VIEWS * len(STRENGTHS))))


def _fits(view: Values) -> bool:
    columns = int(view.shape[1] * view.shape[2])
    return int(view.shape[0]) <= _MAX_LINES and _MIN_COLUMNS <= columns <= _MAX_COLUMNS


def _gain(view: Values, strength: int, density: float) -> float:
    """Bits an entry that the first lines take less than under the one density."""
    prefix = view[: max(2, _PREFIX // (view.shape[1] * view.shape[2]))]
    bits, _ = _measure(prefix, strength)
    ones = int(np.count_nonzero(prefix))
    zeros = prefix.size - ones
    independent = -ones * np.log2(density) - (zeros * np.log2(1 - density) if zeros else 0.0)
    return float(independent - bits) / prefix.size


def _rows(view: Values) -> Iterator[Values]:
    return (view[index].reshape(-1) for index in range(view.shape[0]))


def _measure(view: Values, strength: int) -> tuple[float, tuple[int, ...]]:
    """The exact bits of the lines of a view, and their levels."""
    state = _State(view.shape[1] * view.shape[2], strength)
    bits, levels = 0.0, []
    for line in _rows(view):
        odds = state.odds()
        level = _nearest_level(odds, line)
        scaled = odds * LEVELS[level]
        bits += float(np.log2(1.0 + scaled).sum() - np.log2(scaled[line != 0]).sum())
        bits -= float(np.log2(state.level_weights[level] / state.level_weights.sum()))
        state.update(line, level)
        levels.append(level)
    return bits, tuple(levels)


def encode(coder: RangeEncoder, stream: Stream, columns: Columns) -> None:
    """View and strength; then, for each line, its level and its entries."""
    coder.number(columns.view, VIEWS)
    coder.number(columns.strength, len(STRENGTHS))
    view = stream.view(columns.view)
    assert view is not None
    state = _State(view.shape[1] * view.shape[2], columns.strength)
    for line, level in zip(_rows(view), columns.levels, strict=True):
        coder.categorical(np.array([level], dtype=np.int32), state.level_weights)
        coder.categorical_each(line.astype(np.int32), _weights(state.odds(), level))
        state.update(line, level)


def decode(coder: RangeDecoder, stream: Stream) -> None:
    """The counterpart of :func:`encode`."""
    number = coder.number(VIEWS)
    strength = coder.number(len(STRENGTHS))
    view = stream.view(number)
    if stream.alphabet != _BINARY or view is None or not _fits(view):
        raise FormatError(f"symbols of shape {stream.shape} cannot be coded by columns: the data is damaged")
    state = _State(view.shape[1] * view.shape[2], strength)
    for index in range(view.shape[0]):
        level = int(coder.categorical(1, state.level_weights)[0])
        line = coder.categorical_each(_weights(state.odds(), level))
        view[index] = line.reshape(view.shape[1:])
        state.update(line, level)
