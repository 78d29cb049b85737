"""Arrays of integers to bytes and back, all streams of a file by one range coder."""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherweight.coding import models
from featherweight.coding.rangecoder import RangeDecoder, RangeEncoder
from featherweight.coding.stream import Stream
from featherweight.core.errors import FormatError

MAX_ALPHABET = 1 << 32
MAX_MODEL_ALPHABET = 4096
MAX_NUMBER_BITS = 40
_PLANE_BITS = 8
_MAX_COUNTED_ALPHABET = 1 << 16  # up to here a table of counts is cheaper than sorting
_PIECE = 1 << 20


class Encoder:
    """Codes arrays and numbers, in order, into one byte string."""

    def __init__(self) -> None:
        self._coder = RangeEncoder()

    def put(self, values: NDArray[Any], alphabet: int) -> None:
        """Append integers in [0, alphabet); the decoder must be told their shape and the alphabet."""
        for stream in _streams(values, alphabet):
            models.encode(self._coder, stream)

    def put_number(self, value: int) -> None:
        """Append an integer in [0, 2**40] by its Elias gamma code (Elias 1975): 2 floor(log2(value + 1)) + 1 bits."""
        if not 0 <= value <= 1 << MAX_NUMBER_BITS:
            raise ValueError(f"{value} is not in [0, 2**{MAX_NUMBER_BITS}]")
        digits = f"{value + 1:b}"
        code = "0" * (len(digits) - 1) + digits
        self._coder.uniform(np.array([int(bit) for bit in code], dtype=np.int32), 2)

    def finish(self) -> bytes:
        """Everything that was put, as bytes."""
        return self._coder.finish()


class Decoder:
    """Takes off, in order, what an :class:`Encoder` put; anything else is a :class:`FormatError`."""

    def __init__(self, data: bytes) -> None:
        self._coder = RangeDecoder(data)

    def take(self, shape: tuple[int, ...], alphabet: int) -> NDArray[Any]:
        """An array of integers in [0, alphabet), in the smallest of uint8, uint16, and uint32 that holds them."""
        dtype = _dtype(alphabet)
        if alphabet == 1 or not prod(shape):
            return np.zeros(shape, dtype=dtype)
        if alphabet <= MAX_MODEL_ALPHABET:
            return self._stream(shape, alphabet, dtype).reshape(shape)
        values = np.zeros(prod(shape), dtype=dtype)
        for _, size in _planes(alphabet):
            values <<= dtype.type(_PLANE_BITS)
            values |= self._stream(shape, size, np.dtype(np.uint8))
        if int(values.max()) >= alphabet:
            raise FormatError(f"a coded integer is not below {alphabet}: the data is damaged")
        return values.reshape(shape)

    def _stream(self, shape: tuple[int, ...], alphabet: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        values = np.zeros(prod(shape), dtype=dtype)
        if alphabet > 1:
            models.decode(self._coder, Stream(values, shape, alphabet))
        return values

    def take_number(self) -> int:
        """An integer in [0, 2**40]."""
        zeros = 0
        while not self._coder.number(2):
            zeros += 1
            if zeros > MAX_NUMBER_BITS:
                raise FormatError(f"a coded number is over 2**{MAX_NUMBER_BITS}: the data is damaged")
        value = 1
        for bit in self._coder.uniform(zeros, 2):
            value = value << 1 | int(bit)
        if value - 1 > 1 << MAX_NUMBER_BITS:
            raise FormatError(f"a coded number is over 2**{MAX_NUMBER_BITS}: the data is damaged")
        return value - 1

    def finish(self) -> None:
        """Demand that the data ends here."""
        self._coder.finish()


def cost(values: ArrayLike, alphabet: int) -> float:
    """The bits that :meth:`Encoder.put` takes, model choice and description included, without encoding."""
    return sum((models.cost(stream) for stream in _streams(np.asarray(values), alphabet)), 0.0)


def entropy(values: ArrayLike, alphabet: int) -> float:
    """The order-0 empirical entropy in bits, of all symbols together: -sum of n[k] log2(n[k] / n)."""
    array = np.asarray(values)
    _check(array, alphabet)
    flat = array.reshape(-1)
    if alphabet <= _MAX_COUNTED_ALPHABET:
        pieces = (flat[start : start + _PIECE].astype(np.int64) for start in range(0, flat.size, _PIECE))
        counts = sum((np.bincount(piece, minlength=alphabet) for piece in pieces), np.zeros(alphabet, dtype=np.int64))
    else:
        counts = np.unique(flat, return_counts=True)[1]
    counts = counts[counts > 0]
    return float((counts * (np.log2(counts.sum()) - np.log2(counts))).sum()) if counts.size else 0.0


def _streams(values: NDArray[Any], alphabet: int) -> Iterator[Stream]:
    """The streams that carry ``values``: one, or one a byte plane, most significant first; none if nothing is open."""
    values = np.asarray(values)
    _check(values, alphabet)
    if alphabet == 1 or not values.size:
        return
    flat = np.ascontiguousarray(values).reshape(-1)
    flat = flat.view(np.uint8) if flat.dtype == np.bool_ else flat
    if alphabet <= MAX_MODEL_ALPHABET:
        yield Stream(flat.astype(_dtype(alphabet), copy=False), values.shape, alphabet)
        return
    for shift, size in _planes(alphabet):
        plane = np.empty(flat.size, dtype=np.uint8)
        np.right_shift(flat, flat.dtype.type(shift), out=plane, casting="unsafe")  # keeps the low eight bits
        if size > 1:
            yield Stream(plane, values.shape, size)


def _planes(alphabet: int) -> list[tuple[int, int]]:
    """Shift and alphabet of each byte plane, most significant first."""
    shifts = range(0, (alphabet - 1).bit_length(), _PLANE_BITS)
    return [(shift, min(((alphabet - 1) >> shift) + 1, 1 << _PLANE_BITS)) for shift in reversed(shifts)]


def _dtype(alphabet: int) -> np.dtype[Any]:
    if not 1 <= alphabet <= MAX_ALPHABET:
        raise ValueError(f"an alphabet has 1 to 2**32 symbols, not {alphabet}")
    return np.dtype(np.min_scalar_type(alphabet - 1))


def _check(values: NDArray[Any], alphabet: int) -> None:
    _dtype(alphabet)
    if values.dtype.kind not in "iub":
        raise TypeError(f"symbols are integers, not {values.dtype}")
    if values.size and (int(values.min()) < 0 or int(values.max()) >= alphabet):
        raise ValueError(f"symbols reach from {values.min()} to {values.max()}, outside [0, {alphabet})")
