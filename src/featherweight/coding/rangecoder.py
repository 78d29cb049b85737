"""The range coder (Pasco 1976; Martin 1979) behind every stream: a thin typed seam to the library ``constriction``.

The coder works on 64-bit intervals, emits 32-bit words, and takes probabilities as multiples of ``2**-24``. A model
hands over *weights*, integers held exactly in float64. The library turns weights ``w[0..n)`` into cumulative
frequencies with three IEEE 754 operations, which give the same result on every machine::

    c[k] = floor((w[0] + ... + w[k-1]) * ((2**24 - n) / (w[0] + ... + w[n-1]))) + k,        c[n] = 2**24

so every symbol has a frequency of at least 1, however small its weight.
"""

from typing import Any

import constriction  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from featherweight.core.errors import FormatError

PRECISION = 24
UNIT = 1 << PRECISION

Symbols = NDArray[np.int32]
Weights = NDArray[np.float64]

_queue = constriction.stream.queue
_model = constriction.stream.model
_WORD = 4  # bytes


def bits(counts: NDArray[Any], weights: Weights) -> NDArray[np.float64]:
    """The ideal code length of symbols with these counts, in bits: -sum of count * log2(probability).

    Over the last axis: rows of weights give a length each.
    """
    total = weights.sum(axis=-1, keepdims=True)
    leak = weights.shape[-1] / UNIT
    found: NDArray[np.float64] = -(counts * np.log2(weights * ((1 - leak) / total) + 1 / UNIT)).sum(axis=-1)
    return found


class RangeEncoder:
    """Appends symbols to one code word."""

    def __init__(self) -> None:
        self._coder: Any = _queue.RangeEncoder()

    def uniform(self, symbols: Symbols, alphabet: int) -> None:
        """Symbols that are equally likely; an alphabet of one takes nothing."""
        if alphabet > 1 and symbols.size:
            self._coder.encode(symbols, _model.Uniform(alphabet))

    def number(self, value: int, alphabet: int) -> None:
        """One symbol of ``alphabet`` equally likely ones."""
        self.uniform(np.array([value], dtype=np.int32), alphabet)

    def categorical(self, symbols: Symbols, weights: Weights) -> None:
        """Independent symbols with the same weights."""
        if weights.size > 1 and symbols.size:
            self._coder.encode(symbols, _model.Categorical(weights, perfect=False))

    def categorical_each(self, symbols: Symbols, weights: Weights) -> None:
        """Symbols with a row of weights each."""
        if symbols.size:
            self._coder.encode(symbols, _model.Categorical(perfect=False), weights)

    def finish(self) -> bytes:
        """The code word: big-endian words without the zero bytes at their end, which the decoder supplies."""
        words: NDArray[np.uint32] = self._coder.get_compressed()
        return words.astype(">u4").tobytes().rstrip(b"\0")


class RangeDecoder:
    """Takes symbols off a code word; every failure of the library becomes a :class:`FormatError`."""

    def __init__(self, data: bytes) -> None:
        self._canonical = not data.endswith(b"\0")
        self._empty = not data
        self._started = False
        padded = data + bytes(-len(data) % _WORD + _WORD)
        self._coder: Any = _queue.RangeDecoder(np.frombuffer(padded, dtype=">u4").astype(np.uint32))

    def uniform(self, count: int, alphabet: int) -> Symbols:
        """The counterpart of :meth:`RangeEncoder.uniform`."""
        if alphabet == 1 or not count:
            return np.zeros(count, dtype=np.int32)
        return self._decode(_model.Uniform(alphabet), count)

    def number(self, alphabet: int) -> int:
        """The counterpart of :meth:`RangeEncoder.number`."""
        return int(self.uniform(1, alphabet)[0])

    def categorical(self, count: int, weights: Weights) -> Symbols:
        """The counterpart of :meth:`RangeEncoder.categorical`."""
        if weights.size == 1 or not count:
            return np.zeros(count, dtype=np.int32)
        return self._decode(_model.Categorical(weights, perfect=False), count)

    def categorical_each(self, weights: Weights) -> Symbols:
        """The counterpart of :meth:`RangeEncoder.categorical_each`."""
        if not len(weights):
            return np.zeros(0, dtype=np.int32)
        return self._decode(_model.Categorical(perfect=False), weights)

    def finish(self) -> None:
        """Demand that the code word ends here.

        The encoder ends with the first multiple of ``2**32`` in its last interval, so that the decoder, which looks one
        word further ahead, has then read all words and the one of zeros that was put behind them, and the code word
        lies just above the lower end of the interval (the library looks for less than ``2**33``).
        """
        ended = self._coder.maybe_exhausted() if self._started else self._empty
        if not (ended and self._canonical):
            raise FormatError("the coded data does not end where its last symbol does: it is damaged")

    def _decode(self, model: Any, argument: Any) -> Symbols:
        self._started = True
        try:
            symbols: Symbols = self._coder.decode(model, argument)
        except AssertionError as error:  # the library's report of a word that no encoder writes
            raise FormatError("the coded data is damaged: no symbol has this code") from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # a Rust panic, derived from BaseException
                raise
            raise FormatError(f"the coded data is damaged: {error}") from error
        return symbols
