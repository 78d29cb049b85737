"""A sent table of counts, for streams whose order hides their distribution from an adaptive model.

A count ``c > 0`` is sent as a floating-point number: its exponent ``floor(log2(c)) + 1`` (0 for a count of zero), and
the ``precision`` bits that follow the leading one. Symbols whose count is zero are left out of the coder's alphabet.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherweight.coding.adaptive import Counts, Prior, block_counts, choose_prior, decode_blocks, encode_blocks
from featherweight.coding.rangecoder import RangeDecoder, RangeEncoder, Weights, bits
from featherweight.core.errors import FormatError

PRECISIONS = 8
EXPONENTS = 48  # counts below 2**47


@dataclass(frozen=True)
class Table:
    """The description: exponents of all symbols, mantissas and weights of those that are used; and the bits of all."""

    precision: int
    exponents: NDArray[np.uint8]
    exponent_prior: Prior
    mantissas: NDArray[np.int32]
    weights: Weights
    bits: float


def plan(counts: Counts) -> Table:
    """The table with the fewest bits, which are exact."""
    exponents = np.frexp(counts)[1].astype(np.uint8)
    table_bits, prior = choose_prior(block_counts(exponents, EXPONENTS))
    used = counts[exponents > 0]
    used_exponents = exponents[exponents > 0]
    precisions = np.arange(PRECISIONS)
    rounded = (used << precisions[:, None]) >> (used_exponents.astype(np.int64) - 1)
    mantissas = (rounded - (1 << precisions)[:, None]).astype(np.int32)
    weights = _weights(used_exponents, mantissas, precisions[:, None])
    totals = bits(used, weights) + table_bits + used.size * precisions + float(np.log2(PRECISIONS))
    best = int(np.argmin(totals))
    return Table(best, exponents, prior, mantissas[best], weights[best], float(totals[best]))


def _weights(exponents: NDArray[np.uint8], mantissas: NDArray[np.int32], precision: int | NDArray[np.int64]) -> Weights:
    """``(2**precision + mantissa) * 2**(exponent - 1)``, exact in float64."""
    return np.ldexp((mantissas + (1 << precision)).astype(np.float64), exponents.astype(np.int32) - 1)


def encode(coder: RangeEncoder, table: Table) -> None:
    """Precision, exponents, mantissas."""
    coder.number(table.precision, PRECISIONS)
    table.exponent_prior.encode(coder, EXPONENTS)
    encode_blocks(coder, table.exponents, EXPONENTS, table.exponent_prior)
    coder.uniform(table.mantissas, 1 << table.precision)


def decode(coder: RangeDecoder, alphabet: int) -> tuple[NDArray[np.intp], Weights]:
    """The symbols that are used, ascending, and their weights."""
    precision = coder.number(PRECISIONS)
    exponents = np.zeros(alphabet, dtype=np.uint8)
    decode_blocks(coder, exponents, EXPONENTS, Prior.decode(coder, EXPONENTS))
    used = np.flatnonzero(exponents)
    if not used.size:
        raise FormatError("a table of counts is empty: the data is damaged")
    return used, _weights(exponents[used], coder.uniform(used.size, 1 << precision), precision)
