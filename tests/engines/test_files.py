"""What is written: names, bytes, silence; and what is refused, with which words."""

import importlib
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.errors import EngineError, FeatherweightError
from featherweight.core.task import Example
from featherweight.engines import ENGINES, packages
from featherweight.engines.engine import Settings
from featherweight.engines.onnx import OPSET, export_onnx

from .nets import NETS

SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".onnx", "pytorch": ".pt2", "pytorch-compiled": ".pt2"}


class ThreeRows(nn.Module):
    """Takes batches of three alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(3, 2, -1).sum(1)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@torch.library.custom_op("testing::odd", mutates_args=())
def odd(x: Tensor) -> Tensor:
    return x + 1


@odd.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = odd(x)
        return y


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


@pytest.mark.parametrize("name", ["digits", pytest.param("attending", marks=pytest.mark.long), "two of each"])
def test_the_same_model_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    net = NETS[name]
    for file in ("a", "b"):
        export_onnx(net.model(), net.example, tmp_path / file)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"]


def test_a_file_names_its_inputs_and_outputs_and_nothing_of_where_it_was_made(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    net = NETS["two of each"]
    export_onnx(net.model(), net.example, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [each.name for each in model.graph.input] == ["first", "second"]
    assert [each.name for each in model.graph.output] == ["total", "other"]
    batches = [each.type.tensor_type.shape.dim[0].dim_param for each in (*model.graph.input, *model.graph.output)]
    assert batches == ["batch"] * 4
    assert [each.version for each in model.opset_import if each.domain == ""] == [OPSET]
    data = (tmp_path / "m.onnx").read_bytes()
    assert b".py" not in data and str(Path.cwd()).encode() not in data
    export_onnx(NETS["digits"].model(), NETS["digits"].example, tmp_path / "d.onnx")
    digits = onnx.load(tmp_path / "d.onnx")
    assert [digits.graph.input[0].name, digits.graph.output[0].name] == ["images", "output"]


def test_nothing_is_said_and_nothing_is_changed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    net = NETS["residual"]
    model = net.model().train()
    model.left.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    threshold = logging.root.manager.disable
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        export_onnx(model, net.example, tmp_path / "m.onnx")
        ENGINES["pytorch"].export(model, net.example, tmp_path / "m.pt2")
    out, err = capfd.readouterr()
    assert (out, err, told) == ("", "", [])
    assert logging.root.manager.disable == threshold
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["onnxruntime", "pytorch"])
def test_a_model_of_one_batch_size_is_exported_for_it(name: str, tmp_path: Path) -> None:
    if name == "onnxruntime":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    runs, x = ENGINES[name], torch.randn(3, 4)
    path = tmp_path / f"m{runs.suffix}"
    assert not runs.export(ThreeRows(), Example((x,)), path).any_batch
    runner = runs.open(path, Settings())
    assert torch.allclose(torch.from_numpy(runner.run([x.numpy()])[0]), ThreeRows()(x))
    with pytest.raises(EngineError, match="could not run the model"):
        runner.run([torch.randn(2, 4).numpy()])


@pytest.mark.parametrize("name", ["onnxruntime", "pytorch"])
def test_a_model_that_branches_on_values_is_refused(name: str, tmp_path: Path) -> None:
    if name == "onnxruntime":
        pytest.importorskip("onnxscript")
    with pytest.raises(EngineError, match=r"cannot be traced for export \(.*branches on values"):
        ENGINES[name].export(Branching(), Example((torch.randn(2, 2),)), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_onnx_has_not_is_named_with_its_module(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    example, path = Example((torch.randn(2, 4),)), tmp_path / "m.onnx"
    with pytest.raises(EngineError, match=r"operator testing.odd of module '1' has no form in ONNX.*leave this module"):
        export_onnx(nn.Sequential(nn.Linear(4, 4), Odd()), example, path)
    with pytest.raises(EngineError, match=r"operator prims.bessel_j0 has no form in ONNX"):
        export_onnx(Bessel(), example, path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FeatherweightError, match="nowhere"):
        ENGINES["pytorch"].export(nn.ReLU(), Example((torch.randn(2, 4),)), tmp_path / "nowhere" / "m.pt2")


@pytest.mark.parametrize("name", SUFFIXES)
@pytest.mark.parametrize("damage", ["absent", "empty", "text", "cut", "flipped header"])
def test_a_damaged_file_is_refused(name: str, damage: str, tmp_path: Path) -> None:
    runs = ENGINES[name]
    if runs.extra:
        pytest.importorskip(name)
        pytest.importorskip("onnxscript")
    path = tmp_path / f"m{SUFFIXES[name]}"
    if damage in ("cut", "flipped header"):
        runs.export(NETS["two of each"].model(), NETS["two of each"].example, path)
        data = bytearray(path.read_bytes())
        data[:16] = data[:16] if damage == "cut" else bytes(255 - each for each in data[:16])
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    elif damage != "absent":
        path.write_bytes(b"" if damage == "empty" else b"not a model at all " * 40)
    with pytest.raises(EngineError, match="cannot open .*export it anew"):
        runs.open(path, Settings())


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_file_is_opened_and_run_without_pytorch(name: str, tmp_path: Path) -> None:
    """Importing it takes a worker seconds, and its memory would stand where the engine's is told."""
    pytest.importorskip(name)
    pytest.importorskip("onnxscript")
    path = tmp_path / "m.onnx"
    ENGINES[name].export(nn.ReLU(), Example((torch.randn(2, 4),)), path)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "import featherweight.engines.worker\n"
        "from featherweight.engines import find\n"
        "from featherweight.engines.engine import Settings\n"
        "runner = find(sys.argv[1]).open(Path(sys.argv[2]), Settings())\n"
        "assert runner.run([np.ones((3, 4), np.float32)])[0].sum() == 12\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("onnxruntime", "onnxruntime", "onnxruntime"), ("openvino", "openvino", "openvino")],
)
def test_a_missing_engine_is_told_with_the_extra_that_brings_it(
    name: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hide(monkeypatch, package)
    for use in (ENGINES[name].version, lambda: ENGINES[name].open(tmp_path / "m.onnx", Settings())):
        with pytest.raises(EngineError, match=rf"{package} is not installed .*pip install 'featherweight\[{extra}\]'"):
            use()


def test_a_missing_exporter_is_told_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hide(monkeypatch, "onnxscript")
    with pytest.raises(EngineError, match=r"onnxscript is not installed .*pip install 'featherweight\[onnx\]'"):
        ENGINES["onnxruntime"].export(nn.ReLU(), Example((torch.zeros(2, 2),)), tmp_path / "m.onnx")


def _hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    def missing(name: str) -> ModuleType:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return importlib.import_module(name)

    monkeypatch.setattr(packages, "import_module", missing)


def test_inputs_of_another_number_are_refused(tmp_path: Path) -> None:
    net, runs = NETS["two of each"], ENGINES["pytorch"]
    runs.export(net.model(), net.example, tmp_path / "m.pt2")
    runner = runs.open(tmp_path / "m.pt2", Settings())
    for inputs in ([net.inputs[0].numpy()], [x.numpy() for x in (*net.inputs, *net.inputs)]):
        with pytest.raises(EngineError, match="could not run"):
            runner.run(inputs)
