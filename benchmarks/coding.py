"""The entropy coder against general-purpose compressors: bytes and speed on symbol streams.

Run ``python benchmarks/coding.py [--json] [--large] [--rounds N]``. Every codec codes the same streams, in turn, in
each round; speeds are medians over the rounds. "over H" is the size against the sum of the order-0 entropies of the
streams. The row "static, free" is the range coder's own ceiling: one categorical distribution with the exact
frequencies, which the decoder is given for nothing. With the folder of ``FEATHERWEIGHT_DATA`` holding
``weights/resnet20-12fca82f.th``, the 4-bit set is that network, else a synthetic stand-in that says so in its name.

``--large`` (Linux) adds 100 million symbols, ours only, each direction in a process of its own, with its peak resident
memory over what was resident before.
"""

import argparse
import json
import lzma
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import constriction
import numpy as np
import zstandard

from featherweight.coding import Decoder, Encoder, entropy

Stream = tuple[np.ndarray, int]
Coded = list[Any]
BLOCK = 1 << 16


class Codec(NamedTuple):
    """Streams to parts and back; the size of the parts in bytes."""

    name: str
    encode: Callable[[list[Stream]], Coded]
    decode: Callable[[Coded, list[Stream]], list[np.ndarray]]
    size: Callable[[Coded], int]


def encode_ours(streams: list[Stream]) -> Coded:
    encoder = Encoder()
    for values, alphabet in streams:
        encoder.put(values, alphabet)
    return [encoder.finish()]


def decode_ours(coded: Coded, streams: list[Stream]) -> list[np.ndarray]:
    decoder = Decoder(coded[0])
    decoded = [decoder.take(values.shape, alphabet) for values, alphabet in streams]
    decoder.finish()
    return decoded


def bytewise(name: str, compress: Callable[[bytes], bytes], decompress: Callable[[bytes], bytes]) -> Codec:
    """A compressor of bytes, on each stream's uint8 symbols."""

    def encode(streams: list[Stream]) -> Coded:
        return [compress(values.tobytes()) for values, _ in streams]

    def decode(coded: Coded, streams: list[Stream]) -> list[np.ndarray]:
        pairs = zip(coded, streams, strict=True)
        return [np.frombuffer(decompress(part), dtype=np.uint8).reshape(values.shape) for part, (values, _) in pairs]

    return Codec(name, encode, decode, lambda coded: sum(map(len, coded)))


def encode_static(streams: list[Stream]) -> Coded:
    coder = constriction.stream.queue.RangeEncoder()
    tables = []
    for values, alphabet in streams:
        flat = values.reshape(-1)
        tables.append(np.bincount(flat, minlength=alphabet).astype(np.float64))
        model = constriction.stream.model.Categorical(tables[-1], perfect=False)
        for start in range(0, flat.size, BLOCK):
            coder.encode(flat[start : start + BLOCK].astype(np.int32), model)
    return [coder.get_compressed(), tables]


def decode_static(coded: Coded, streams: list[Stream]) -> list[np.ndarray]:
    coder = constriction.stream.queue.RangeDecoder(coded[0])
    decoded = []
    for (values, _), table in zip(streams, coded[1], strict=True):
        model = constriction.stream.model.Categorical(table, perfect=False)
        flat = np.empty(values.size, dtype=np.uint8)
        for start in range(0, flat.size, BLOCK):
            flat[start : start + BLOCK] = coder.decode(model, min(BLOCK, flat.size - start))
        decoded.append(flat.reshape(values.shape))
    return decoded


CODECS = (
    Codec("featherweight", encode_ours, decode_ours, lambda coded: len(coded[0])),
    bytewise("zstd -19", zstandard.ZstdCompressor(19).compress, zstandard.ZstdDecompressor().decompress),
    bytewise("xz -6", lambda data: lzma.compress(data, preset=6), lzma.decompress),
    Codec("static, free", encode_static, decode_static, lambda coded: coded[0].nbytes),
)


