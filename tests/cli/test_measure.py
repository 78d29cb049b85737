"""``featherweight measure``."""

import json
from pathlib import Path
from typing import Any

import pytest

from featherweight.core.errors import EngineError
from featherweight.engines.c import compiler
from featherweight.engines.compare import Comparison, Side
from featherweight.engines.pytorch import Eager

from .commands import run

pytest.importorskip("psutil")
FAST = ("--engine", "pytorch", "--batch", 2, "--rounds", 1, "--seconds", 0.01)


def test_a_file_is_measured_beside_its_parent(user_file: Path, user_task: str, tmp_path: Path) -> None:
    saved = tmp_path / "measured.json"
    ran = run("measure", user_file, "--task", user_task, *FAST, "--save", saved, "--json")
    assert ran.code == 0, ran.err
    assert ran.json == json.loads(saved.read_text())
    found = Comparison.from_json(ran.json)
    assert len(found.rows) == 1 and found.rows[0].ratio.median > 0 and found.inputs == "evaluation"
    assert "exporting for pytorch float" in ran.err
    again = run("measure", user_file, "--task", user_task, *FAST, "--save", saved)
    assert again.code == 1 and "exists" in again.err and "--force" in again.err


def test_no_speed_up_without_two_measurements(user_file: Path, user_task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(self: Eager, *_: Any) -> Any:
        raise EngineError("nothing goes")

    monkeypatch.setattr(Eager, "export", export)
    ran = run("measure", user_file, "--task", user_task, *FAST)
    assert ran.code == 1 and "no speed-up was measured" in ran.err
    assert "not measured: pytorch compressed: nothing goes" in ran.out and "times as fast" not in ran.out


INTEGERS = """
import torch
from torch import nn
from featherweight import Example, Task

def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))

def task():
    inputs = torch.randn(64, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    data = lambda: [(inputs, torch.zeros(64, dtype=torch.long))]
    return Task(
        "integers", architecture=model, model=model, example=lambda: Example((inputs[:1],)), evaluation=data,
        calibration=data,
    )
"""


def test_an_engine_of_integers_is_measured_by_itself(tmp_path: Path) -> None:
    """There is nothing to be faster than where floats cannot run, and that is told."""
    try:
        compiler()
    except EngineError as error:
        pytest.skip(str(error))
    task, made = tmp_path / "task.py", tmp_path / "m.fwt"
    task.write_text(INTEGERS)
    assert run("compress", f"{task}:task", "--recipe", "int8", "-o", made).code == 0
    ran = run("measure", made, "--task", f"{task}:task", "--engine", "c", *FAST[2:], "--json")
    assert ran.code == 0, ran.err
    found = Comparison.from_json(ran.json)
    assert not found.rows and [each.label for each in found.settings[0].measurement.timings] == ["c compressed"]
    assert [(each.engine, each.side) for each in found.failures] == [("c", Side.FLOAT)]
    assert found.settings[0].parity["c compressed"].agreement >= 0.95


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--engine", "abacus"), 1, "there is no engine 'abacus'; there are pytorch"),
        (("--precision", "float8"), 2, "--precision is float32 or bfloat16"),
        (("--threads", "0"), 2, "--threads"),
        (("--rounds", "0"), 2, "--rounds"),
        (("--save", "no/such/folder/x.json"), 1, "there is no folder"),
    ],
)
def test_bad_usage_is_told_before_anything_is_done(
    user_file: Path, user_task: str, arguments: tuple[str, ...], code: int, message: str
) -> None:
    ran = run("measure", user_file, "--task", user_task, *arguments)
    assert ran.code == code and message in ran.err and "exporting" not in ran.err
