"""``measure``: a file beside the model that it was made from."""

import json
from pathlib import Path

import pytest

from featherweight.engines.compare import Comparison

from .commands import run

pytest.importorskip("psutil")


def test_a_file_is_timed_beside_its_parent(digits_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "measurement.json"
    ran = run(
        "measure", digits_file, "--engine", "onnxruntime", "--batch", 3, "--rounds", 1, "--seconds", "0.02",
        "--save", path, "--json",
    )  # fmt: skip
    assert ran.code == 0 and "timing batch 3, 1 thread" in ran.err
    assert json.loads(path.read_text()) == ran.json
    found = Comparison.from_json(ran.json)
    assert (ran.json["file"], ran.json["bytes"]) == (str(digits_file), digits_file.stat().st_size)
    assert (found.task, found.inputs, found.precision, found.failures) == ("digits", "evaluation", "float32", ())
    (row,) = found.rows
    assert (row.engine, row.batch, row.threads) == ("onnxruntime", 3, 1)
    assert row.before is not None and row.after is not None and row.ratio is not None
    assert row.parity_before is not None and row.parity_after is not None
    assert min(row.parity_before.snr, row.parity_after.snr) > 60 and row.parity_after.agreement == 1.0
    assert row.ratio.median == pytest.approx(row.before.rounds[0] / row.after.rounds[0])
    again = run("measure", digits_file, "--save", path)
    assert again.code == 1 and "--save" in again.err and "--force" in again.err


def test_the_table_has_no_speed_where_none_was_measured(digits_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from featherweight.core.errors import EngineError
    from featherweight.engines.onnxruntime import OnnxRuntime

    def refused(*_: object) -> None:
        raise EngineError("not today")

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(OnnxRuntime, "export", refused)
    ran = run(
        "measure", digits_file, "--engine", "pytorch", "--engine", "onnxruntime", "--rounds", 1, "--seconds", "0.02"
    )
    assert ran.code == 0 and "not measured: onnxruntime, compressed: not today" in ran.err
    assert "float operations in float32" in ran.out and "onnxruntime" not in ran.out
    assert len([line for line in ran.out.splitlines() if line.startswith("pytorch ")]) == 1


def test_an_unknown_engine(digits_file: Path) -> None:
    ran = run("measure", digits_file, "--engine", "abacus")
    assert ran.code == 1 and "no engine 'abacus'" in ran.err
