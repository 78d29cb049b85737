"""Law 3: what is loaded is what was saved, to the last bit, and takes little more than its entropy."""

import copy
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.activations.dynamic import DynamicQuantizer
from featherweight.activations.logarithmic import LogQuantizer
from featherweight.activations.quantizers import Quantizer, Sign
from featherweight.coding import entropy
from featherweight.core.code import Code
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError
from featherweight.core.metric import EUCLIDEAN
from featherweight.core.stage import Learn
from featherweight.core.tap import Call, Function, Operator, Place, TapSite
from featherweight.graph.fold import Fold
from featherweight.schemes.floats import INTEGERS
from featherweight.schemes.logarithmic import Base
from featherweight.schemes.uniform import PerChannel, Uniform

from .codes import SYMBOLS
from .table import CASES, TABLE, WEIGHTS, Entry


class Holder(nn.Module):
    """Any tensors as parameters (frozen, since they may be integers) and buffers."""

    def __init__(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        for name, tensor in parameters.items():
            self.register_parameter(f"the {name}", nn.Parameter(tensor.clone(), requires_grad=False))
        for name, tensor in (buffers or {}).items():
            self.register_buffer(f"the buffer {name}", tensor.clone())


def bits(tensor: Tensor) -> Tensor:
    """The tensor's bit patterns: tells -0.0 from 0.0, and compares NaN."""
    return tensor.detach().contiguous().view(INTEGERS[tensor.dtype]) if tensor.is_floating_point() else tensor


def same(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype) and torch.equal(bits(a), bits(b))


def student_of(model: nn.Module, entry: Entry) -> Compressed:
    student = Compressed(model)
    codes = {name: entry.scheme.project(p.detach()) for name, p in model.named_parameters()}
    student.encode(codes, dict.fromkeys(codes, entry.scheme))
    return student


KINDS_OF_WEIGHTS = (
    "normal",
    "heavy-tailed",
    "all zeros",
    "one row",
    "rank 0",
    "rank 5",
    "transposed",
    "float64",
    "bfloat16",
)


@pytest.mark.parametrize("name", TABLE)
def test_loaded_is_saved(name: str) -> None:
    weights = {weight: WEIGHTS[weight] for case, weight in CASES if case == name and weight in KINDS_OF_WEIGHTS}
    model = Holder(weights)
    student = student_of(model, TABLE[name])
    data = file.encode(student)
    loaded, contents = file.load(data, Holder({k: torch.zeros_like(v) for k, v in weights.items()}))
    assert contents.size == len(data)
    for weight, code in student.codes.items():
        assert loaded.codes[weight].layout() == code.layout()
        assert same(loaded.codes[weight].decode(), code.decode()), weight
        assert same(loaded.base.get_parameter(weight), code.decode()), weight
    assert file.encode(loaded) == data
    assert all(same(code.decode(), student.codes[k].decode()) for k, code in file.decode(data, None).codes.items())


STATE = {
    "special values": torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45, 3e38]),
    "float16 special values": torch.tensor([0.0, -0.0, float("inf"), float("nan"), 6e-8, 65504.0]).half(),
    "float64 digits": torch.tensor([1 / 3, -1e-300, 2**-1074], dtype=torch.float64),
    "bfloat16": torch.randn(3, 3).bfloat16(),
    "none": torch.zeros(0, 3),
    "flags": torch.tensor([[True, False], [False, False]]),
    "bytes": torch.arange(256, dtype=torch.uint8),
    "signed bytes": torch.arange(-128, 128, dtype=torch.int8),
    "short": torch.tensor([-(2**15), -1, 0, 2**15 - 1], dtype=torch.int16),
    "int": torch.tensor([-(2**31), -1, 0, 2**31 - 1], dtype=torch.int32),
    "long": torch.tensor([-(2**63), -1, 0, 2**63 - 1, 2**32]),
    "count": torch.tensor(7),
    "number": torch.tensor(0.1),
}


