"""Exported equals lowered: float models on every engine, at another batch size than the example's."""

import shutil
from pathlib import Path

import pytest
import torch

from featherweight.core.errors import EngineError
from featherweight.engines import ENGINES, engine_for, find
from featherweight.engines.engine import Engine, Precision, Settings
from featherweight.engines.parity import parity

from .nets import NETS, Net

FLOATS = 1e-4
"""Of the largest output."""


def engine_named(name: str) -> Engine:
    engine = ENGINES[name]
    if engine.extra:
        pytest.importorskip(name)
        pytest.importorskip("onnxscript")
    return engine


def reference(net: Net) -> list[torch.Tensor]:
    args = net.inputs[: len(net.example.args)]
    kwargs = dict(zip(net.example.kwargs, net.inputs[len(args) :], strict=True))
    with torch.no_grad():
        outputs = net.model()(*args, **kwargs)
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


@pytest.mark.parametrize("engine", ["pytorch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("name", NETS)
def test_outputs_are_the_models(name: str, engine: str, tmp_path: Path) -> None:
    net, runs = NETS[name], engine_named(engine)
    path = tmp_path / f"model{runs.suffix}"
    written = runs.export(net.model(), net.example, path)
    assert written.any_batch and written.bytes == path.stat().st_size
    runner = runs.open(path, Settings())
    inputs = [x.numpy() for x in net.inputs]
    before = [x.copy() for x in inputs]
    outputs = runner.run(inputs)
    found = parity([[y.numpy() for y in reference(net)]], [outputs])
    assert found.largest < FLOATS, found
    assert all((x == y).all() for x, y in zip(inputs, before, strict=True))
    again = runner.run([x[:1] for x in inputs])
    assert all(len(y) == 1 for y in again)
    assert parity([[y[:1] for y in outputs]], [again]).largest < FLOATS


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_compiled_outputs_are_the_models(tmp_path: Path) -> None:
    net, runs = NETS["two of each"], ENGINES["pytorch-compiled"]
    runs.export(net.model(), net.example, tmp_path / "model.pt2")
    outputs = runs.open(tmp_path / "model.pt2", Settings()).run([x.numpy() for x in net.inputs])
    assert parity([[y.numpy() for y in reference(net)]], [outputs]).largest < FLOATS


@pytest.mark.parametrize("engine", ["pytorch", "openvino"])
def test_bfloat16_is_nearly_the_model_and_not_the_model(engine: str, tmp_path: Path) -> None:
    net, runs = NETS["digits"], engine_named(engine)
    path = tmp_path / f"model{runs.suffix}"
    runs.export(net.model(), net.example, path)
    outputs = runs.open(path, Settings(precision=Precision.BFLOAT16)).run([x.numpy() for x in net.inputs])
    found = parity([[y.numpy() for y in reference(net)]], [outputs])
    assert found.largest < 0.05
    if engine == "pytorch":  # where the CPU has no bfloat16, OpenVINO may compute in float32
        assert found.largest > 1e-5


def test_openvino_computes_in_float32_when_asked(tmp_path: Path) -> None:
    net, runs = NETS["digits"], engine_named("openvino")
    openvino = pytest.importorskip("openvino")
    runs.export(net.model(), net.example, tmp_path / "model.onnx")
    runner = runs.open(tmp_path / "model.onnx", Settings())
    compiled = runner.compiled  # type: ignore[attr-defined]
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_threads_are_the_processes_own_afterwards(tmp_path: Path) -> None:
    net, runs = NETS["digits"], ENGINES["pytorch"]
    runs.export(net.model(), net.example, tmp_path / "model.pt2")
    runner, before = runs.open(tmp_path / "model.pt2", Settings(threads=2)), torch.get_num_threads()
    runner.run([x.numpy() for x in net.inputs])
    assert torch.get_num_threads() == before


def test_onnxruntime_refuses_bfloat16(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="onnxruntime does not compute in bfloat16 here; it computes in float32"):
        ENGINES["onnxruntime"].open(tmp_path / "none.onnx", Settings(precision=Precision.BFLOAT16))


def test_engines_go_by_name_and_suffix() -> None:
    assert [engine_for(Path(name)).name for name in ("a.onnx", "b.PT2")] == ["onnxruntime", "pytorch"]
    assert find("openvino") is ENGINES["openvino"] and all(find(name).name == name for name in ENGINES)
    assert [engine_for(Path(name)).name for name in ("c.tflite", "d.pte")] == ["litert", "executorch"]
    known = r"\.c, \.ncnn, \.onnx, \.pt2, \.pte, \.so, \.tflite"
    with pytest.raises(EngineError, match=rf"no engine's files end in '\.mlmodel'.*{known}$"):
        engine_for(Path("e.mlmodel"))
