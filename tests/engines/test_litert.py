"""LiteRT: what the converter makes of our integers, and what is said where there is no converter."""

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import EngineError
from featherweight.core.task import Example, Task
from featherweight.engines import ENGINES
from featherweight.engines.engine import Settings
from featherweight.engines.export import export
from featherweight.engines.litert import LiteRT
from featherweight.engines.litert_converter import PYTHON, converted
from featherweight.engines.parity import parity
from featherweight.engines.program import program
from featherweight.run import run
from featherweight.search.precision import post_training
from featherweight.tasks import find
from featherweight.tasks.digits import digits

posix = pytest.mark.skipif(os.name != "posix", reason="the fakes are scripts of a shell")
Files = dict[str, tuple[Compressed, Path]]
EXAMPLE = Example((torch.zeros(2, 3),))


def fake(folder: Path, *lines: str) -> Path:
    """A Python that does as the lines say."""
    path = folder / "python"
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)
    return path


def failure(python: Path, timeout: float = 60) -> str:
    exported = program(nn.Linear(3, 2), EXAMPLE).exported
    with pytest.raises(EngineError) as error:
        converted(exported, python, timeout)
    return str(error.value)


def test_no_converter_is_told_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON, raising=False)
    with pytest.raises(EngineError, match=rf"no Python with LiteRT's converter.*litert-torch.*export {PYTHON}"):
        converted(program(nn.Linear(3, 2), EXAMPLE).exported)
    monkeypatch.setenv(PYTHON, str(tmp_path / "named"))
    with pytest.raises(EngineError, match="named cannot be run"):
        converted(program(nn.Linear(3, 2), EXAMPLE).exported)
    assert "none cannot be run (FileNotFoundError" in failure(tmp_path / "none")
    told = failure(Path(sys.executable))  # has no converter, or the wrong versions of it
    assert "LiteRT's converter is not there (ModuleNotFoundError: No module named 'litert_torch')" in told


@posix
@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("kill -SEGV $$",), "ended by signal SIGSEGV (it said nothing)"),
        (("exit 0",), "wrote no file (it said nothing)"),
        ((': > "$4"',), "wrote no file"),
        (('echo "half" > "$4"', 'echo "RuntimeError: Lowering not found: aten.odd" >&2', "exit 1"), "aten.odd"),
        (("exec sleep 60",), "took more than 0.5 s"),
    ],
    ids=["crash", "nothing", "empty", "operator", "hang"],
)
def test_a_converter_that_fails_is_told_and_leaves_nothing(lines: tuple[str, ...], told: str, tmp_path: Path) -> None:
    python = fake(tmp_path, *lines)
    assert told in failure(python, 0.5 if "sleep" in lines[0] else 60)
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(EngineError):
        LiteRT(python, 0.5).export(nn.Linear(3, 2), EXAMPLE, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == [python]


def test_a_missing_runtime_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    for call in (
        lambda: LiteRT().open(tmp_path / "m.tflite", Settings()),
        lambda: LiteRT().export(nn.Linear(3, 2), EXAMPLE, tmp_path / "m.tflite"),
        LiteRT().version,
    ):
        with pytest.raises(EngineError, match=r"pip install 'featherweight\[litert\]'"):
            call()


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    for data in (b"", b"no such file"):
        (tmp_path / "m.tflite").write_bytes(data)
        with pytest.raises(EngineError, match="LiteRT cannot open"):
            LiteRT().open(tmp_path / "m.tflite", Settings())


@pytest.fixture(scope="module")
def files(digits_model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The digits network in floats and with its integers."""
    pytest.importorskip("ai_edge_litert")
    if PYTHON not in os.environ:
        pytest.skip(f"{PYTHON} names no Python with LiteRT's converter")
    task, folder = find("digits"), tmp_path_factory.mktemp("litert")
    student, _ = run(digits_model, task, post_training(8, 8))
    made = {"float": Compressed(digits_model).eval(), "int8": student.eval()}
    for name, model in made.items():
        written = export(model, task.example(), folder / f"{name}.tflite").file
        assert written.any_batch and written.most is None
    return {name: (model, folder / f"{name}.tflite") for name, model in made.items()}


@pytest.mark.parametrize(("name", "largest"), [("float", 1e-3), ("int8", 0.02)])
@pytest.mark.parametrize("batch", [1, 50])
def test_outputs_are_the_models(files: Files, name: str, largest: float, batch: int) -> None:
    model, path = files[name]
    x = digits("selection")[0][:300]
    runner = ENGINES["litert"].open(path, Settings(threads=2))
    with torch.no_grad():
        reference = [[model(part).numpy()] for part in x.split(batch)]
    outputs = [runner.run([part.numpy()]) for part in x.split(batch)]
    assert outputs[0][0].dtype == "float32"
    found = parity(reference, outputs)
    assert found.largest < largest and found.agreement is not None and found.agreement >= 0.98, found


def test_samples_of_another_size_are_refused(files: Files) -> None:
    with pytest.raises(EngineError, match=r"of \(2, 1, 9, 8\) for a file whose samples are of \(1, 8, 8\)"):
        ENGINES["litert"].open(files["float"][1], Settings()).run([np.zeros((2, 1, 9, 8), np.float32)])


def test_layers_are_integers_in_the_file(files: Files) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    opened = Interpreter(model_path=str(files["int8"][1]), num_threads=1, experimental_op_resolver_type=plain)
    opened.allocate_tensors()
    kinds = {each["index"]: each["dtype"].__name__ for each in opened.get_tensor_details()}
    layers = Counter(
        (each["op_name"], *(kinds[x] for x in (*each["inputs"], *each["outputs"])))
        for each in opened._get_ops_details()
        if each["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    )
    whole = ("int8", "int8", "int32", "int8")
    assert layers == {
        ("CONV_2D", *whole): 2,
        ("DEPTHWISE_CONV_2D", *whole): 1,  # so the converter calls that of a single channel
        ("FULLY_CONNECTED", *whole): 1,
        ("FULLY_CONNECTED", "float32", "int8", "float32", "float32"): 1,  # its result stays in floats
    }
    assert files["int8"][1].stat().st_size < 0.32 * files["float"][1].stat().st_size


class Padded(nn.Module):
    """A convolution whose zeros lie on two sides alone, and one whose zeros are not what SAME means."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.within = nn.Conv2d(8, 8, 3, stride=2, groups=8)
        self.before = nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.within(nn.functional.pad(self.first(x).relu(), (0, 1, 0, 1))).relu()
        return self.before(nn.functional.pad(x, (2, 0, 2, 0))).relu().mean((2, 3))


def test_zeros_become_the_convolutions_own_where_same_means_them(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    if PYTHON not in os.environ:
        pytest.skip(f"{PYTHON} names no Python with LiteRT's converter")
    from featherweight.engines.tflite import File

    torch.manual_seed(0)
    model = Padded().eval()
    data = [torch.randn(16, 3, 16, 16) for _ in range(4)]
    task = Task("padded", lambda: model, lambda: model, lambda: Example((data[0][:2],)), calibration=lambda: data)
    student, _ = run(model, task, post_training(8, 8))
    export(student, task.example(), tmp_path / "m.tflite")
    assert len(list(File((tmp_path / "m.tflite").read_bytes()).operators("PAD"))) == 1
    found = ENGINES["litert"].open(tmp_path / "m.tflite", Settings()).run([data[1].numpy()])
    with torch.no_grad():
        same = parity([[student(data[1]).numpy()]], [found])
    assert same.snr > 40, same