def test_the_rest_of_the_state_is_kept_exactly() -> None:
    """Parameters and buffers without a code, of every type that a file holds, with every special value."""
    parameters = {k: v for k, v in STATE.items() if v.is_floating_point()}
    model = Holder(parameters, STATE)
    empty = copy.deepcopy(model)
    for tensor in empty.state_dict().values():
        tensor.zero_()
    loaded, _ = file.load(file.encode(Compressed(model)), empty)
    assert loaded.base.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert same(loaded.base.state_dict()[name], value), name


def test_buffers_and_modules_that_are_shared() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.BatchNorm1d(3)
            self.second = self.first

    model = Shared()
    model.first.running_mean += 2
    loaded, _ = file.load(file.encode(Compressed(model)), Shared())
    assert loaded.base.second is loaded.base.first
    assert torch.equal(loaded.base.second.running_mean, torch.full((3,), 2.0))


LARGE = [name for name, entry in TABLE.items() if entry.scheme.project(WEIGHTS["heavy-tailed"]).bits <= 8]


@pytest.mark.parametrize("name", LARGE)
def test_files_lie_near_the_entropy(name: str) -> None:
    """Within 0.5 % and 64 bytes of the symbols' order-0 entropy; real numbers count at their stored width."""
    w = torch.randn(256, 480, generator=torch.Generator().manual_seed(1))
    code = TABLE[name].scheme.project_all({"w": w}, {"w": EUCLIDEAN})["w"]
    student = Compressed(Holder({"w": w}))
    student.encode({"the w": code}, {"the w": TABLE[name].scheme})
    data = file.encode(student)
    overhead = file.decode(data, None).overhead
    assert 8 * (len(data) - overhead - 64) <= 1.005 * order_zero(code)


def order_zero(code: Code) -> float:
    return sum(
        entropy(stream.values.numpy(), stream.alphabet)
        if stream.alphabet <= SYMBOLS
        else stream.values.numel() * (stream.alphabet - 1).bit_length()
        for stream in code.streams()
    )


class Normed(nn.Module):
    """A layer, its norm, and a join."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.conv(x))
        maps = maps + torch.sigmoid(maps)
        logits: Tensor = self.head(maps.relu().mean(2))
        return logits


STEPS = torch.randn(5, 2, 6, generator=torch.Generator().manual_seed(2))
FUNCTIONS: dict[str, Callable[[], Function]] = {
    **{
        f"{bits} bits": lambda bits=bits: Quantizer(bits, -(2 ** (bits - 1)), torch.tensor(0.1)) for bits in range(1, 9)
    },
    "unsigned": lambda: Quantizer(8, 0, torch.tensor(1 / 3)),
    "below zero": lambda: Quantizer(4, -15, torch.tensor(0.7)),
    "learned": lambda: Quantizer(4, -8, torch.tensor(0.3), learned=True),
    "a subnormal scale": lambda: Quantizer(8, -128, torch.tensor(1e-45)),
    "a huge scale": lambda: Quantizer(8, -128, torch.tensor(3.4e38)),
    "sign": Sign,
    "dynamic": DynamicQuantizer,
    "powers of two": lambda: LogQuantizer(7, Base.TWO, 1, signed=True),
    "powers of a root": lambda: LogQuantizer(15, Base.ROOT, -2),
}
NORMED_PLACES = [
    Place(Call("conv", Operator.CONVOLVE), 0),
    Place(Call("", Operator.ADD), 1),
    Place(Call("", Operator.ADD), None),
    Place(Call("head", Operator.LINEAR), 0),
]


def normed(function: Callable[[], Function] | None = None, shared: bool = False, fold: bool = False) -> Compressed:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Normed().eval()
        model.norm.running_mean.normal_()
        model.norm.weight.data.normal_()
    student = Compressed(model)
    scheme = Uniform(4, True, PerChannel(0))
    student.encode({"conv.weight": scheme.project(student.parameter("conv.weight").detach())}, {"conv.weight": scheme})
    if fold:
        student.edit(Fold((("conv", "norm"),)))
    if function is not None:
        one = function()
        student.tap([TapSite(place, one if shared else function()) for place in NORMED_PLACES])
    return student


SETTINGS = [*product((None, 3), (False, True), (False, True))]
OPPOSITE = [(name, *SETTINGS[k]) for i, name in enumerate(FUNCTIONS) for k in (i % 8, 7 - i % 8)]
"""Every function with each setting both ways."""


@pytest.mark.parametrize("name, number, shared, fold", OPPOSITE)
def test_taps_and_folds_are_loaded_as_they_were(name: str, number: int | None, shared: bool, fold: bool) -> None:
    student = normed(FUNCTIONS[name], shared, fold)
    data = file.encode(student, number=number)
    assert data == file.encode(normed(FUNCTIONS[name], shared, fold), number=number)
    loaded, contents = file.load(data, Normed())
    assert contents.size == len(data) and contents.header.number == number
    assert bool(contents.header.slots) is (number is None)
    assert file.encode(loaded, number=number) == data
    assert list(loaded.sites) == list(student.sites) == NORMED_PLACES
    assert len(set(loaded.sites.values())) == len(set(student.sites.values())) == (1 if shared else 4)
    for ours, theirs in zip(student.sites.values(), loaded.sites.values(), strict=True):
        assert type(ours) is type(theirs) and ours.to_json() == theirs.to_json()
        assert all(same(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert loaded.edits == student.edits and bool(loaded.edits) is fold
    assert all(same(loaded.base.state_dict()[k], v) for k, v in student.base.state_dict().items())
    with torch.no_grad():
        assert same(loaded(STEPS), student(STEPS))


def test_taps_and_folds_take_few_bytes() -> None:
    """A place takes less than its name, and a built-in task's file no names of tensors."""
    bare, tapped = (file.encode(normed(f, fold=True)) for f in (None, FUNCTIONS["sign"]))
    assert len(tapped) - len(bare) < sum(len(str(place)) for place in NORMED_PLACES)
    assert len(file.encode(normed(fold=True), number=3)) < len(bare)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), torch.tensor(0.1, dtype=torch.float64)])