def laplacian(count: int, seed: int = 0) -> Stream:
    """Eight-bit symbols of a Laplacian of scale 12."""
    values = np.empty(count, dtype=np.uint8)
    generator = np.random.default_rng(seed)
    for start in range(0, count, 1 << 20):
        piece = generator.laplace(128, 12, min(1 << 20, count - start))
        values[start : start + piece.size] = np.clip(np.round(piece), 0, 255)
    return values, 256


def support(generator: np.random.Generator, shape: tuple[int, ...], density: float, spread: float) -> np.ndarray:
    """Ones with log-odds of a line effect (half the spread) plus a column effect (the spread), at a mean density."""
    rows, columns = shape[0], int(np.prod(shape[1:]))
    log_odds = generator.normal(0, spread / 2, (rows, 1)) + generator.normal(0, spread, (1, columns))
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        mean = float((1 / (1 + np.exp(-log_odds - middle))).mean())
        low, high = (low, middle) if mean > density else (middle, high)
    return (generator.random((rows, columns)) < 1 / (1 + np.exp(-log_odds - low))).astype(np.uint8).reshape(shape)


def lenet(spread: float, seed: int = 0) -> list[Stream]:
    """The shape of a pruned LeNet-5: four supports, and the codebook indices of the weights that survive."""
    generator = np.random.default_rng(seed)
    layers = (((20, 1, 5, 5), 0.66, 256), ((50, 20, 5, 5), 0.12, 256), ((500, 800), 0.06, 32), ((10, 500), 0.08, 16))
    streams: list[Stream] = []
    for shape, density, codebook in layers:
        mask = support(generator, shape, density, spread)
        weights = generator.normal(0, 1, int(mask.sum()))
        weights += 0.8 * np.sign(weights)
        half = codebook // 2
        indices = np.clip(np.round(weights / 4 * (half - 1)), -half, half - 1) + half
        streams += [(mask, 2), (indices.astype(np.uint8), codebook)]
    return streams


def resnet() -> tuple[str, list[Stream]]:
    """Twenty weight tensors at 4 bits, rounded to nearest with one scale a tensor."""
    path = Path(os.environ.get("FEATHERWEIGHT_DATA", "")) / "weights" / "resnet20-12fca82f.th"
    if "FEATHERWEIGHT_DATA" in os.environ and path.exists():
        import torch  # only here, so that the benchmark runs without it

        state = torch.load(path, map_location="cpu", weights_only=True)
        tensors = [tensor.numpy() for tensor in state.get("state_dict", state).values() if tensor.dim() > 1]
        return "ResNet-20 4-bit", [four_bits(tensor) for tensor in tensors]
    generator = np.random.default_rng(1)
    shapes = [(16, 3), *[(16, 16)] * 6, (32, 16), *[(32, 32)] * 5, (64, 32), *[(64, 64)] * 5]
    stand_in = []
    for outputs, inputs in shapes:
        scale = np.exp(generator.normal(0, 0.3, (outputs, 1, 1, 1)) + generator.normal(0, 0.3, (outputs, inputs, 1, 1)))
        stand_in.append(four_bits(scale * generator.normal(0, 1, (outputs, inputs, 3, 3))))
    return "ResNet-20-like 4-bit (synthetic)", [*stand_in, four_bits(generator.normal(0, 1, (10, 64)))]


def four_bits(weights: np.ndarray) -> Stream:
    step = np.abs(weights).max() / 7
    return (np.clip(np.round(weights / step), -8, 7) + 8).astype(np.uint8), 16


