"""``report``: a page, a short version, JSON."""

import json
from pathlib import Path

import pytest

from featherweight.engines.compare import Comparison, Setting, Side, label
from featherweight.engines.engine import Precision, Settings
from featherweight.engines.machine import Machine
from featherweight.engines.measurement import Measurement, Plan, Timing
from featherweight.engines.parity import Parity
from featherweight.engines.process import Memory

from .commands import run


@pytest.fixture(scope="module")
def measurement(tmp_path_factory: pytest.TempPathFactory, digits_file: Path) -> Path:
    """What ``measure --save`` writes."""
    memory = Memory(peak=2 * 10**6, model=10**6)
    timings = tuple(
        Timing(
            label("pytorch", side), "pytorch", "2.13", Settings(), 999, 9, p50, p50, p50, (p50, p50), (0.0, 0.0), memory
        )
        for side, p50 in ((Side.FLOAT, 4.0), (Side.COMPRESSED, 2.0))
    )
    machine = Machine("A processor", 2, 8 * 10**9, "An os", "3.11", "2.13")
    found = Measurement(timings[0].label, 1, timings, (), False, Plan(rounds=2), machine)
    alike = {each.label: Parity(0.0, float("inf"), 1.0, 64) for each in timings}
    path = tmp_path_factory.mktemp("measured") / "measurement.json"
    setting = Setting(1, 1, found, alike)
    record = Comparison("digits", ("pytorch",), Precision.FLOAT32, "evaluation", (setting,), ()).to_json()
    path.write_text(json.dumps({"file": "digits.fwt", "bytes": digits_file.stat().st_size, **record}))
    return path


def test_a_page_is_written_once(digits_file: Path, measurement: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    ran = run("report", digits_file, "-o", path, "--measurement", measurement)
    assert (ran.code, ran.err) == (0, "") and f"written to {path}" in ran.out
    text = path.read_text(encoding="utf-8")
    assert f"{digits_file.stat().st_size:,} bytes as file" in text and "2.00×" in text and "digits.fwt" in text
    refused = run("report", digits_file, "-o", path)
    assert refused.code == 1 and "--force" in refused.err and path.read_text(encoding="utf-8") == text
    assert run("report", digits_file, "-o", path, "--force").code == 0
    assert "2.00×" not in path.read_text(encoding="utf-8")


def test_in_short_and_as_json(digits_file: Path, measurement: Path) -> None:
    short = run("report", digits_file)
    assert short.code == 0 and "speed was not measured; measure it with: featherweight measure digits.fwt" in short.out
    assert "agrees with it" in short.out and "against the parent, worst first" in short.out
    timed = run("report", digits_file, "--measurement", measurement)
    assert "2.00 (2.00 to 2.00)" in timed.out and "not measured;" not in timed.out
    record = run("report", digits_file, "--json").json
    assert record["bytes"] == digits_file.stat().st_size and record["page"] is None
    assert record["claimed"]["agrees"] and record["quality"]["samples"] == record["claimed"]["standing"]["samples"]


def test_a_users_file_needs_its_task_named(user_file: Path, user_task: str) -> None:
    ran = run("report", user_file)
    assert ran.code == 1 and "--task file.py:function" in ran.err
    named = run("report", user_file, "--task", user_task)
    assert named.code == 0 and f"featherweight verify mine.fwt --task {user_task}" in named.out.replace("\n", "")


def test_a_measurement_that_is_none_is_refused(
    digits_file: Path, user_file: Path, user_task: str, measurement: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.json"
    for text in ("[", "[]", "{}", '{"task": 3}'):
        broken.write_text(text)
        ran = run("report", digits_file, "--measurement", broken)
        assert ran.code == 1 and "is no measurement" in ran.err
    ran = run("report", digits_file, "--measurement", tmp_path / "absent.json")
    assert ran.code == 1 and "cannot be read" in ran.err
    ran = run("report", user_file, "--task", user_task, "--measurement", measurement)
    assert ran.code == 1 and "was measured on a file of" in ran.err
    record = json.loads(measurement.read_text()) | {"bytes": user_file.stat().st_size}
    broken.write_text(json.dumps(record))
    ran = run("report", user_file, "--task", user_task, "--measurement", broken)
    assert ran.code == 1 and "is of task 'digits'" in ran.err
