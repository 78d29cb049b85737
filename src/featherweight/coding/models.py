"""The models that a stream can be coded with. Each states its bits, so that the encoder can choose.

A model's number stands in the file: numbers are never reused, and new models take the next one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featherweight.coding import classes, columns, table
from featherweight.coding.adaptive import LAST_BLOCK, Prior, choose_prior, decode_blocks, encode_blocks
from featherweight.coding.geometric import RATIOS, geometric
from featherweight.coding.rangecoder import RangeDecoder, RangeEncoder, Weights, bits
from featherweight.coding.stream import Stream, Values
from featherweight.core.errors import FormatError


@dataclass(frozen=True)
class Plan:
    """A way to code a stream: its bits, description included, and the act."""

    bits: float
    encode: Callable[[RangeEncoder], None]


class Model(Protocol):
    """A way to assign probabilities to the symbols of a stream."""

    def plan(self, stream: Stream) -> Plan | None:
        """The cheapest description under this model, or None where it does not apply."""

    def decode(self, coder: RangeDecoder, stream: Stream) -> None:
        """Fill in the stream's values."""


class Uniform:
    """All symbols equally likely."""

    def plan(self, stream: Stream) -> Plan:
        def encode(coder: RangeEncoder) -> None:
            for piece in _pieces(stream.values):
                coder.uniform(piece.astype(np.int32), stream.alphabet)

        return Plan(float(stream.values.size * np.log2(stream.alphabet)), encode)

    def decode(self, coder: RangeDecoder, stream: Stream) -> None:
        for piece in _pieces(stream.values):
            piece[:] = coder.uniform(piece.size, stream.alphabet)


class Table:
    """A sent table of counts: see :mod:`featherweight.coding.table`."""

    def plan(self, stream: Stream) -> Plan:
        found = table.plan(stream.counts)

        def encode(coder: RangeEncoder) -> None:
            table.encode(coder, found)
            positions = np.cumsum(found.exponents > 0) - 1  # of a symbol among those used
            _encode_fixed(coder, stream.values, found.weights, positions)

        return Plan(found.bits, encode)

    def decode(self, coder: RangeDecoder, stream: Stream) -> None:
        used, weights = table.decode(coder, stream.alphabet)
        for piece in _pieces(stream.values):
            piece[:] = used[coder.categorical(piece.size, weights)]


class Parametric:
    """A two-sided geometric distribution: see :mod:`featherweight.coding.geometric`."""

    def plan(self, stream: Stream) -> Plan:
        centre, ratio = stream.shape_of_counts
        weights = geometric(stream.alphabet, centre, ratio)

        def encode(coder: RangeEncoder) -> None:
            coder.number(centre, stream.alphabet)
            coder.number(ratio, RATIOS)
            _encode_fixed(coder, stream.values, weights, np.arange(stream.alphabet))

        return Plan(float(bits(stream.counts, weights) + np.log2(stream.alphabet * RATIOS)), encode)

    def decode(self, coder: RangeDecoder, stream: Stream) -> None:
        centre = coder.number(stream.alphabet)
        weights = geometric(stream.alphabet, centre, coder.number(RATIOS))
        for piece in _pieces(stream.values):
            piece[:] = coder.categorical(piece.size, weights)


class Adaptive:
    """Counts re-estimated block by block: see :mod:`featherweight.coding.adaptive`."""

    def plan(self, stream: Stream) -> Plan:
        cost, prior = choose_prior(stream.blocks, stream.shape_of_counts)

        def encode(coder: RangeEncoder) -> None:
            prior.encode(coder, stream.alphabet)
            encode_blocks(coder, stream.values, stream.alphabet, prior)

        return Plan(cost, encode)

    def decode(self, coder: RangeDecoder, stream: Stream) -> None:
        decode_blocks(coder, stream.values, stream.alphabet, Prior.decode(coder, stream.alphabet))


class Columns:
    """Binary matrices by line and column: see :mod:`featherweight.coding.columns`."""

    def plan(self, stream: Stream) -> Plan | None:
        found = columns.plan(stream)
        return None if found is None else Plan(found.bits, partial(columns.encode, stream=stream, columns=found))

    def decode(self, coder: RangeDecoder, stream: Stream) -> None:
        columns.decode(coder, stream)


class Classes:
    """Lines that share distributions: see :mod:`featherweight.coding.classes`."""

    def plan(self, stream: Stream) -> Plan | None:
        found = classes.plan(stream)
        return None if found is None else Plan(found.bits, partial(classes.encode, stream=stream, found=found))

    def decode(self, coder: RangeDecoder, stream: Stream) -> None:
        classes.decode(coder, stream)


MODELS: tuple[Model, ...] = (Uniform(), Table(), Parametric(), Adaptive(), Columns(), Classes())
CHOICES = 8  # numbers that a file can hold; those without a model are kept for later versions


def choose(stream: Stream) -> tuple[int, Plan]:
    """The number and plan of the model with the fewest bits; the lower number on a tie."""
    plans = {number: plan for number, model in enumerate(MODELS) if (plan := model.plan(stream)) is not None}
    number = min(plans, key=lambda candidate: (plans[candidate].bits, candidate))
    return number, plans[number]


def encode(coder: RangeEncoder, stream: Stream) -> None:
    """The number of the best model, then the stream under it."""
    number, plan = choose(stream)
    coder.number(number, CHOICES)
    plan.encode(coder)


def cost(stream: Stream) -> float:
    """The bits that :func:`encode` takes."""
    return choose(stream)[1].bits + float(np.log2(CHOICES))


def decode(coder: RangeDecoder, stream: Stream) -> None:
    """The counterpart of :func:`encode`: fills in the stream's values."""
    number = coder.number(CHOICES)
    if number >= len(MODELS):
        raise FormatError(f"a stream uses model {number}, which this version does not have")
    MODELS[number].decode(coder, stream)


def _pieces(values: Values) -> Iterator[Values]:
    """Parts of at most 65,536 symbols: they bound the memory of a library call."""
    return (values[start : start + LAST_BLOCK] for start in range(0, values.size, LAST_BLOCK))


def _encode_fixed(coder: RangeEncoder, values: Values, weights: Weights, positions: NDArray[np.intp]) -> None:
    """Symbols under one table of weights, after renumbering."""
    renumber = positions.astype(np.int32)
    for piece in _pieces(values):
        coder.categorical(renumber[piece], weights)
