"""A fixed student for every kind of code, and what its file must be for ever.

Weights are made by integer arithmetic, so that they are the same on every machine and with every version of torch.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.scheme import Scheme
from featherweight.graph.cut import Cut
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.lowrank import LowRank, LowRankCode, Rank
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.schemes.uniform import PerChannel, PerGroup, Uniform

FOLDER = Path(__file__).parent / "files"


def numbers(*shape: int, step: int = 37) -> Tensor:
    """Multiples of 1/64 from -2 to 2, in an order without a pattern."""
    count = torch.Size(shape).numel()
    return (((torch.arange(count) * step + 11) ** 2 % 257) - 128).reshape(shape).float() / 64


class Golden(nn.Module):
    """A tied matrix, a vector, and integer, boolean and float64 state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 6)
        self.other = nn.Linear(8, 6, bias=False)
        self.other.weight = self.layer.weight
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("flags", torch.zeros(3, dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))


def model() -> Golden:
    made = Golden()
    with torch.no_grad():
        made.layer.weight.copy_(numbers(6, 8))
        made.layer.bias.copy_(numbers(6, step=5))
        made.count.fill_(-3)
        made.flags[1] = True
        made.mean.copy_(numbers(2, step=9).double() / 3)
    return made


def coded(scheme: Scheme) -> Compressed:
    student = Compressed(model())
    student.encode(
        {"layer.weight": scheme.project(student.parameter("layer.weight").detach())}, {"layer.weight": scheme}
    )
    return student


def low_rank() -> Compressed:
    """Factors given and not decomposed: a decomposition differs in the last digits between machines."""
    student = Compressed(model())
    half = Float(Width.FLOAT16)
    code = LowRankCode((6, 8), torch.float32, half.project(numbers(6, 2)), half.project(numbers(2, 8)))
    student.encode({"layer.weight": code}, {"layer.weight": LowRank(Rank(2), half)})
    return student


def cut() -> Compressed:
    student = Compressed(model())
    student.edit(Cut({"layer.bias": {0: (0, 2, 5)}}))
    return student


def users(student: Compressed) -> bytes:
    return file.encode(student, claims=file.Claims(10, 9.5, 9.25, 1), task="golden.py:task", recipe="golden")


def built_in(student: Compressed) -> bytes:
    return file.encode(student, number=9, claims=file.Claims(10, 9, 8, 1))


FILES: dict[str, Callable[[], bytes]] = {
    "state": lambda: users(Compressed(model())),
    "cut": lambda: users(cut()),
    "floats": lambda: built_in(coded(Float(Width.BFLOAT16))),
    "sparse": lambda: built_in(coded(Sparse(Fraction(0.5)))),
    "sparse-codebook": lambda: built_in(coded(Sparse(Fraction(0.5)).then(Codebook(4)))),
    "uniform": lambda: built_in(coded(Uniform(4))),
    "uniform-affine-channel": lambda: built_in(coded(Uniform(3, False, PerChannel(1)))),
    "uniform-group": lambda: built_in(coded(Uniform(2, True, PerGroup(4)))),
    "uniform-sign": lambda: built_in(coded(Uniform(1))),
    "codebook": lambda: built_in(coded(Codebook(8))),
    "low-rank": lambda: built_in(low_rank()),
}


def decoded(data: bytes) -> str:
    """SHA-256 of all that a file decodes to: names, types, shapes and bits."""
    digest = sha256()
    for name, code in file.decode(data, Golden()).codes.items():
        tensor = code.decode().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
