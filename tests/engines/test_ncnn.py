"""ncnn: what its converter makes, what is laid into it, and every way in which that can fail."""

import os
import stat
import struct
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from featherweight.activations.quantizers import Quantizer
from featherweight.core.compressed import Compressed
from featherweight.core.errors import EngineError
from featherweight.core.task import Example
from featherweight.engines import find
from featherweight.engines.engine import Precision, Settings
from featherweight.engines.export import export
from featherweight.engines.integers import deployed
from featherweight.engines.ncnn import PARAM, WEIGHTS, Ncnn
from featherweight.engines.ncnn_integers import INT8, IntegerLayer, floats, with_integers
from featherweight.engines.parity import parity
from featherweight.engines.pnnx import Network, network, prepare
from featherweight.engines.program import program
from featherweight.run import run
from featherweight.search.precision import post_training
from featherweight.tasks import find as find_task

from .nets import NETS, Net

FLOATS = 1e-4


def converter(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    """A program in the place of pnnx."""
    path = folder / "pnnx"
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setitem(sys.modules, "pnnx", SimpleNamespace(EXEC_PATH=str(path)))


def graph_of(model: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    return program(model, Example(inputs), any_batch=False).exported.module()


WRITES = "open('model.ncnn.param', 'w').write({param!r}); open('model.ncnn.bin', 'wb').write(b'')"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("os.kill(os.getpid(), 11)", "pnnx ended by signal SIGSEGV; export to .onnx"),
        ("print('no such operator'); sys.exit(3)", "pnnx ended with exit code 3: no such operator"),
        ("time.sleep(60)", "pnnx did not end within 0.5 s"),
        ("print('nothing to do')", "pnnx wrote no network: nothing to do"),
        (WRITES.format(param="7767517\n1 1\nTensor.reshape x 0 1 a\n"), "ncnn has no layer for Tensor.reshape"),
    ],
)
def test_a_converter_that_fails_is_an_error_with_its_words(
    body: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    converter(monkeypatch, tmp_path, body)
    monkeypatch.setattr("featherweight.engines.pnnx.SECONDS", 0.5 if "sleep" in body else 60)
    with pytest.raises(EngineError, match=words):
        network(graph_of(nn.Linear(3, 2), torch.randn(1, 3)), Example((torch.randn(1, 3),)))


def test_a_program_that_cannot_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pnnx", SimpleNamespace(EXEC_PATH="/no/such/program"))
    with pytest.raises(EngineError, match=r"pnnx cannot be run .*install featherweight\[ncnn\] anew"):
        network(graph_of(nn.Linear(3, 2), torch.randn(1, 3)), Example((torch.randn(1, 3),)))


def test_inputs_that_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pnnx", SimpleNamespace(EXEC_PATH="/no/such/program"))
    with pytest.raises(EngineError, match="no inputs of torch.float64"):
        network(graph_of(nn.ReLU(), torch.randn(1, 3).double()), Example((torch.randn(1, 3).double(),)))


@pytest.mark.parametrize("package", ["ncnn", "pnnx"])
def test_missing_packages_name_the_extra(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", SimpleNamespace())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EngineError, match=rf"{package} is not installed .*featherweight\[ncnn\]"):
        Ncnn().export(nn.Linear(3, 2), Example((torch.randn(1, 3),)), tmp_path / "m.ncnn")
    assert not (tmp_path / "m.ncnn").exists()


def test_bfloat16_and_files_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", SimpleNamespace())
    with pytest.raises(EngineError, match="ncnn does not compute in bfloat16"):
        Ncnn().open(tmp_path / "m.ncnn", Settings(precision=Precision.BFLOAT16))
    (tmp_path / "m.ncnn").write_bytes(b"no archive")
    with pytest.raises(EngineError, match=r"holds no model.param and model.bin .*export it anew"):
        Ncnn().open(tmp_path / "m.ncnn", Settings())


# What is laid in


def layer(levels: Sequence[int], scales: Sequence[float], step: float) -> IntegerLayer:
    return IntegerLayer(np.array(levels, np.int8).reshape(len(scales), -1), np.array(scales, np.float32), step)


def test_integers_lie_as_ncnn_reads_them() -> None:
    """A ``.bin`` worked out by hand: mark, levels, padding, bias, inverse scales, inverse step."""
    made = layer([1, -2, 3, 4, 5, -127], [0.5, 0.25], 0.125)
    weights = np.array([0.5, -1, 1.5, 1, 1.25, -31.75], np.float32).tobytes()
    bias = np.array([7, 8], np.float32).tobytes()
    param = "7767517\n2 2\nInput i 0 1 a\nInnerProduct l 1 1 a b 0=2 1=1 2=6\n"
    found = with_integers(Network(param, bytes(4) + weights + bias), [made])
    assert found.param.splitlines()[3] == "InnerProduct l 1 1 a b 0=2 1=1 2=6 8=2"
    levels = bytes([1, 254, 3, 4, 5, 129, 0, 0])
    assert found.weights == struct.pack("<I", INT8) + levels + bias + np.array([2, 4, 8], np.float32).tobytes()


def test_a_layer_without_bias_and_one_that_stays_a_float() -> None:
    made = layer([1, 2, 3, 4], [1.0], 0.5)
    kept, other = np.arange(4, dtype=np.float32).tobytes(), np.array([1, 2, 3, 4], np.float32).tobytes()
    param = "7767517\n2 2\nConvolution a 1 1 i b 0=1 5=0 6=4\nConvolutionDepthWise c 1 1 b d 0=1 5=0 6=4 7=1\n"
    found = with_integers(Network(param, bytes(4) + kept + bytes(4) + other), [made])
    assert [line[-4:] for line in found.param.splitlines()[2:]] == [" 6=4", " 8=1"]
    assert found.weights.startswith(bytes(4) + kept + struct.pack("<I", INT8))


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_weights_that_are_not_found_again_are_an_error(extra: bytes) -> None:
    param = "7767517\n2 2\nInput i 0 1 a\nInnerProduct l 1 1 a b 0=1 1=0 2=4\n"
    weights = bytes(4) + np.arange(4, dtype=np.float32).tobytes() + extra
    with pytest.raises(EngineError, match="not found again; export to .onnx"):
        with_integers(Network(param, weights), [layer([1, 2, 3, 4], [1.0], 0.5)])


def test_channels_of_zeros_have_no_scale() -> None:
    param = "7767517\n1 1\nInnerProduct l 1 1 a b 0=1 1=0 2=2\n"
    found = with_integers(Network(param, bytes(4) + bytes(8)), [layer([0, 0], [0.0], 1.0)])
    assert struct.unpack("<f", found.weights[-8:-4]) == (0.0,)


class Tapped(nn.Module):
    """Relu, a quantizer, a convolution, and the quantized maps once more in a sum. ``[n, 2, 4, 4]`` -> the same."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.conv, self.quantizer = nn.Conv2d(2, 2, 1), quantizer

    def forward(self, x: Tensor) -> Tensor:
        maps = self.quantizer(x.relu())
        return maps + self.conv(maps)


def tapped(bits: int, lowest: int) -> tuple[fx.GraphModule, list[IntegerLayer], nn.Module]:
    from featherweight.schemes.uniform import PerChannel, Uniform

    model = Tapped(Quantizer(bits, lowest, torch.tensor(0.03125)))
    student = Compressed(model)
    scheme = Uniform(8, granularity=PerChannel())
    student.encode({"conv.weight": scheme.project(student.source("conv.weight"))}, {"conv.weight": scheme})
    student.settle()
    graph = graph_of(deployed(student.eval()), torch.randn(1, 2, 4, 4))
    return graph, floats(graph), student


@pytest.mark.parametrize(
    ("bits", "lowest", "step"),
    [(8, 0, 255 / 127), (8, -128, 1), (7, 0, 1), (4, 0, 1), (8, -50, 205 / 127), (8, -200, 199 / 127)],
)
def test_unsigned_inputs_lose_a_bit_and_smaller_ones_none(bits: int, lowest: int, step: float) -> None:
    _, (found,), _ = tapped(bits, lowest)
    assert found.step == pytest.approx(0.03125 * step) and found.levels.dtype == np.int8


@pytest.mark.parametrize("bits", [8, 4])
def test_what_the_converter_sees_has_none_of_our_operators_and_is_the_model(bits: int) -> None:
    """Eight bits are bounds at the join, fewer are rounded there too; the layer rounds for itself."""
    graph, _, student = tapped(bits, 0)
    assert not [node for node in graph.graph.nodes if "featherweight" in str(node.target)]
    names = [getattr(node.target, "__name__", str(node.target)) for node in graph.graph.nodes]
    assert names.count("_quantized") == (bits == 4) and names.count("clamp") == 1
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(graph(x), student(x), atol=0.03125)


def test_every_second_pixel_is_a_pooling() -> None:
    class Thins(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, ::2, ::3] + x[:, :, 1::2, 1:6:2].mean()

    x = torch.randn(1, 2, 5, 7)
    graph = graph_of(Thins(), x)
    prepare(graph)
    targets = [str(node.target) for node in graph.graph.nodes]
    assert targets.count("aten.max_pool2d.default") == 2
    assert torch.equal(graph(x), Thins()(x))


# The package itself


def real() -> Ncnn:
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    engine = find("ncnn")
    assert isinstance(engine, Ncnn)
    return engine


class TwoOfEach(nn.Module):
    """As that of ``nets``, with more than a number a sample in both outputs: ncnn knows no tensor of one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)

    def forward(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        return {"total": self.linear(first) + second, "other": 2 * first}


TWO = Net(TwoOfEach, NETS["two of each"].example, NETS["two of each"].inputs)


@pytest.mark.parametrize("net", [NETS["residual"], NETS["attending"], TWO], ids=["residual", "attending", "two"])
def test_outputs_are_the_models_sample_by_sample(net: Net, tmp_path: Path) -> None:
    engine = real()
    written = engine.export(net.model(), net.example, tmp_path / "m.ncnn")
    assert written.any_batch and written.bytes == (tmp_path / "m.ncnn").stat().st_size
    inputs = [x.numpy() for x in net.inputs]
    before = [x.copy() for x in inputs]
    found = engine.open(tmp_path / "m.ncnn", Settings()).run(inputs)
    kept = len(net.example.args)
    with torch.no_grad():
        wanted = net.model()(*net.inputs[:kept], **dict(zip(net.example.kwargs, net.inputs[kept:], strict=True)))
    leaves = list(wanted.values()) if isinstance(wanted, dict) else [wanted]
    assert parity([[y.numpy() for y in leaves]], [found]).largest < FLOATS
    assert all((x == y).all() for x, y in zip(inputs, before, strict=True))


def test_a_file_is_an_archive_of_what_ncnn_loads_the_same_every_time(tmp_path: Path) -> None:
    engine, net = real(), NETS["digits"]
    for name in ("a.ncnn", "b.ncnn"):
        engine.export(net.model(), net.example, tmp_path / name)
    assert (tmp_path / "a.ncnn").read_bytes() == (tmp_path / "b.ncnn").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.ncnn") as archive:
        assert archive.namelist() == [PARAM, WEIGHTS] and archive.read(PARAM).startswith(b"7767517\n")


def test_integers_stay_integers_and_decide_as_the_simulation_does(digits_model: nn.Module, tmp_path: Path) -> None:
    engine, task = real(), find_task("digits")
    student, _ = run(digits_model, task, post_training())
    written = export(student.eval(), task.example(), tmp_path / "m.ncnn")
    assert written.engine.name == "ncnn" and written.file.bytes < 1.1 * sum(
        p.numel() for p in digits_model.parameters()
    )
    with zipfile.ZipFile(tmp_path / "m.ncnn") as archive:
        lines = archive.read(PARAM).decode().splitlines()
    assert sum(" 8=" in line for line in lines) == 5
    from featherweight.tasks.digits import digits

    x = digits("evaluation")[0]
    with torch.no_grad():
        wanted = [[student(x).numpy()]]
    found = parity(wanted, [engine.open(tmp_path / "m.ncnn", Settings()).run([x.numpy()])])
    assert found.agreement is not None and found.agreement >= 0.98 and found.snr > 25


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_what_ncnn_lacks_is_an_error_and_no_file(tmp_path: Path) -> None:
    engine = real()
    with pytest.raises(EngineError, match=r"ncnn has no layer for \S*bessel_j0.*export to .onnx"):
        engine.export(Bessel(), Example((torch.randn(1, 3, 4, 4),)), tmp_path / "m.ncnn")
    assert os.listdir(tmp_path) == []