def measure(name: str, streams: list[Stream], codecs: Iterable[Codec], rounds: int) -> list[dict[str, Any]]:
    """Rows of the table: every codec in turn, round by round."""
    symbols = sum(values.size for values, _ in streams)
    order0 = sum(entropy(values, alphabet) for values, alphabet in streams) / 8
    times: dict[str, list[tuple[float, float]]] = {codec.name: [] for codec in codecs}
    sizes = {}
    for _ in range(rounds):
        for codec in codecs:
            start = time.perf_counter()
            coded = codec.encode(streams)
            middle = time.perf_counter()
            decoded = codec.decode(coded, streams)
            times[codec.name].append((middle - start, time.perf_counter() - middle))
            sizes[codec.name] = codec.size(coded)
            if not all(np.array_equal(got, values) for got, (values, _) in zip(decoded, streams, strict=True)):
                raise SystemExit(f"{codec.name} does not give back {name}")
    return [
        {
            "stream": name,
            "codec": codec,
            "symbols": symbols,
            "bytes": sizes[codec],
            "over_entropy_percent": 100 * (sizes[codec] / order0 - 1),
            "encode_million_per_second": symbols / 1e6 / statistics.median(pair[0] for pair in pairs),
            "decode_million_per_second": symbols / 1e6 / statistics.median(pair[1] for pair in pairs),
        }
        for codec, pairs in times.items()
    ]


def memory(field: str) -> int:
    """A field of this process's memory in bytes: VmRSS, resident now; VmHWM, the most that was ever resident."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def large_encode(count: int, queue: Any) -> None:
    values, alphabet = laplacian(count)
    before, start = memory("VmRSS"), time.perf_counter()
    data = encode_ours([(values, alphabet)])[0]
    queue.put((data, time.perf_counter() - start, memory("VmHWM") - before, entropy(values, alphabet) / 8))


def large_decode(count: int, data: bytes, queue: Any) -> None:
    before, start = memory("VmRSS"), time.perf_counter()
    decoder = Decoder(data)
    values = decoder.take((count,), 256)
    decoder.finish()
    elapsed, extra = time.perf_counter() - start, memory("VmHWM") - before
    queue.put((elapsed, extra, np.array_equal(values, laplacian(count)[0])))


def in_process(function: Callable[..., None], *arguments: Any) -> Any:
    """What ``function`` puts in its queue, run in a fresh process: a process's peak memory never falls."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=function, args=(*arguments, queue))
    process.start()
    result = queue.get()
    process.join()
    return result


def measure_large(count: int) -> dict[str, Any]:
    data, encode_time, encode_memory, order0 = in_process(large_encode, count)
    decode_time, decode_memory, same = in_process(large_decode, count, data)
    if not same:
        raise SystemExit("the large stream does not come back")
    return {
        "stream": "Laplacian, large",
        "codec": "featherweight",
        "symbols": count,
        "bytes": len(data),
        "over_entropy_percent": 100 * (len(data) / order0 - 1),
        "encode_million_per_second": count / 1e6 / encode_time,
        "decode_million_per_second": count / 1e6 / decode_time,
        "encode_extra_mebibytes": encode_memory / 2**20,
        "decode_extra_mebibytes": decode_memory / 2**20,
    }


def show(rows: list[dict[str, Any]]) -> None:
    header = f"{'stream':34}{'codec':15}{'symbols':>12}{'bytes':>12}{'over H':>10}{'enc M/s':>10}{'dec M/s':>10}"
    print(header)
    for row in rows:
        print(
            f"{row['stream']:34}{row['codec']:15}{row['symbols']:12,}{row['bytes']:12,}"
            f"{row['over_entropy_percent']:9.2f}%{row['encode_million_per_second']:10.2f}"
            f"{row['decode_million_per_second']:10.2f}"
        )
        if "encode_extra_mebibytes" in row:
            peak = f"{row['encode_extra_mebibytes']:.0f} MiB to encode, {row['decode_extra_mebibytes']:.0f} to decode"
            print(f"{'':34}peak memory over what was there before: {peak}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--large", action="store_true", help="add 100 million symbols, with peak memory")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    sets = [
        ("LeNet-5-like, independent", lenet(0.0)),
        ("LeNet-5-like, lines and columns", lenet(1.0)),
        resnet(),
        ("Laplacian, 10 million", [laplacian(10_000_000)]),
    ]
    rows = [row for name, streams in sets for row in measure(name, streams, CODECS, arguments.rounds)]
    if arguments.large:
        rows.append(measure_large(100_000_000))
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)


if __name__ == "__main__":
    main()
