"""A tiny model whose files are attacked, and what a reader may do with any bytes: refuse, or give a whole model."""

import zlib

import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError
from featherweight.core.scheme import Scheme
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.lowrank import LowRank, Rank
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.schemes.uniform import PerChannel, PerGroup, Uniform

MAX_BYTES = 1 << 16


class Victim(nn.Module):
    """Parameters of several ranks, a tied one, buffers of three types."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.zeros(6, 4))
        self.conv = nn.Parameter(torch.zeros(3, 2, 2, 2))
        self.up = nn.Parameter(torch.zeros(4, 6))
        self.bias = nn.Parameter(torch.zeros(5))
        self.scale = nn.Parameter(torch.zeros(()))
        self.head = self.embed
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("mask", torch.zeros(4, dtype=torch.bool))


SCHEMES: dict[str, Scheme] = {
    "embed": Sparse(Fraction(0.5)).then(Codebook(4)),
    "conv": Uniform(3, False, PerChannel(1)),
    "up": LowRank(Rank(2)).then(Uniform(4, True, PerGroup(2))),
    "bias": Float(Width.FLOAT16),
}


def student() -> Compressed:
    generator = torch.Generator().manual_seed(0)
    model = Victim()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        model.mask[1] = True
    working = Compressed(model)
    for name, scheme in SCHEMES.items():
        working.encode({name: scheme.project(working.parameter(name).detach())}, {name: scheme})
    return working


BUILT_IN = file.encode(student(), number=3, claims=file.Claims(100, 97, 98, 2))
USERS = file.encode(student(), task="my task", recipe="mine", claims=file.Claims(100, 97.25, 98.5, 2))
FILES = {"built-in": BUILT_IN, "user's": USERS}

EXPECTED = {name: (tensor.shape, tensor.dtype) for name, tensor in Victim().state_dict().items()}


def resealed(data: bytes) -> bytes:
    """The bytes with the checksum that belongs to them."""
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def whole(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return (tuple(tensor.shape), tensor.dtype) == (tuple(shape), dtype)


def survives(data: bytes) -> bool:
    """Whether a reader takes the bytes, onto the model or without one. Anything but ``FormatError`` gets through."""
    return loads(data) | unpacks(data)


def loads(data: bytes) -> bool:
    try:
        loaded, _ = file.load(data, Victim(), max_bytes=MAX_BYTES)
    except FormatError as error:
        assert str(error)
        return False
    state = loaded.base.state_dict()
    assert state.keys() == EXPECTED.keys()
    assert all(whole(state[name], *expected) for name, expected in EXPECTED.items())
    return True


def unpacks(data: bytes) -> bool:
    try:
        contents = file.decode(data, None, max_bytes=MAX_BYTES)
    except FormatError as error:
        assert str(error)
        return False
    assert [slot.name for slot in contents.slots] == list(contents.codes)
    for slot in contents.slots:
        assert whole(contents.codes[slot.name].decode(), slot.shape, slot.dtype)
    return True
