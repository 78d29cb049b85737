"""Where the bytes of a file went: whole bytes that add up to the size of the file."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from featherweight.result import Line


@dataclass(frozen=True)
class Row:
    """One tensor. ``bytes`` is its part of the one coded stream, rounded so that all rows add up."""

    name: str
    shape: tuple[int, ...]
    code: str
    bytes: int
    bits_per_weight: float
    nonzero: float  # share of its entries


@dataclass(frozen=True)
class Ledger:
    """``overhead`` is what is no tensor's own: the envelope, the header, and the table of codes."""

    rows: tuple[Row, ...]
    overhead: int
    size: int


def ledger(lines: Sequence[Line], size: int) -> Ledger:
    """Rows for a file of ``size`` bytes that holds ``lines``."""
    rows, bits, before = [], 0.0, 0
    for line in lines:
        bits += line.bits
        upto, count = round(bits / 8), prod(line.shape)
        share = line.nonzero / count if count else 0.0
        rows.append(Row(line.name, line.shape, line.kind, upto - before, line.bits / max(count, 1), share))
        before = upto
    return Ledger(tuple(rows), size - before, size)
