"""Round trips of every model, alphabet, and shape; the bytes that must never change; sizes near the entropy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.coding import Decoder, Encoder, cost, entropy, models
from featherweight.coding.adaptive import (
    COUNT_WEIGHTS,
    HALF_WIDTHS,
    KERNEL,
    SEEDED,
    Prior,
    _bits_of_each,
    block_counts,
    block_lengths,
    choose_prior,
    decode_blocks,
    encode_blocks,
)
from featherweight.coding.geometric import RATIOS, fit, geometric
from featherweight.coding.rangecoder import RangeDecoder, RangeEncoder, bits
from featherweight.coding.stream import VIEWS, Stream

EDGES = [1, 2, 3, 16, 255, 256, 257, 4095, 4096, 4097, 65535, 65536, 65537, 2**24, 2**24 + 1, 2**31, 2**32 - 1, 2**32]


def coded(values, alphabet):
    encoder = Encoder()
    encoder.put(values, alphabet)
    return encoder.finish()


def assert_round_trip(values, alphabet):
    data = coded(values, alphabet)
    decoder = Decoder(data)
    decoded = decoder.take(values.shape, alphabet)
    decoder.finish()
    assert decoded.dtype == np.min_scalar_type(alphabet - 1)
    assert decoded.shape == values.shape
    np.testing.assert_array_equal(decoded, values)
    return data


def laplacian(shape, alphabet, scale, seed=0):
    values = np.random.default_rng(seed).laplace(alphabet // 2, scale, shape)
    return np.clip(np.round(values), 0, alphabet - 1).astype(np.uint16)


def support(rows, columns, seed=0):
    """A support with line and column effects: about 8 % ones."""
    generator = np.random.default_rng(seed)
    log_odds = generator.normal(0, 0.7, (rows, 1)) + generator.normal(0, 1.5, (1, columns)) - 3.5
    return (generator.random((rows, columns)) < 1 / (1 + np.exp(-log_odds))).astype(np.uint8)


def scaled_kernels(seed=0):
    """Four-bit convolution weights whose kernels differ in scale."""
    generator = np.random.default_rng(seed)
    scale = np.exp(generator.normal(0, 1, (32, 32, 1, 1)))
    return (np.clip(np.round(scale * generator.normal(0, 1, (32, 32, 3, 3))), -8, 7) + 8).astype(np.uint8)


@pytest.mark.parametrize("alphabet", EDGES)
@pytest.mark.parametrize("shape", [(0,), (1,), (37,), (), (0, 3), (5, 7), (4, 3, 2, 2), (1, 1, 1)])
def test_round_trip_of_edges(alphabet, shape):
    values = np.random.default_rng(alphabet % 97).integers(0, alphabet, shape, dtype=np.uint64)
    assert_round_trip(np.asarray(values), alphabet)
    assert_round_trip(np.full(shape, alphabet - 1, dtype=np.uint64), alphabet)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
@pytest.mark.parametrize("alphabet", [2, 2**32])
def test_any_integer_type(dtype, alphabet):
    values = np.array([[0, 1, 1], [0, 0, 1]], dtype=dtype)
    assert_round_trip(values, alphabet)
    assert_round_trip(values.T, alphabet)
    assert_round_trip(values[:, ::2], alphabet)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_round_trip_of_any_sequence(data):
    encoder, expected = Encoder(), []
    for _ in range(data.draw(st.integers(0, 4))):
        alphabet = data.draw(st.one_of(st.integers(1, 300), st.sampled_from(EDGES), st.integers(1, 2**32)))
        shape = tuple(data.draw(st.lists(st.integers(0, 12), max_size=4)))
        generator = np.random.default_rng(data.draw(st.integers(0, 99)))
        top = data.draw(st.integers(1, alphabet))
        values = np.asarray(generator.integers(0, top, shape, dtype=np.uint64))
        number = data.draw(st.one_of(st.integers(0, 20), st.integers(0, 2**40)))
        encoder.put(values, alphabet)
        encoder.put_number(number)
        expected.append((values, alphabet, number))
    decoder = Decoder(encoder.finish())
    for values, alphabet, number in expected:
        np.testing.assert_array_equal(decoder.take(values.shape, alphabet), values)
        assert decoder.take_number() == number
    decoder.finish()


def streams_for_models():
    generator = np.random.default_rng(3)
    return {
        0: (generator.integers(0, 250, (900,)), 250),
        1: (np.sort(np.concatenate([np.full(2000, 3), np.full(2000, 90), np.full(1000, 200)])), 256),
        2: (laplacian((60,), 256, 3), 256),
        3: (laplacian((9000,), 24, 3) + 30 * (np.arange(9000) % 2), 64),
        4: (support(200, 300), 2),
        5: (scaled_kernels(), 16),
    }


@pytest.mark.parametrize("number", range(len(models.MODELS)))
@pytest.mark.parametrize("which", range(6))
def test_every_model_codes_every_stream_it_plans_in_the_bits_it_states(number, which):
    values, alphabet = streams_for_models()[which]
    stream = Stream(values.astype(np.uint8).reshape(-1), values.shape, alphabet)
    plan = models.MODELS[number].plan(stream)
    if plan is None:
        assert number in (4, 5)
        return
    encoder = RangeEncoder()
    plan.encode(encoder)
    data = encoder.finish()
    # The last word takes up to 32 bits; rounding in the coder costs about 1.3e-4 bits a symbol.
    assert plan.bits - 9 <= 8 * len(data) <= plan.bits + 64 + 3e-4 * values.size
    decoded = Stream(np.zeros(values.size, dtype=np.uint8), values.shape, alphabet)
    decoder = RangeDecoder(data)
    models.MODELS[number].decode(decoder, decoded)
    decoder.finish()
    np.testing.assert_array_equal(decoded.values, stream.values)


@pytest.mark.parametrize("number", [0, 2, 3, 4, 5])
def test_each_model_is_the_choice_for_its_kind_of_stream(number):
    values, alphabet = streams_for_models()[number]
    assert models.choose(Stream(values.astype(np.uint8).reshape(-1), values.shape, alphabet))[0] == number


@pytest.mark.parametrize("kind", [0, SEEDED, *range(KERNEL, KERNEL + len(HALF_WIDTHS))])
def test_every_prior(kind):
    values = laplacian((3000,), 40, 3).astype(np.uint8)
    for count_weight in range(len(COUNT_WEIGHTS)):
        prior = Prior(count_weight, kind, 20, 10)
        encoder = RangeEncoder()
        prior.encode(encoder, 40)
        encode_blocks(encoder, values, 40, prior)
        decoder, decoded = RangeDecoder(encoder.finish()), np.zeros_like(values)
        assert (
            Prior.decode(decoder, 40).weights(np.zeros(40, np.int64)).tolist()
            == prior.weights(np.zeros(40, np.int64)).tolist()
        )
        decode_blocks(decoder, decoded, 40, prior)
        decoder.finish()
        np.testing.assert_array_equal(decoded, values)


@pytest.mark.parametrize("shape", [(6,), (4, 5), (4, 5, 3), (2, 3, 2, 2), (1, 4), (4, 1), (2, 2, 1, 1)])
def test_views_hold_every_entry_once_and_can_be_written(shape):
    stream = Stream(np.zeros(int(np.prod(shape)), dtype=np.uint8), shape, 256)
    for number in range(VIEWS):
        view = stream.view(number)
        if view is None:
            continue
        view[:] = np.arange(view.size).reshape(view.shape)
        assert sorted(stream.values.tolist()) == list(range(stream.values.size))


def test_blocks_cover_the_stream_and_grow():
    for count in (0, 1, 7, 8, 9, 1000, 1_000_003):
        lengths = list(block_lengths(count))
        assert sum(lengths) == count
        assert lengths[:-1] == sorted(lengths[:-1])


def test_geometric_weights_are_exact_integers():
    for ratio in range(RATIOS):
        weights = geometric(300, 100, ratio)
        assert (weights == np.floor(weights)).all()
        assert weights.min() >= 1
        assert weights.sum() < 2**53
        assert weights.argmax() == 100
    counts = np.bincount(laplacian((50_000,), 256, 9), minlength=256)
    centre, ratio = fit(counts)
    assert bits(counts, geometric(256, centre, ratio)) < 1.01 * entropy(laplacian((50_000,), 256, 9), 256)


def test_numbers():
    numbers = [0, 1, 2, 3, 4, 255, 256, 2**39, 2**40 - 1, 2**40]
    encoder = Encoder()
    for number in numbers:
        encoder.put_number(number)
    decoder = Decoder(encoder.finish())
    assert [decoder.take_number() for _ in numbers] == numbers
    decoder.finish()
    for wrong in (-1, 2**40 + 1):
        with pytest.raises(ValueError, match="not in"):
            Encoder().put_number(wrong)


def test_wrong_arguments():
    for values, alphabet in [(np.array([2]), 2), (np.array([-1]), 2), (np.array([0]), 0), (np.array([0]), 2**32 + 1)]:
        with pytest.raises(ValueError, match="outside|alphabet"):
            Encoder().put(values, alphabet)
    with pytest.raises(TypeError, match="integers"):
        Encoder().put(np.array([0.0]), 2)


GOLDEN = {
    "uniform": "0006a39f36097c9c239fb33c1740653a327a2e1e9bbb1588b4b3ed44",
    "table": ("229000879ee73447a1e515eefd28afb9fd28afb9fd28ae9bfd2a2b920000000000002ed54acd0014555555555555526b"),
    "parametric": "4c80c909d344629b92263b92cc044329",
    "adaptive": (
        "240:6d951c1027b0a186e4bcd99dff01699aaf1e9b2a65236327:965e467a8de390063625c34c6b46b1f5a664122b8a3f629b"
    ),
    "columns": (
        "260:81a3588c89b904d718fda695e40e0bae8d0f18235964e618:b3c77a760569ad9977cb3f9d572898ccfdd9f6852f62dd58"
    ),
    "classes": (
        "1480:bc0056ad20aaeaee3a7128b90f45b5ba1c6f699daf0d3d5b:d9944a802f9405349fa45c6ee7567148da0505a8bb715906"
    ),
    "planes": (
        "46613ffc8337ae1f0ca979b58f98af20b19e516d666a4ae423046ed6ff0af432b1ab771f7a78a80109410c95d74fb36e00fc"
        "e49797c6042eb0e90a5f14eee869b8183afc10236b80"
    ),
    "numbers": "a3003e8ffa80000007fc00000007fc",
}


def golden_data(name):
    """Inputs from integer arithmetic alone: no generator whose stream could change."""
    counter = np.arange(20_000, dtype=np.int64)
    noise = (counter * 2654435761 % 2**32) * (counter + 12345) % 2**32 >> 8  # 24 bits
    small = np.minimum(noise[:480] % 16, noise[480:960] % 16) + np.minimum(noise[960:1440] % 9, 3)
    if name == "numbers":
        encoder = Encoder()
        for number in (0, 1, 5, 1000, 2**40):
            encoder.put_number(number)
        return encoder.finish()
    inputs = {
        "uniform": (noise[:24] % 250, 250),
        "table": (np.repeat([250, 3, 77], [60, 90, 50]), 256),
        "parametric": (100 + noise[:40] % 3 - noise[40:80] % 3, 256),
        "adaptive": (small, 19),
        "columns": ((noise[:3200] % 256 < counter[:3200] % 80 * (counter[:3200] // 80) // 14).reshape(40, 80), 2),
        "classes": ((noise[:4320] % (2 + counter[:4320] // 9 % 4 * 4)).reshape(20, 24, 3, 3), 16),
        "planes": (np.float32(1) / (3 + noise[:20].astype(np.float32)), 2**32),
    }
    values, alphabet = inputs[name]
    return assert_round_trip(values.view(np.uint32) if name == "planes" else values, alphabet)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes(name):
    """A change here is a change of the format or of the encoder's choices: make it on purpose."""
    data = golden_data(name)
    digest = data.hex() if len(data) <= 200 else f"{len(data)}:{data[:24].hex()}:{data[-24:].hex()}"
    assert digest == GOLDEN[name]


