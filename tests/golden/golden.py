"""A fixed student for every kind of code, edit and function, and what its file must be for ever.

Weights are made by integer arithmetic, so that they are the same on every machine and with every version of torch.
"""

import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.activations.dynamic import DynamicQuantizer
from featherweight.activations.learned import HalfWave
from featherweight.activations.logarithmic import LogQuantizer
from featherweight.activations.quantizers import Quantizer, Sign
from featherweight.activations.runtime import RuntimeGate
from featherweight.coding import Reader, open_sealed
from featherweight.core.compressed import Compressed
from featherweight.core.metric import EUCLIDEAN
from featherweight.core.scheme import Scheme
from featherweight.core.tap import Call, Operator, Place, TapSite
from featherweight.core.task import Example
from featherweight.graph.attributes import SetSizes
from featherweight.graph.biases import Unbias
from featherweight.graph.cut import Cut
from featherweight.graph.depth import Skip
from featherweight.graph.fold import Fold
from featherweight.graph.groups import Group, Wiring
from featherweight.graph.recurrent import Step
from featherweight.graph.rewrite import CutGraph, described
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.fixed_point import FixedPoint
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.joint import Joint
from featherweight.schemes.logarithmic import Base, Logarithmic, ShiftSum
from featherweight.schemes.lowrank import LowRank, LowRankCode, Rank
from featherweight.schemes.mixture import MixtureCode
from featherweight.schemes.plus import Plus
from featherweight.schemes.product import ProductCode
from featherweight.schemes.sparse import Fraction, NToM, PermutedNToM, Sparse
from featherweight.schemes.split import Split
from featherweight.schemes.structures import Blocks, Filters
from featherweight.schemes.tables import Table, Tabled
from featherweight.schemes.ternary import TrainedTernary
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


class GoldenNorm(nn.Module):
    """A norm that can be folded, and a join."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        x = torch.cat([x, torch.relu(x)], 2)
        logits: Tensor = self.head(x.mean(2))
        return logits


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


def mixture() -> Compressed:
    """Numbers and components given: exponentials differ in the last digits between machines."""
    student = Compressed(model())
    single = Float(Width.FLOAT32)
    assigned = ((numbers(6, 8) * 64).long() % 4).to(torch.int32)
    parts = [single.project(numbers(count, step=step)) for count, step in ((3, 7), (4, 9), (3, 11))]
    code = MixtureCode((6, 8), torch.float32, assigned, *parts, 990_000)
    student.encode({"layer.weight": code}, {"layer.weight": Float()})
    return student


def product(books: Tensor, dimension: int) -> Compressed:
    """Codebooks given: k-means differs in the last digits between machines. The last sub-space is shorter."""
    student = Compressed(model())
    shape = (6, 3) if dimension == 1 else (2, 8)
    owners = (numbers(*shape).mul(64).long() % books.shape[1]).to(torch.int32)
    code = ProductCode((6, 8), torch.float32, owners, Float(Width.FLOAT16).project(books), dimension)
    student.encode({"layer.weight": code}, {"layer.weight": Float()})
    return student


def shared() -> Compressed:
    """One codebook for a matrix and its bias, which stands in the matrix's code though both could hold it."""
    student, scheme = Compressed(model()), Joint(Codebook(4))
    weights = {name: student.parameter(name).detach() for name in ("layer.weight", "layer.bias")}
    student.encode(scheme.project_all(weights, dict.fromkeys(weights, EUCLIDEAN)), dict.fromkeys(weights, scheme))
    return student


def cut() -> Compressed:
    student = Compressed(model())
    student.edit(Cut({"layer.bias": {0: (0, 2, 5)}}))
    return student


def norm_model() -> GoldenNorm:
    made = GoldenNorm()
    with torch.no_grad():
        for number, tensor in enumerate((*made.parameters(), made.norm.running_mean)):
            tensor.copy_(numbers(*tensor.shape, step=2 * number + 3))
        made.norm.running_var.copy_(numbers(4, step=7).abs() + 1)
    return made


def cut_with_sizes() -> Compressed:
    """Channels, and a number among a module's attributes, as code with numbers of its own has them."""
    student = Compressed(norm_model())
    kept = {f"norm.{name}": {0: (0, 2, 3)} for name in ("weight", "bias", "running_mean", "running_var")}
    student.edit(Cut({"conv.weight": {0: (0, 2, 3)}, "head.weight": {1: (0, 2, 3)}, **kept}))
    student.edit(SetSizes({"head": {"in_features": 3}}))
    return student


