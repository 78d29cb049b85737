"""C for microcontrollers against the program of integers that it stands for: bit for bit, or refused."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight import file
from featherweight.activations.quantizers import Quantizer
from featherweight.architectures.resnet_cifar import ResNetCifar
from featherweight.core.compressed import Compressed
from featherweight.core.errors import EngineError
from featherweight.core.task import Example, Task
from featherweight.engines import c, find
from featherweight.engines.arena import ALIGNMENT, Lifetime, share
from featherweight.engines.c_source import Source, c_source
from featherweight.engines.engine import Settings
from featherweight.engines.export import export
from featherweight.graph.lower import integer_program
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.schemes.uniform import PerChannel, Uniform
from featherweight.tasks import find as find_task

from ..graph.quantized import Apply, Between, calibrated, coded
from ..graph.test_integer import ONE, RANGES, TWO, conv, images

STRICT = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O1", "-fPIC", "-shared")
SANITIZED = "-fsanitize=undefined"
ENGINE = find("c")


def sanitizes(folder: Path) -> bool:
    """Whether the compiler has the sanitizer of undefined behaviour."""
    (folder / "empty.c").write_text("int empty;\n")
    command = [*c.compiler(), *STRICT, SANITIZED, "-o", str(folder / "empty.so"), str(folder / "empty.c")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def flags(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    try:
        c.compiler()
    except EngineError as error:
        pytest.skip(str(error))
    return (*STRICT, SANITIZED) if sanitizes(tmp_path_factory.mktemp("c")) else STRICT


@pytest.fixture
def strict(flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Warnings are errors, and so is what the sanitizer says."""
    monkeypatch.setattr(c, "FLAGS", flags)
    yield
    assert "runtime error" not in capfd.readouterr().err


def assert_exact(student: Compressed, folder: Path, *x: Tensor) -> Source:
    """The outputs of the compiled file are the program's, bit for bit."""
    example = Example(tuple(each[:1] for each in x))
    program = integer_program(student, example)
    assert export(student, example, folder / "m.c").file.any_batch
    (found,) = ENGINE.open(folder / "m.c", Settings()).run([each.numpy() for each in x])
    expected = program(*x).numpy()
    assert found.dtype == expected.dtype and np.array_equal(found, expected)
    assert len(np.unique(expected)) > 4  # or there was nothing to compare
    return c_source(program, example)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", ONE)
def test_an_operation_is_the_programs(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert_exact(coded(Between(ONE[name], images())), tmp_path, images())


class Joined(nn.Module):
    """An operation on two inputs, each quantized in its own way."""

    def __init__(self, operation: nn.Module, ranges: tuple[tuple[float, float], ...]) -> None:
        super().__init__()
        self.operation, self.behind = operation, Quantizer.covering(-2.5, 3.1, 8)
        self.before = nn.ModuleList([Quantizer.covering(*each, 8) for each in ranges])

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        operands = (quantizer(x) for quantizer, x in zip(self.before, (first, second), strict=True))
        y: Tensor = self.behind(self.operation(*operands))
        return y


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    ("name", "ranges"), [*((name, RANGES[0]) for name in TWO), ("add", RANGES[1]), ("add", RANGES[2])]
)
def test_a_join_is_the_programs(name: str, ranges: tuple[tuple[float, float], ...], tmp_path: Path) -> None:
    assert_exact(coded(Joined(TWO[name], ranges)), tmp_path, images(), images().flip(0))


class Tail(nn.Module):
    """An operation on quantized input whose result is not quantized again."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.before, self.operation = Quantizer.covering(-3, 4, 8), operation

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.operation(self.before(x))
        return y


class Ahead(Tail):
    """The same, quantized behind an operation that moves entries of the input."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.before(self.operation(x))
        return y