@pytest.mark.parametrize(
    "values, alphabet",
    [
        (np.zeros((64, 64), np.uint8), 256),
        (laplacian((40_000,), 256, 12), 256),
        (support(300, 400), 2),
        (scaled_kernels(), 16),
        (laplacian((3000,), 60_000, 900), 60_000),
    ],
)
def test_cost_is_what_put_takes(values, alphabet):
    assert len(coded(values, alphabet)) * 8 == pytest.approx(cost(values, alphabet), abs=64 + 4e-4 * values.size)


def test_entropy():
    assert entropy(np.array([]).astype(int), 5) == 0
    assert entropy(np.array(3), 5) == 0
    assert entropy(np.array([0, 1, 2, 3]), 4) == 8
    assert entropy(np.array([[0, 0], [2**31, 2**31]]), 2**32) == 4


def test_constant_arrays_take_next_to_nothing():
    assert len(coded(np.full((1000, 1000), 7, np.uint8), 256)) <= 12
    assert len(coded(np.zeros(10**6, np.uint8), 2)) <= 12


def test_streams_share_the_coder():
    """A hundred streams of one symbol take their bits, not a hundred times a few bytes."""
    encoder = Encoder()
    for index in range(100):
        encoder.put(np.array([index % 2]), 2)
    assert len(encoder.finish()) <= 100 * 4 / 8 + 8


