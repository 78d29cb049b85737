"""Looking at codes through what every code has: streams, layouts and fields."""

from collections.abc import Iterator

import torch
from torch import Tensor

from featherweight.core.code import Code, Stream
from featherweight.core.errors import FormatError
from featherweight.core.metric import Metric
from featherweight.schemes.floats import Floats

SYMBOLS = 4096
"""Streams of larger alphabets hold the patterns of real numbers."""


def symbols(code: Code) -> dict[str, Tensor]:
    return {stream.name: stream.values for stream in code.streams() if stream.alphabet <= SYMBOLS}


def stored_numbers(code: Code) -> int:
    """How many numbers a code stores: a code that stores no more is in the same set, or a smaller one."""
    return sum(stream.values.numel() for stream in code.streams())


def leaves(code: Code) -> Iterator[Code]:
    parts = code.parts()
    if not parts:
        yield code
    for part in parts.values():
        yield from leaves(part)


def rounding(code: Code) -> float:
    """The largest relative rounding of the numbers that a code stores, and of what it decodes to."""
    widths = [leaf.width.dtype for leaf in leaves(code) if isinstance(leaf, Floats)]
    return max(torch.finfo(dtype).eps for dtype in (*widths, code.dtype))


def slack(code: Code, metric: Metric) -> float:
    """What rounding to the stored widths may add to the root of a distance."""
    decoded = code.decode().detach()
    return rounding(code) * float(metric.distance(decoded, torch.zeros_like(decoded)).sqrt())


def reread(code: Code, streams: list[Stream]) -> Code:
    """The code that a reader makes of these streams."""
    queue = iter(streams)

    def take(name: str, shape: tuple[int, ...], alphabet: int) -> Tensor:
        stream = next(queue)
        assert (stream.name, stream.alphabet) == (name, alphabet)
        if stream.values.shape != torch.Size(shape):
            raise LookupError(f"{name} has another shape now")
        return stream.values

    layout = code.layout()
    read = layout.kind.from_streams(layout, code.shape, code.dtype, take)
    assert next(queue, None) is None
    return read


def changed(code: Code, generator: torch.Generator, count: int) -> Iterator[Code]:
    """Codes of the same layout with one symbol changed."""
    streams = list(code.streams())
    places = [(s, i) for s, stream in enumerate(streams) if 1 < stream.alphabet <= SYMBOLS
              for i in range(stream.values.numel())]  # fmt: skip
    for pick in torch.randperm(len(places), generator=generator)[:count].tolist():
        number, position = places[pick]
        stream = streams[number]
        values = stream.values.clone().contiguous()
        flat = values.flatten()
        step = int(torch.randint(1, stream.alphabet, (), generator=generator))
        flat[position] = (int(flat[position]) + step) % stream.alphabet
        try:
            altered = Stream(stream.name, flat.reshape(values.shape), stream.alphabet)
            yield reread(code, [*streams[:number], altered, *streams[number + 1 :]])
        except (LookupError, FormatError):
            continue  # another support holds another number of survivors, or none


def swapped(code: Code, generator: torch.Generator, count: int) -> Iterator[Code]:
    """Codes of the same layout with two symbols of a stream exchanged: supports of the same size among them."""
    streams = list(code.streams())
    for number, stream in enumerate(streams):
        if stream.alphabet > SYMBOLS or stream.values.numel() < 2:
            continue
        for _ in range(count):
            flat = stream.values.clone().contiguous().flatten()
            i, j = torch.randperm(len(flat), generator=generator)[:2].tolist()
            flat[i], flat[j] = flat[j].item(), flat[i].item()
            altered = Stream(stream.name, flat.reshape(stream.values.shape), stream.alphabet)
            try:
                yield reread(code, [*streams[:number], altered, *streams[number + 1 :]])
            except LookupError:
                continue  # boxes at the edge hold fewer entries


def nudged(code: Code, generator: torch.Generator, count: int) -> Iterator[Code]:
    """Codes with the same symbols whose real numbers were moved by up to a tenth, and rounded to what a file holds."""
    for _ in range(count):
        yield code.map(
            lambda t: (
                t * (1 + 0.1 * torch.randn(t.shape, generator=generator, dtype=torch.float64)).to(t.dtype)
                if t.is_floating_point()
                else t
            )
        ).stored()