def test_what_would_not_come_back_is_not_saved(scale: float | Tensor) -> None:
    """A scale that became something else while it learned, or that float32 would round."""
    student = normed(lambda: Quantizer(4, -8, torch.as_tensor(scale)))
    with pytest.raises(FormatError, match="conv: convolve, operand 1: .*(no quantizer|make its numbers float32)"):
        file.encode(student)


def test_a_model_in_float64_is_saved_with_its_quantizers() -> None:
    student = normed(FUNCTIONS["learned"], fold=True).double()
    loaded, _ = file.load(file.encode(student), Normed().double())
    with torch.no_grad():
        assert same(loaded(STEPS.double()), student(STEPS.double()))


def test_a_model_that_learns_is_not_saved() -> None:
    student = student_of(Holder({"w": WEIGHTS["normal"]}), TABLE["codebook"])
    student.learn({"the w": Learn.DIRECT})
    with pytest.raises(FormatError, match="settle"):
        file.encode(student)


@pytest.mark.parametrize("name", TABLE)
def test_tensors_that_were_projected_together_are_loaded_together(name: str) -> None:
    """What they share is written once, and shared again: numbers that learn as one go on as one."""
    weights = {weight: WEIGHTS[weight] for weight in ("normal", "constant", "heavy-tailed")}
    student, scheme = Compressed(Holder(weights)), TABLE[name].scheme
    sources = {name: student.source(name) for name in student.names}
    codes = scheme.project_all(sources, dict.fromkeys(sources, EUCLIDEAN))
    student.encode(codes, dict.fromkeys(codes, scheme))
    data = file.encode(student)
    loaded, _ = file.load(data, Holder({name: torch.zeros_like(w) for name, w in weights.items()}))
    assert file.encode(loaded) == data
    tensors = [id(tensor) for code in codes.values() for tensor in code.tensors().values()]
    again = [id(tensor) for code in loaded.codes.values() for tensor in code.tensors().values()]
    assert len(set(again)) == len(set(tensors)) and len(again) == len(tensors)
    for each in student.names:
        assert same(loaded.parameter(each), student.parameter(each))