def total_over_entropy(streams):
    encoder = Encoder()
    for values, alphabet in streams:
        encoder.put(values, alphabet)
    return len(encoder.finish()), sum(entropy(values, alphabet) for values, alphabet in streams) / 8


def lenet(seed):
    """Supports without structure and indices of survivors: the hard case, with nothing to gain over order 0."""
    generator = np.random.default_rng(seed)
    layers = (((20, 1, 5, 5), 0.66, 256), ((50, 20, 5, 5), 0.12, 256), ((500, 800), 0.06, 32), ((10, 500), 0.08, 16))
    for shape, density, codebook in layers:
        yield generator.random(shape) < density, 2
        count = int(np.prod(shape) * density)
        weights = generator.normal(0, 1, count)
        weights = (weights + np.sign(weights)) / 4 * (codebook // 2)
        yield np.clip(np.round(weights), -codebook // 2, codebook // 2 - 1).astype(int) + codebook // 2, codebook


@pytest.mark.parametrize("alphabet", [2, 15, 16, 300])
@pytest.mark.parametrize("size", [0, 5, 3_000])
def test_priors_that_are_weighed_together_cost_what_each_costs_alone(alphabet: int, size: int) -> None:
    """By the weights of the priors themselves, block by block: there and where costs are compared, they are one."""
    generator = np.random.default_rng(size + alphabet)
    values = np.minimum(generator.geometric(0.3, size) - 1, alphabet - 1).astype(np.uint16)
    counts = block_counts(values, alphabet)
    before = np.cumsum(counts, axis=0) - counts
    kinds = [Prior(4, kind, alphabet // 2, 11) for kind in range(7)]
    costs = [float(bits(counts, prior.weights(before)).sum()) for prior in kinds]
    np.testing.assert_allclose(_bits_of_each(counts, kinds), costs, rtol=1e-12)
    cost, prior = choose_prior(counts)
    alone = float(bits(counts, prior.weights(before)).sum()) + prior.description_bits(alphabet)
    assert cost == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_order_0_bound_without_structure(seed):
    total, order0 = total_over_entropy(list(lenet(seed)))
    assert total <= 1.005 * order0 + 64


def test_structure_goes_below_order_0():
    total, order0 = total_over_entropy([(support(500, 800), 2)])
    assert total <= 0.87 * order0
    total, order0 = total_over_entropy([(scaled_kernels(), 16)])
    assert total <= 0.92 * order0


def test_small_smooth_histograms_gain_from_kernels():
    """Symbols of a large alphabet and no simple shape: neighbours inform each other."""
    generator = np.random.default_rng(5)
    weights = generator.normal(0, 1, 1500)
    values = np.clip(np.round((weights + np.sign(weights)) * 30), -128, 127).astype(int) + 128
    counts = np.array([np.bincount(values[:750], minlength=256), np.bincount(values[750:], minlength=256)])
    assert choose_prior(counts)[1].kind >= KERNEL