def cut_graph() -> Compressed:
    """The same channels, of a model that is replaced by its graph."""
    student = Compressed(norm_model())
    (kept,) = (edit.kept for edit in cut_with_sizes().edits if isinstance(edit, Cut))
    student.edit(CutGraph(kept, described(Example((torch.zeros(2, 2, 5),)))))
    return student


def grouped() -> Compressed:
    """A convolution whose groups share an input, and a linear layer whose outputs are in another order."""
    student = Compressed(nn.Sequential(norm_model(), nn.Linear(8, 6)))
    parted = Wiring(((0, 3, 6), (1, 2, 7), (4, 5, 6)), (5, 0, 3, 1, 2, 4))
    student.edit(Group({"0.conv": Wiring(((0,), (0,)))}))
    with torch.no_grad():
        student.base[1].weight.copy_(numbers(6, 8))
        student.base[1].bias.copy_(numbers(6, step=5))
    student.edit(Group({"1": parted}))
    return student


def skipped() -> Compressed:
    student = Compressed(nn.Sequential(model(), model()))
    student.edit(Skip(("1",)))
    return student


def unbiased() -> Compressed:
    student = Compressed(model())
    student.edit(Unbias(("layer",)))
    return student


def recurrent_model() -> nn.LSTM:
    made = nn.LSTM(3, 2, 2)
    with torch.no_grad():
        for number, tensor in enumerate(made.parameters()):
            tensor.copy_(numbers(*tensor.shape, step=2 * number + 3))
    return made


def stepped() -> Compressed:
    student = Compressed(recurrent_model())
    student.edit(Step({"": {"hidden_l0": (3, -4, 0.25), "gates_l1": (2, 0, 0.1)}}))
    return student


def tapped() -> Compressed:
    """A folded norm, a code that followed, and functions of every class at places of every form."""
    made = norm_model()
    student = Compressed(made)
    scheme = Uniform(4, True, PerChannel(0))
    student.encode({"conv.weight": scheme.project(student.parameter("conv.weight").detach())}, {"conv.weight": scheme})
    student.edit(Fold((("conv", "norm"),)))
    shared = Quantizer(8, -100, torch.tensor(3 / 64))
    cat = Call("", Operator.CAT)
    student.tap(
        [
            TapSite(Place(Call("conv", Operator.CONVOLVE)), Sign()),
            *(TapSite(place, shared) for place in (Place(cat, 0), Place(cat, 1), Place(cat, None))),
            TapSite(Place(Call("head", Operator.LINEAR)), Quantizer(3, 0, torch.tensor(0.1))),
            TapSite(Place(Call("head", Operator.LINEAR), None), HalfWave(2, 0.5)),
            TapSite(Place(Call("", Operator.RELU, 2), None), Quantizer(1, -1, torch.tensor(2.0**-140))),
        ]
    )
    return student


def log_tapped() -> Compressed:
    student = Compressed(model())
    layer = Place(Call("layer", Operator.LINEAR))
    student.tap(
        [
            TapSite(layer, LogQuantizer(7, Base.ROOT, -3, signed=True)),
            TapSite(Place(layer.call, None), LogQuantizer(15, Base.TWO, 2)),
        ]
    )
    return student


def dynamic_tapped() -> Compressed:
    student = Compressed(model())
    student.tap([TapSite(Place(Call("layer", Operator.LINEAR)), DynamicQuantizer())])
    return student


def runtime_tapped() -> Compressed:
    student = Compressed(norm_model())
    agent = RuntimeGate(numbers(3, 2), numbers(3, step=5) / 3)
    student.tap([TapSite(Place(Call("conv", Operator.CONVOLVE)), agent)])
    return student


def users(student: Compressed) -> bytes:
    return file.encode(student, claims=file.Claims(10, 9.5, 9.25, 1), task="golden.py:task", recipe="golden")


def built_in(student: Compressed) -> bytes:
    return file.encode(student, number=9, claims=file.Claims(10, 9, 8, 1))


