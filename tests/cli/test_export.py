"""``export``: a file for an engine."""

from pathlib import Path

import pytest
import torch

from featherweight import file
from featherweight.engines import ENGINES
from featherweight.engines.engine import Settings
from featherweight.engines.parity import parity
from featherweight.tasks import find
from featherweight.tasks.digits import digits

from .commands import run


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_what_is_exported_runs_as_the_files_model(suffix: str, digits_file: Path, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"digits{suffix}"
    ran = run("export", digits_file, "-o", path, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert set(ran.json) == {"file", "bytes", "engine", "task", "any_batch", "most", "integers", "decoded", "unsigned"}
    assert (ran.json["file"], ran.json["bytes"]) == (str(path), path.stat().st_size)
    assert (ran.json["task"], ran.json["any_batch"]) == ("digits", True)
    student, _ = file.load(digits_file.read_bytes(), find("digits").architecture())
    x = digits("selection")[0]
    with torch.no_grad():
        expected = student(x).numpy()
    outputs = ENGINES[ran.json["engine"]].open(path, Settings()).run([x.numpy()])
    assert parity([[expected]], [outputs]).largest < 1e-4
    before = path.read_bytes()
    refused = run("export", digits_file, "-o", path)
    assert refused.code == 1 and "--force" in refused.err
    again = run("export", digits_file, "-o", path, "--force")
    assert again.code == 0 and "any batch size" in again.out and path.read_bytes() == before


def test_a_network_of_integers_becomes_c(tmp_path: Path) -> None:
    path = tmp_path / "resnet20.c"
    ran = run("export", Path(__file__).parents[2] / "evidence" / "resnet20-w8a8.fwt", "-o", path, "--json")
    assert (ran.code, ran.err, ran.json["engine"], ran.json["decoded"]) == (0, "", "c", [])
    assert len(ran.json["integers"]) == 20 and ran.json["bytes"] == path.stat().st_size


def test_a_network_of_floats_does_not_become_c(digits_file: Path, tmp_path: Path) -> None:
    ran = run("export", digits_file, "-o", tmp_path / "m.c")
    assert ran.code == 1 and "C runs on integers alone" in ran.err and "int8" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_an_engine_is_chosen_by_name_where_files_end_alike(digits_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    ran = run("export", digits_file, "-o", tmp_path / "m.onnx", "--engine", "tensorrt", "--json")
    assert ran.code == 0 and ran.json["engine"] == "tensorrt"
    other = run("export", digits_file, "-o", tmp_path / "m.pt2", "--engine", "tensorrt")
    assert other.code == 1 and "files of tensorrt end in .onnx" in other.err


def test_a_users_file_needs_its_task_named(user_file: Path, user_task: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt2"
    ran = run("export", user_file, "-o", path)
    assert ran.code == 1 and "--task file.py:function" in ran.err and not path.exists()
    assert run("export", user_file, "-o", path, "--task", user_task).code == 0 and path.exists()


def test_what_cannot_be_written_is_said(digits_file: Path, tmp_path: Path) -> None:
    for name, reason in (
        ("m.mlmodel", "end the name with one of .c, .ncnn, .onnx, .pt2, .pte, .so, .tflite"),
        ("no/m.onnx", "there is no folder"),
    ):
        ran = run("export", digits_file, "-o", tmp_path / name)
        assert ran.code == 1 and reason in ran.err
    assert list(tmp_path.iterdir()) == []


def test_help_has_examples() -> None:
    ran = run("export", "--help")
    assert ran.code == 0 and "featherweight export mnist-lenet5.fwt -o lenet5.onnx" in ran.out
