"""Block-adaptive coding: counts of what has passed predict what comes.

The symbols are cut into blocks whose length grows with their position; all symbols of a block have the same weights,
made from the counts of all blocks before it. Sequential estimation costs about ``log2(n) / 2`` bits a free parameter,
whether the counts are sent or learnt (Krichevsky & Trofimov 1981; Rissanen 1984); learning needs no table in the file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherweight.coding.geometric import RATIOS, fit, geometric
from featherweight.coding.rangecoder import UNIT, RangeDecoder, RangeEncoder, Weights
from featherweight.core.errors import FormatError

FIRST_BLOCK = 8
LAST_BLOCK = 65_536
GROWTH = 8  # a block is at most 1/8 of what has passed
COUNT_WEIGHTS = (1, 2, 4, 8, 16, 64, 256, 1024)
SEED_MASS = 16  # the total weight of a geometric seed, per symbol of the alphabet

FLAT, SEEDED, KERNEL = 0, 1, 2
KINDS = 8
HALF_WIDTHS = (1, 2, 4, 8, 16)
KERNEL_WEIGHT = 16.0
_MIN_KERNEL_ALPHABET = 16  # below it, kernels are not tried
_KERNEL_COUNT_WEIGHTS = (1, 3, 4)  # indices that are tried with kernels
_AT_ONCE = 1 << 12  # symbols whose costs under all priors are worked out together: they stay in the cache

Counts = NDArray[np.int64]


def block_lengths(count: int) -> Iterator[int]:
    """The lengths of the blocks of ``count`` symbols."""
    passed = 0
    while passed < count:
        length = min(max(FIRST_BLOCK, passed // GROWTH), LAST_BLOCK, count - passed)
        yield length
        passed += length


def block_counts(values: NDArray[np.unsignedinteger], alphabet: int) -> Counts:
    """How often each symbol occurs in each block: shape (blocks, alphabet)."""
    rows, start = [], 0
    for length in block_lengths(values.size):
        rows.append(np.bincount(values[start : start + length], minlength=alphabet))
        start += length
    return np.array(rows, dtype=np.int64).reshape(len(rows), alphabet)


@dataclass(frozen=True)
class Prior:
    """How counts become weights.

    ``count_weight`` is an index into ``COUNT_WEIGHTS``: the weight W of one count against what stands for the unseen.

    - kind 0, flat: ``W n[k] + 1`` (W = 2 is the estimator of Krichevsky and Trofimov);
    - kind 1, seeded: ``W n[k] + seed[k]``, a two-sided geometric distribution with this centre and ratio index;
    - kinds 2 to 6, kernel: ``(2h + 1) (W n[k] + 1) + 16 (n[k-h] + ... + n[k+h])`` with half-width h = 1, 2, 4, 8, 16:
      neighbouring symbols mean neighbouring values, so the counts of neighbours count a little (Parzen 1962).
    """

    count_weight: int
    kind: int = FLAT
    centre: int = 0
    ratio: int = 0

    def weights(self, counts: Counts) -> Weights:
        """The weights after ``counts`` (shape (alphabet,), or (blocks, alphabet)); integers below 2**53."""
        weights: Weights
        own: Weights = counts.astype(np.float64) * COUNT_WEIGHTS[self.count_weight]
        alphabet = counts.shape[-1]
        if self.kind == SEEDED:
            weights = own + _seed(alphabet, self.centre, self.ratio)
        elif self.kind == FLAT:
            weights = own + 1.0
        else:
            half_width = HALF_WIDTHS[self.kind - KERNEL]
            weights = (own + 1.0) * (2.0 * half_width + 1.0) + KERNEL_WEIGHT * _window_sums(counts, half_width)
        return weights

    def description_bits(self, alphabet: int) -> float:
        """What :meth:`encode` takes."""
        seed = float(np.log2(alphabet * RATIOS)) if self.kind == SEEDED else 0.0
        return float(np.log2(len(COUNT_WEIGHTS) * KINDS)) + seed

    def encode(self, coder: RangeEncoder, alphabet: int) -> None:
        """The prior as uniform symbols."""
        coder.number(self.count_weight, len(COUNT_WEIGHTS))
        coder.number(self.kind, KINDS)
        if self.kind == SEEDED:
            coder.number(self.centre, alphabet)
            coder.number(self.ratio, RATIOS)

    @staticmethod
    def decode(coder: RangeDecoder, alphabet: int) -> "Prior":
        """The counterpart of :meth:`encode`."""
        count_weight = coder.number(len(COUNT_WEIGHTS))
        kind = coder.number(KINDS)
        if kind - KERNEL >= len(HALF_WIDTHS):
            raise FormatError(f"an adaptive stream has a prior of kind {kind}, which this version does not have")
        if kind == SEEDED:
            return Prior(count_weight, kind, coder.number(alphabet), coder.number(RATIOS))
        return Prior(count_weight, kind)


def _seed(alphabet: int, centre: int, ratio: int) -> Weights:
    """The weights of a geometric seed, each at least 1."""
    shape = geometric(alphabet, centre, ratio)
    seed: Weights = np.floor(shape * (SEED_MASS * alphabet / shape.sum())) + 1.0
    return seed


def _window_sums(counts: Counts, half_width: int) -> Weights:
    """Sums of the counts of the symbols at most ``half_width`` away, cut off at the alphabet's ends."""
    below = _below(counts)
    low, high = _window(counts.shape[-1], half_width)
    sums: Weights = below[..., high] - below[..., low]
    return sums


def _below(counts: Counts) -> Weights:
    """How many counts lie below each symbol, and at the end how many there are: shape (..., alphabet + 1)."""
    below: Weights = np.zeros((*counts.shape[:-1], counts.shape[-1] + 1))
    np.cumsum(counts, axis=-1, out=below[..., 1:])
    return below