ODD: dict[str, nn.Module] = {
    "sums of 32 bits": Tail(conv(6, 8, 3)),
    "the largest of sums": Tail(nn.Sequential(conv(6, 8, 3), nn.MaxPool2d(3, 2, ceil_mode=True))),
    "clamped sums": Tail(nn.Sequential(conv(6, 8, 3), nn.ReLU6())),
    "an average": Tail(nn.AvgPool2d(2)),
    "a sum of operands": Tail(Apply(lambda x: x[:, :3] + x[:, 3:])),
    "an operand that is repeated": Tail(Apply(lambda x: x + x[:, :1, :, :1])),
    "the input itself": Tail(nn.Identity()),
    "a part of the input": Tail(Apply(lambda x: x[:, 2:4, ::3, 1:-1])),
    "a selected map": Tail(Apply(lambda x: x[:, 3])),
    "permuted twice and flattened": Tail(Apply(lambda x: x.permute(0, 2, 3, 1)[:, 1:].transpose(1, 2).flatten(1))),
    "padded after a permutation": Tail(Apply(lambda x: F.pad(x.permute(0, 3, 1, 2), (1, -2, 0, 3)))),
    "concatenated parts": Tail(Apply(lambda x: torch.cat([x[:, 4:], x[:, ::2]], 1))),
    "rows through a linear layer": Tail(nn.Sequential(nn.Linear(10, 5), nn.ReLU())),
    "groups, strides and dilations": Tail(conv(6, 4, (3, 2), groups=2, stride=(2, 1), dilation=(1, 3), padding=(2, 1))),
    "flattened before it is quantized": Ahead(nn.Flatten()),
    "the largest before it is quantized": Ahead(nn.MaxPool2d(3, padding=1, dilation=2)),
    "permuted before it is quantized": Ahead(Apply(lambda x: x.permute(0, 2, 1, 3).flatten(1))),
}  # fmt: skip


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", ODD)
def test_what_else_a_program_may_hold(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert_exact(coded(ODD[name]), tmp_path, images())


@pytest.mark.usefixtures("strict")
def test_one_dimension(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 4, 20)
    for padding in (0, 2, "same", "valid"):
        layer = nn.Conv1d(4, 6, 3, padding=padding, dilation=2, groups=2)
        assert_exact(coded(Between(layer, x)), tmp_path, x)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_weights_are_packed(bits: int, tmp_path: Path) -> None:
    """In as few bytes as two, four or eight bits for each take, where a row ends inside a byte too."""
    torch.manual_seed(0)
    model = nn.Sequential(Between(conv(6, 5, 3), images()), nn.Flatten(), nn.Linear(320, 7, bias=False))
    source = assert_exact(coded(model, Uniform(bits, granularity=PerChannel())), tmp_path, images())
    width = next(each for each in (2, 4, 8) if bits <= each)
    assert source.weights == sum(-(-count * width // 8) for count in (6 * 5 * 9, 320 * 7))
    assert source.channels == 12 * (5 + 7)


@pytest.mark.usefixtures("strict")
def test_sparse_weights_and_layers_that_share_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = conv(6, 6, 3, padding=1)
    model = Between(nn.Sequential(layer, Quantizer.covering(-2, 2, 8), layer), images())
    student, scheme, name = Compressed(model.eval()), Sparse(Fraction(0.7), values=Uniform(8)), "operation.0.weight"
    student.encode({name: scheme.project(layer.weight)}, {name: scheme})
    assert assert_exact(student, tmp_path, images()).weights == 6 * 6 * 9


@pytest.mark.usefixtures("strict")
def test_a_small_residual_network(tmp_path: Path) -> None:
    """ResNet-8 with a quarter of the channels, on a thousand inputs."""
    torch.manual_seed(0)
    model, x = ResNetCifar(8, (4, 8, 16)).eval(), torch.randn(1000, 3, 16, 16)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    example, data = Example((x[:1],)), [x[:64], x[64:128]]
    task = Task("resnet-8", lambda: model, lambda: model, lambda: example, calibration=lambda: data)
    source = assert_exact(calibrated(model, task), tmp_path, x)
    assert source.arena == 3 * 4 * 16 * 16  # a block's input, what is inside, and its result, in 8 bits
    assert f"memory: {source.arena} bytes" in source.text and "malloc" not in source.text


@pytest.mark.usefixtures("strict")
def test_the_digits_network(digits_model: nn.Module, tmp_path: Path) -> None:
    task = find_task("digits")
    assert_exact(calibrated(digits_model, task), tmp_path, task.evaluation().inputs[:50])


@pytest.mark.usefixtures("strict")
def test_resnet20_of_the_evidence(tmp_path: Path) -> None:
    task = find_task("cifar10-resnet20")
    data = (Path(__file__).parents[2] / "evidence" / "resnet20-w8a8.fwt").read_bytes()
    student, _ = file.load(data, task.architecture())
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    source = assert_exact(student.eval(), tmp_path, x)
    assert source.arena == 3 * 16 * 32 * 32


def small() -> Compressed:
    """Weights without a random number in them: the same source everywhere."""
    layer = nn.Linear(3, 2)
    layer.weight.data = torch.tensor([[0.5, -1.0, 0.25], [1.0, 0.125, -0.75]])
    layer.bias.data = torch.tensor([0.5, -0.25])
    return coded(nn.Sequential(Quantizer.covering(-1, 1, 8), layer, nn.ReLU(), Quantizer.covering(0, 2, 8)))


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    """Those of ``network.c``; ``python -m tests.engines.test_c`` writes it anew where it has to change."""
    for name in ("a.c", "b.c"):
        export(small(), Example((torch.zeros(1, 3),)), tmp_path / name)
    written = (tmp_path / "a.c").read_bytes()
    assert written == (tmp_path / "b.c").read_bytes() == (Path(__file__).parent / "network.c").read_bytes()


class Names(nn.Module):
    """What a name could do harm with: keywords, our own names, other letters, and C."""

    EVIL = '*/ int evil(void) { return 1; } /* "\\\n#include <stdlib>'

    def __init__(self) -> None:
        super().__init__()
        for k, name in enumerate((self.EVIL, "add", "größe")):
            layers = Quantizer.covering(-2 - k, 3, 8), nn.Linear(4, 4), Quantizer.covering(-1, 1, 8)
            self.add_module(name, nn.Sequential(*layers))

    def forward(self, int: Tensor, output: Tensor, größe: Tensor) -> Tensor:
        return torch.cat([module(x) for module, x in zip(self.children(), (int, output, größe), strict=True)], 1)


@pytest.mark.usefixtures("strict")
def test_names_are_names_in_c(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = assert_exact(coded(Names()), tmp_path, *torch.randn(3, 8, 4).unbind())
    source.text.encode("ascii")
    assert "evil(" not in source.text and "<stdlib" not in source.text
    assert "q_int" in source.text and "q_output" in source.text and "q_gr_e" in source.text


def test_inputs_of_one_name_are_refused(tmp_path: Path) -> None:
    class Alike(Names):
        def forward(self, x: Tensor, x_: Tensor, y: Tensor) -> Tensor:
            return super().forward(x, x_, y)

    with pytest.raises(EngineError, match="have one name in C; rename them"):
        export(coded(Alike()), Example((torch.zeros(1, 4),) * 3), tmp_path / "m.c")
    assert list(tmp_path.iterdir()) == []


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "three dimensions": (
        lambda: Tail(nn.Conv3d(2, 3, 2)), (1, 2, 4, 4, 4),
        r"aten.conv3d.default in operation cannot be written as C: .*use two, or export it for ONNX Runtime",
    ),
    "an average over dimensions that are no neighbours": (
        lambda: Tail(Apply(lambda x: x.mean((1, 3)))), (1, 6, 10, 10),
        r"sum.* in operation cannot be written as C: .*\[1, 3\].*permute before it",
    ),
    "an order of many dimensions": (
        lambda: Tail(Apply(lambda x: x.reshape(-1, 2, 3, 2, 3, 2).permute(0, 5, 4, 3, 2, 1).flatten(1))), (1, 72),
        r"aten\..* in operation .* order of 5 dimensions",
    ),
    "an operator without integers": (
        lambda: Tail(nn.Sigmoid()), (1, 4), r"aten.sigmoid.default in operation cannot run on integers.*\.onnx",
    ),
    "an input in two ways": (
        lambda: Between(TWO["add"], images(), RANGES[0]), (1, 6, 10, 10),
        r"Quantize in before.1 cannot be written as C: the input is quantized in several ways; quantize it once",
    ),
    "an input that nothing reads": (
        lambda: Unread(), (1, 4), "nothing quantizes the input second",
    ),
    "samples that are mixed": (
        lambda: Tail(Apply(lambda x: x.reshape(2, -1, 4).permute(1, 0, 2).flatten(1))), (2, 4), "one sample at a time",
    ),
}  # fmt: skip


class Unread(Tail):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 4))

    def forward(self, x: Tensor, second: Tensor | None = None) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_c_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    build, shape, message = REFUSED[name]
    example = Example((torch.ones(shape),) * (2 if name.endswith("nothing reads") else 1))
    with pytest.raises(EngineError, match=message):
        export(coded(build()), example, tmp_path / "m.c")
    assert list(tmp_path.iterdir()) == []


def test_float_models_are_refused(tmp_path: Path) -> None:
    example, path = Example((torch.zeros(1, 3),)), tmp_path / "m.c"
    with pytest.raises(EngineError, match="this is a float model; quantize weights and activations"):
        ENGINE.export(nn.Linear(3, 2), example, path)
    with pytest.raises(EngineError, match=r"aten.linear.default in the model cannot run on integers.*is int8"):
        export(Compressed(nn.Linear(3, 2)), example, path)
    double = coded(nn.Sequential(Quantizer.covering(-1, 1, 8), nn.Linear(3, 2)).double())
    with pytest.raises(EngineError, match=r"float32 alone.*\.float\(\)"):
        export(double, Example((torch.zeros(1, 3).double(),)), path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "no header", "not whole", "huge", "not text"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "m.c"
    export(small(), Example((torch.zeros(1, 3),)), path)
    text = path.read_text()
    changed = {
        "empty": "",
        "cut": text[: len(text) // 2],
        "no header": text.partition("*/")[2],
        "not whole": text.replace("network_run", "other"),
        "huge": text.replace("input input: 3 of", "input input: 3000x4000000 of"),
        "not text": "\xff" * 100,
    }
    path.unlink() if damage == "absent" else path.write_text(changed[damage], "latin-1")
    with pytest.raises(EngineError, match="C cannot open .*export it anew"):
        ENGINE.open(path, Settings())


@pytest.mark.usefixtures("flags")
def test_other_inputs_are_refused(tmp_path: Path) -> None:
    export(small(), Example((torch.zeros(1, 3),)), tmp_path / "m.c")
    runner = ENGINE.open(tmp_path / "m.c", Settings())
    for wrong in ([], [np.zeros((2, 4), np.float32)], [np.zeros((2, 3))], [np.zeros((2, 3), np.float32)] * 2):
        with pytest.raises(EngineError, match=r"could not run the model: it takes float32 \[.*, 3\]"):
            runner.run(wrong)
    assert runner.run([np.zeros((0, 3), np.float32)])[0].shape == (0, 2)
    with pytest.raises(EngineError, match="one thread"):
        ENGINE.open(tmp_path / "m.c", Settings(threads=2))


@pytest.mark.usefixtures("flags")
def test_where_there_is_no_compiler_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(small(), Example((torch.zeros(1, 3),)), tmp_path / "m.c")
    monkeypatch.setenv("CC", "no-such-compiler --fast")
    for use in (ENGINE.version, lambda: ENGINE.open(tmp_path / "m.c", Settings())):
        with pytest.raises(EngineError, match=r"no C compiler 'no-such-compiler'.*\$CC"):
            use()


def test_rounding_of_inputs_is_the_quantizers(flags: tuple[str, ...], tmp_path: Path) -> None:
    """At ties, beside them, and beyond all levels."""
    scale = 0.37
    steps = torch.arange(-300, 300) / 2 * torch.tensor(scale)
    beside = [torch.nextafter(steps, torch.tensor(way)) for way in (-torch.inf, torch.inf)]
    x = torch.cat([steps, *beside, torch.tensor([1e30, -1e30, torch.inf, -torch.inf, 0.0, -0.0])])[:, None]
    student = coded(Quantizer(8, -100, torch.tensor(scale)))
    assert_exact(student, tmp_path, x)


def fullest(buffers: list[Lifetime]) -> int:
    """Bytes that are needed at one step: no arena is smaller."""
    steps = {each.first for each in buffers}
    live = ([each for each in buffers if each.first <= step <= each.last] for step in steps)
    return max((sum(-(-each.bytes // ALIGNMENT) * ALIGNMENT for each in some) for some in live), default=0)


def test_buffers_that_meet_do_not_overlap() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        sizes, firsts, lengths = (torch.randint(1, most, (12,), generator=generator).tolist() for most in (90, 20, 6))
        given = [Lifetime(b, f, f + n) for b, f, n in zip(sizes, firsts, lengths, strict=True)]
        arena = share(given)
        assert fullest(given) <= arena.bytes <= sum(b + 3 for b in sizes)
        placed = list(zip(given, arena.offsets, strict=True))
        for k, (a, start) in enumerate(placed):
            assert start % 4 == 0 and start + a.bytes <= arena.bytes
            for b, other in placed[:k]:
                assert not a.meets(b) or start + a.bytes <= other or other + b.bytes <= start
    assert share([]).bytes == fullest([]) == 0
    chain = [Lifetime(100, k, k + 1) for k in range(50)]
    assert share(chain).bytes == fullest(chain) == 200


if __name__ == "__main__":
    export(small(), Example((torch.zeros(1, 3),)), Path(__file__).parent / "network.c")
