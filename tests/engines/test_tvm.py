"""TVM: its programs compute what the model says."""

import os
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from featherweight.core.errors import EngineError
from featherweight.core.task import Example
from featherweight.engines import find
from featherweight.engines.engine import Precision, Settings
from featherweight.engines.export import export
from featherweight.engines.parity import parity
from featherweight.engines.tvm import Tvm
from featherweight.run import run
from featherweight.search.precision import post_training
from featherweight.tasks import find as find_task
from featherweight.tasks.digits import digits

from .nets import NETS


def real() -> Tvm:
    pytest.importorskip("tvm")
    if not shutil.which("g++"):
        pytest.skip("TVM links with a C++ compiler")
    engine = find("tvm")
    assert isinstance(engine, Tvm)
    return engine


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tvm", None)
    for call in (lambda: find("tvm").version(), lambda: find("tvm").open(tmp_path / "m.so", Settings())):
        with pytest.raises(EngineError, match=r"tvm is not installed .*featherweight\[tvm\]"):
            call()


def test_a_compiler_that_fails_is_an_error_and_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(program: object) -> None:
        raise ValueError("unsupported function types ['odd.default']")

    for name in ("tvm", "tvm.relax", "tvm.relax.frontend", "tvm.relax.frontend.torch"):
        fake = ModuleType(name)
        vars(fake).update(__spec__=ModuleSpec(name, None), from_exported_program=refuse, compile=None)  # torch looks
        monkeypatch.setitem(sys.modules, name, fake)
    with pytest.raises(EngineError, match=r"TVM cannot compile the model .*odd.default.*export to .onnx or .pt2"):
        find("tvm").export(nn.Linear(3, 2), Example((torch.randn(1, 3),)), tmp_path / "m.so")
    assert os.listdir(tmp_path) == []


def test_bfloat16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="tvm does not compute in bfloat16"):
        find("tvm").open(tmp_path / "m.so", Settings(precision=Precision.BFLOAT16))


@pytest.mark.parametrize("name", ["residual", "two of each"])
def test_outputs_are_the_models_in_batches_of_another_size(name: str, tmp_path: Path) -> None:
    engine, net = real(), NETS[name]
    written = engine.export(net.model(), net.example, tmp_path / "m.so")
    assert written.any_batch and written.bytes == (tmp_path / "m.so").stat().st_size
    kept = len(net.example.args)
    with torch.no_grad():
        wanted = net.model()(*net.inputs[:kept], **dict(zip(net.example.kwargs, net.inputs[kept:], strict=True)))
    leaves = list(wanted.values()) if isinstance(wanted, dict) else [wanted]
    found = engine.open(tmp_path / "m.so", Settings()).run([x.numpy() for x in net.inputs])
    assert parity([[y.numpy() for y in leaves]], [found]).largest < 1e-4


def test_quantized_models_are_computed_as_what_they_stand_for(digits_model: nn.Module, tmp_path: Path) -> None:
    engine, task = real(), find_task("digits")
    student, _ = run(digits_model, task, post_training())
    export(student.eval(), task.example(), tmp_path / "m.so")
    x = digits("evaluation")[0]
    with torch.no_grad():
        wanted = [[student(x).numpy()]]
    found = parity(wanted, [engine.open(tmp_path / "m.so", Settings()).run([x.numpy()])])
    assert found.agreement is not None and found.agreement >= 0.99 and found.snr > 30


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    engine = real()
    (tmp_path / "m.so").write_bytes(b"no library")
    with pytest.raises(EngineError, match="TVM cannot open .*export it anew"):
        engine.open(tmp_path / "m.so", Settings())