def _window(alphabet: int, half_width: int | NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first of the symbols at most ``half_width`` away, and the one behind the last."""
    symbols = np.arange(alphabet)
    return np.maximum(symbols - half_width, 0), np.minimum(symbols + half_width + 1, alphabet)


def choose_prior(counts: Counts, shape: tuple[int, int] | None = None) -> tuple[float, Prior]:
    """The prior with the fewest bits, description included, for blocks with these counts.

    ``shape`` is the :func:`fit` of all counts where it is known.
    """
    alphabet = counts.shape[1]
    centre, ratio = fit(counts.sum(axis=0)) if shape is None else shape
    every = range(len(COUNT_WEIGHTS))
    priors = [*map(Prior, every), *(Prior(weight, SEEDED, centre, ratio) for weight in every)]
    if alphabet >= _MIN_KERNEL_ALPHABET:
        kernels = [KERNEL + index for index in range(len(HALF_WIDTHS))]
        priors += [Prior(weight, kernel) for kernel in kernels for weight in _KERNEL_COUNT_WEIGHTS]
    described = [priors[kind].description_bits(alphabet) for kind in (0, len(every))]
    costs = _bits_of_each(counts, priors)
    costs += [described[prior.kind == SEEDED] for prior in priors]
    best = int(np.argmin(costs))
    return float(costs[best]), priors[best]


def _bits_of_each(counts: Counts, priors: Sequence[Prior]) -> NDArray[np.float64]:
    """The ideal code length of blocks with these counts under each prior.

    Only symbols that occur in a block are looked at, for all priors at once. Weights are integers, so that they and
    their sums are those of :meth:`Prior.weights` to the last bit, though they are ``scale * (W n + 1) + rest`` here.
    """
    alphabet = counts.shape[1]
    before = np.cumsum(counts, axis=0) - counts
    kinds = list({prior.kind: prior for prior in priors}.values())
    rest = _Rest(kinds, before)
    row = np.array([[kind.kind for kind in kinds].index(prior.kind) for prior in priors])
    scale = rest.scales[row, None]
    weight = np.array([float(COUNT_WEIGHTS[prior.count_weight]) for prior in priors])[:, None]
    passed = before.sum(axis=1, dtype=np.float64)
    shares = (1 - alphabet / UNIT) / (scale * (weight * passed + alphabet) + rest.sums[row])
    found = np.zeros(len(priors))
    blocks, symbols = np.nonzero(counts)
    for start in range(0, blocks.size, _AT_ONCE):
        block, symbol = blocks[start : start + _AT_ONCE], symbols[start : start + _AT_ONCE]
        weights = scale * (weight * before[block, symbol] + 1.0) + rest.of(block, symbol)[row]
        found -= np.einsum(
            "pm,m->p", np.log2(weights * shares[:, block] + 1 / UNIT), counts[block, symbol].astype(float)
        )
    return found


class _Rest:
    """What all priors of a kind share in ``scale * (W n + 1) + rest``, kind by kind.

    ``scales`` are one a kind; ``sums`` the rest over the alphabet, of each kind in each block; :meth:`of` is the rest.
    """

    def __init__(self, kinds: Sequence[Prior], before: Counts) -> None:
        count, alphabet = before.shape
        self.scales, self.sums = np.ones(len(kinds)), np.zeros((len(kinds), count))
        self._seeds = {k: _seed(alphabet, p.centre, p.ratio) - 1.0 for k, p in enumerate(kinds) if p.kind == SEEDED}
        self._kernels = [k for k, prior in enumerate(kinds) if prior.kind >= KERNEL]
        for k, seed in self._seeds.items():
            self.sums[k] = seed.sum()
        if self._kernels:
            half = np.array([HALF_WIDTHS[kinds[k].kind - KERNEL] for k in self._kernels])
            self._below = _below(before)
            self._low, self._high = _window(alphabet, half[:, None])
            self.scales[self._kernels] = 2.0 * half + 1.0
            # A count lies in as many windows as its own is wide. No matrix product: it would wake a BLAS's threads.
            wide = (self._high - self._low).astype(np.float64)
            self.sums[self._kernels] = KERNEL_WEIGHT * np.einsum("ba,ka->kb", before.astype(np.float64), wide)

    def of(self, block: NDArray[np.intp], symbol: NDArray[np.intp]) -> Weights:
        """Of these symbols in these blocks: shape (kinds, symbols)."""
        rest: Weights = np.zeros((len(self.scales), block.size))
        for k, seed in self._seeds.items():
            rest[k] = seed[symbol]
        if self._kernels:
            high, low = self._below[block, self._high[:, symbol]], self._below[block, self._low[:, symbol]]
            rest[self._kernels] = KERNEL_WEIGHT * (high - low)
        return rest


def encode_blocks(coder: RangeEncoder, values: NDArray[np.unsignedinteger], alphabet: int, prior: Prior) -> None:
    """``values`` in blocks."""
    counts, start = np.zeros(alphabet, dtype=np.int64), 0
    for length in block_lengths(values.size):
        block = values[start : start + length].astype(np.int32)
        coder.categorical(block, prior.weights(counts))
        counts += np.bincount(block, minlength=alphabet)
        start += length


def decode_blocks(coder: RangeDecoder, values: NDArray[np.unsignedinteger], alphabet: int, prior: Prior) -> None:
    """Fill ``values``; the counterpart of :func:`encode_blocks`."""
    counts, start = np.zeros(alphabet, dtype=np.int64), 0
    for length in block_lengths(values.size):
        block = coder.categorical(length, prior.weights(counts))
        values[start : start + length] = block
        counts += np.bincount(block, minlength=alphabet)
        start += length
