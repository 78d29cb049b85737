"""Damaged and hostile data: an error of ours or symbols of the right kind; nothing else, and soon."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.coding import Decoder, Encoder, models, rangecoder
from featherweight.core.errors import FormatError

REQUESTS = [((40, 30), 2), ((8, 6, 3, 3), 16), ((500,), 256), ((60,), 4096), ((50,), 70_000), ((20,), 2**32), ((), 5)]


def take_all(data):
    """Symbols for all requests, or FormatError."""
    decoder = Decoder(data)
    for shape, alphabet in REQUESTS:
        values = decoder.take(shape, alphabet)
        assert values.shape == shape
        assert values.dtype == np.min_scalar_type(alphabet - 1)
        assert int(values.max()) < alphabet
        decoder.take_number()
    decoder.finish()


def valid():
    generator = np.random.default_rng(0)
    encoder = Encoder()
    for shape, alphabet in REQUESTS:
        encoder.put(np.minimum(generator.geometric(0.2, shape) - 1, alphabet - 1), alphabet)
        encoder.put_number(3)
    return encoder.finish()


VALID = valid()


def attempt(data):
    try:
        take_all(data)
    except FormatError:
        return False
    return True


def test_the_valid_data_is_valid():
    take_all(VALID)


def test_truncations():
    """What is left may be the code word of other symbols (no bytes: of all zeros), but seldom is."""
    assert sum(attempt(VALID[:length]) for length in range(0, len(VALID), 3)) <= 1


def test_bit_flips():
    accepted = 0
    for position in range(0, 8 * len(VALID), 23):
        damaged = bytearray(VALID)
        damaged[position // 8] ^= 1 << position % 8
        accepted += attempt(bytes(damaged))
    assert accepted <= 1


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes(data):
    attempt(data)


@pytest.mark.parametrize("number", range(models.CHOICES))
@pytest.mark.parametrize("fill", ["zeros", "ones", "random"])
def test_each_model_on_garbage(number, fill):
    generator = np.random.default_rng(number)
    for _ in range(5):
        tail = {"zeros": bytes(200), "ones": b"\xff" * 200, "random": generator.bytes(200)}[fill]
        # The first symbol of a stream is the model: an eighth of the code space each, from the top bits down.
        data = bytes([number << 5 | tail[0] >> 3]) + tail[1:]
        for shape, alphabet in REQUESTS:
            try:
                values = Decoder(data).take(shape, alphabet)
            except FormatError:
                continue
            assert values.shape == shape
            assert int(values.max(initial=0)) < alphabet


def test_left_over_bytes():
    for extra in (b"\0", b"\1", b"\xff" * 3, b"\1\2\3\4", bytes(8), b"\1" * 20):
        assert not attempt(VALID + extra)
    for data in (b"\0", b"\1", b"\1" * 9):
        with pytest.raises(FormatError, match="end"):
            Decoder(data).finish()
    Decoder(b"").finish()


def test_stopping_early_is_an_error():
    decoder = Decoder(VALID)
    decoder.take(*REQUESTS[0])
    with pytest.raises(FormatError, match="end"):
        decoder.finish()


def test_endings_survive_the_stripping_of_zeros():
    """Many short code words, with all kinds of last interval; none ends in a zero byte."""
    generator = np.random.default_rng(1)
    for trial in range(600):
        alphabet = int(generator.choice([2, 3, 16, 255, 4096, 70_000]))
        values = generator.integers(0, alphabet if trial % 4 else 1, int(generator.integers(1, 20)))
        encoder = Encoder()
        encoder.put(values, alphabet)
        encoder.put_number(trial % 3)
        data = encoder.finish()
        assert not data.endswith(b"\0")
        decoder = Decoder(data)
        np.testing.assert_array_equal(decoder.take(values.shape, alphabet), values)
        assert decoder.take_number() == trial % 3
        decoder.finish()


def test_a_number_without_an_end():
    with pytest.raises(FormatError, match="2\\*\\*40"):
        Decoder(b"").take_number()


def test_a_large_request_on_a_short_stream_ends_soon():
    start = time.perf_counter()
    for data in (b"", b"\x60", b"\x90\x10", b"\xb0\x77\x11", b"\x20\x01\x02"):
        try:
            Decoder(data).take((1000, 1000), 2)
        except FormatError:
            continue
    assert time.perf_counter() - start < 5


def test_errors_of_the_library(monkeypatch):
    class PanicException(BaseException):
        """As pyo3 names it."""

    class Broken:
        def __init__(self, error):
            self.error = error

        def decode(self, *_):
            raise self.error

    for error, expected in [
        (AssertionError(), FormatError),
        (PanicException("overflow"), FormatError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
    ]:
        decoder = rangecoder.RangeDecoder(b"\1")
        monkeypatch.setattr(decoder, "_coder", Broken(error))
        with pytest.raises(expected):
            decoder.number(2)
