"""Law 3: what is loaded is what was saved, to the last bit, and takes little more than its entropy."""

import copy

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.coding import entropy
from featherweight.core.code import Code
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError
from featherweight.core.metric import EUCLIDEAN
from featherweight.core.stage import Learn
from featherweight.schemes.floats import INTEGERS

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


def test_a_model_that_learns_is_not_saved() -> None:
    student = student_of(Holder({"w": WEIGHTS["normal"]}), TABLE["codebook"])
    student.learn({"the w": Learn.DIRECT})
    with pytest.raises(FormatError, match="settle"):
        file.encode(student)