FILES: dict[str, Callable[[], bytes]] = {
    "state": lambda: users(Compressed(model())),
    "cut": lambda: users(cut()),
    "cut-with-sizes": lambda: users(cut_with_sizes()),
    "cut-graph": lambda: users(cut_graph()),
    "grouped": lambda: users(grouped()),
    "skipped": lambda: users(skipped()),
    "unbiased": lambda: users(unbiased()),
    "stepped": lambda: users(stepped()),
    "folded-and-tapped": lambda: users(tapped()),
    "folded-and-tapped-built-in": lambda: built_in(tapped()),
    "log-tapped": lambda: users(log_tapped()),
    "dynamic-tapped": lambda: users(dynamic_tapped()),
    "runtime-tapped": lambda: users(runtime_tapped()),
    "floats": lambda: built_in(coded(Float(Width.BFLOAT16))),
    "sparse": lambda: built_in(coded(Sparse(Fraction(0.5)))),
    "sparse-codebook": lambda: built_in(coded(Sparse(Fraction(0.5)).then(Codebook(4)))),
    "blocks": lambda: built_in(coded(GroupSparse(Fraction(0.5), structure=Blocks(2, 3)))),
    "filters-codebook": lambda: built_in(coded(GroupSparse(Fraction(0.5), structure=Filters()).then(Codebook(4)))),
    "runs": lambda: built_in(coded(Sparse(NToM(2, 3)))),
    "runs-permuted": lambda: built_in(coded(Sparse(PermutedNToM(1, 3)).then(Uniform(4)))),
    "uniform": lambda: built_in(coded(Uniform(4))),
    "uniform-affine-channel": lambda: built_in(coded(Uniform(3, False, PerChannel(1)))),
    "uniform-group": lambda: built_in(coded(Uniform(2, True, PerGroup(4)))),
    "uniform-sign": lambda: built_in(coded(Uniform(1))),
    "codebook": lambda: built_in(coded(Codebook(8))),
    "low-rank": lambda: built_in(low_rank()),
    "uniform-odd": lambda: built_in(coded(Uniform(2, odd=True))),
    "split": lambda: built_in(coded(Split(Float(Width.FLOAT16), Uniform(2), 0.25))),
    "fixed-point": lambda: built_in(coded(FixedPoint(3, 6))),
    "fixed-point-wide": lambda: built_in(coded(FixedPoint(3, 13))),
    "logarithmic": lambda: built_in(coded(Logarithmic(3, search=True))),
    "logarithmic-root-channel": lambda: built_in(coded(Logarithmic(4, Base.ROOT, False, granularity=PerChannel(1)))),
    "shifts": lambda: built_in(coded(ShiftSum(2, 3))),
    "ternary": lambda: built_in(coded(TrainedTernary(0.25))),
    "ternary-group": lambda: built_in(coded(TrainedTernary(0.25, PerGroup(4)))),
    "dynamic-tree": lambda: built_in(coded(Tabled(Table.DYNAMIC_TREE))),
    "minifloat-channel": lambda: built_in(coded(Tabled(Table.MINIFLOAT, PerChannel(0)))),
    "mixture": lambda: built_in(mixture()),
    "shared-codebook": lambda: built_in(shared()),
    "product": lambda: built_in(product(numbers(3, 4, 3), 1)),
    "product-shared-outputs": lambda: built_in(product(numbers(1, 5, 4), 0)),
    "sum": lambda: built_in(coded(Plus(Uniform(1), Uniform(2)))),
}


PLAIN = ("state-plain", "cut-plain")
"""Files with headers that are not deflated, which nothing writes any more: users have some."""


def architecture(name: str) -> nn.Module:
    if name == "skipped":
        return nn.Sequential(Golden(), Golden())
    if name == "grouped":
        return nn.Sequential(GoldenNorm(), nn.Linear(8, 6))
    if name == "stepped":
        return nn.LSTM(3, 2, 2)
    return GoldenNorm() if name.startswith(("folded", "cut-with", "cut-graph", "runtime")) else Golden()


def bytes_of(name: str) -> bytes:
    return (FOLDER / f"{name}.fwt").read_bytes()


def inflated(data: bytes) -> tuple[bytes, bytes]:
    """A file's header as text, and the rest: two versions of zlib may deflate the same text to different bytes."""
    reader = Reader(open_sealed(data))
    if reader.unsigned() != file.PACKED:
        return b"", data
    header = reader.blob()
    return zlib.decompress(header), open_sealed(data)[-reader.remaining :]


def decoded(name: str) -> str:
    """SHA-256 of all that a file decodes to: names, types, shapes and bits."""
    digest = sha256()
    for tensor_name, code in file.decode(bytes_of(name), architecture(name)).codes.items():
        tensor = code.decode().contiguous()
        digest.update(f"{tensor_name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
