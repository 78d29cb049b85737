"""A tiny model whose files are attacked, and what a reader may do with any bytes: refuse, or give a whole model."""

import zlib

import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.activations.dynamic import DynamicQuantizer
from featherweight.activations.quantizers import Quantizer, Sign
from featherweight.coding import Reader, Writer, open_sealed, seal
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError
from featherweight.core.scheme import Scheme
from featherweight.core.tap import Call, Operator, Place, TapSite
from featherweight.graph.cut import Cut
from featherweight.graph.fold import Fold
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.lowrank import LowRank, Rank
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.schemes.uniform import PerChannel, PerGroup, Uniform

MAX_BYTES = 1 << 16
CHANNELS = Uniform(4, True, PerChannel(0))


class Victim(nn.Module):
    """Parameters of several ranks, a tied one, buffers of three types, and norms with and without statistics."""

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
        self.layer, self.norm = nn.Conv1d(2, 3, 2, bias=False), nn.BatchNorm1d(3)
        self.bare, self.wide = nn.BatchNorm1d(3, affine=False, track_running_stats=False), nn.BatchNorm1d(5)


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


def tapped() -> Compressed:
    """The same, folded and cut, with functions at places of every form."""
    working = student()
    working.encode(
        {"layer.weight": CHANNELS.project(working.parameter("layer.weight").detach())}, {"layer.weight": CHANNELS}
    )
    working.edit(Fold((("layer", "norm"),)))
    working.edit(Cut({"bias": {0: (0, 1, 4)}}))
    shared, convolved = Quantizer(8, -100, torch.tensor(0.25)), Call("layer", Operator.CONVOLVE)
    working.tap([TapSite(Place(convolved), shared), TapSite(Place(convolved, None), shared)])
    working.tap([TapSite(Place(Call("", Operator.ADD, 3), 1), Quantizer(3, 0, torch.tensor(1e-3)))])
    working.tap([TapSite(Place(Call("norm", Operator.CAT), 2), Sign())])
    working.tap([TapSite(Place(Call("layer", Operator.LINEAR)), DynamicQuantizer())])
    return working


BUILT_IN = file.encode(student(), number=3, claims=file.Claims(100, 97, 98, 2))
USERS = file.encode(student(), task="my task", recipe="mine", claims=file.Claims(100, 97.25, 98.5, 2))
TAPPED = file.encode(tapped(), task="my task", recipe="mine")
TAPPED_BUILT_IN = file.encode(tapped(), number=3, claims=file.Claims(100, 97, 98, 2))


def resealed(data: bytes) -> bytes:
    """The bytes with the checksum that belongs to them."""
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def plain(data: bytes) -> bytes:
    """The file with its header not deflated, which mutations get further into."""
    reader = Reader(open_sealed(data))
    assert reader.unsigned() == file.PACKED
    writer = Writer()
    writer.unsigned(file.PLAIN)
    writer.blob(zlib.decompress(reader.blob()))
    return seal(writer.finish() + open_sealed(data)[-reader.remaining :])


FILES = {
    "built-in": BUILT_IN,
    "user's": USERS,
    "tapped": TAPPED,
    "tapped, built-in": TAPPED_BUILT_IN,
    "plain": plain(USERS),
    "tapped, plain": plain(TAPPED),
    "tapped, plain, built-in": plain(TAPPED_BUILT_IN),
}

EXPECTED = file.slots(Victim())


def whole(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return (tuple(tensor.shape), tensor.dtype) == (tuple(shape), dtype)


def survives(data: bytes) -> bool:
    """Whether a reader takes the bytes, onto the model or without one. Anything but ``FormatError`` gets through."""
    return loads(data) | unpacks(data)


def loads(data: bytes) -> bool:
    try:
        loaded, contents = file.load(data, Victim(), max_bytes=MAX_BYTES)
    except FormatError as error:
        assert str(error)
        return False
    header = contents.header
    assert header.edits or contents.slots == EXPECTED
    assert file.slots(loaded.base) == contents.slots == (header.slots or contents.slots)
    assert list(loaded.sites) == [site.place for site in header.taps]
    assert all(_a_function(site.function) for site in header.taps)
    return True


def _a_function(function: nn.Module) -> bool:
    """Whether it makes finite numbers out of such, in a shape and a type that stay."""
    x = torch.linspace(-4, 4, 9)
    y = function(x)
    return bool(torch.isfinite(y).all()) and whole(y, (9,), torch.float32)


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
