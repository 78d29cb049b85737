"""``inspect``, ``verify`` and ``unpack``: what is read from files, whole, broken and hostile."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from featherweight import file
from featherweight.coding import Reader, Writer, open_sealed, seal
from featherweight.tasks import by_number

from .commands import run

MEASURED = {
    "metric", "value", "samples", "parameters", "nonzero", "macs", "macs_dense", "weight_bits", "activation_bits",
    "rest", "accuracy", "error",
}  # fmt: skip


def test_verify_gives_an_array_with_an_object_a_file(digits_file: Path) -> None:
    ran = run("verify", digits_file, "--json")
    assert ran.code == 0 and ran.err == ""
    (found,) = ran.json
    assert set(found) == {"file", "bytes", "task", "claimed", "ok", "measured"}
    assert (found["file"], found["bytes"], found["task"]) == (str(digits_file), digits_file.stat().st_size, "digits")
    assert found["ok"] is True and set(found["measured"]) == MEASURED
    measured, claimed = found["measured"], found["claimed"]
    assert set(claimed) == {"metric", "value", "samples", "parent", "lost", "won", "p_value"}
    assert measured["rest"] is None  # selection and evaluation share no digit
    assert measured["metric"] == claimed["metric"] == "accuracy" and measured["samples"] == claimed["samples"] == 599
    assert measured["accuracy"] == measured["value"] == pytest.approx(claimed["value"], abs=0.2)
    assert measured["accuracy"] + measured["error"] == pytest.approx(100)
    assert measured["nonzero"] <= measured["parameters"] == 72_842 and measured["macs"] <= measured["macs_dense"]


def test_one_bad_file_does_not_keep_the_others_from_being_measured(digits_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.fwt"
    broken.write_bytes(digits_file.read_bytes()[:-20])
    ran = run("verify", broken, digits_file, tmp_path / "absent.fwt", "--json")
    assert ran.code == 1
    first, second, third = ran.json
    assert not first["ok"] and "checksum" in first["error_message"] and first["measured"] is None
    assert second["ok"] and "error_message" not in second
    assert not third["ok"] and "cannot be read" in third["error_message"]
    text = run("verify", broken, digits_file)
    assert text.code == 1 and "broken.fwt" in text.err and "ok" in text.out


def test_a_claim_that_does_not_hold_is_not_ok(digits_file: Path, tmp_path: Path) -> None:
    student, contents = file.load(digits_file.read_bytes(), by_number(1).architecture())
    claims = contents.header.claims
    assert claims is not None
    boast = tmp_path / "boast.fwt"
    file.save(boast, file.encode(student, number=1, claims=replace(claims, total=599, parent=599, lost=0)))
    ran = run("verify", boast, "--json")
    assert ran.code == 1 and ran.json[0]["ok"] is False and ran.json[0]["claimed"]["value"] == 100.0
    assert "599 in sum" in ran.err


def test_a_file_without_claims_is_not_ok(digits_file: Path, tmp_path: Path) -> None:
    student, _ = file.load(digits_file.read_bytes(), by_number(1).architecture())
    silent = tmp_path / "silent.fwt"
    file.save(silent, file.encode(student, number=1))
    ran = run("verify", silent, "--json")
    assert ran.code == 1 and ran.json[0]["claimed"] is None and ran.json[0]["measured"]["samples"] == 599
    assert "claims nothing" in ran.err
    assert run("inspect", silent, "--json").json["claimed"] is None


def test_a_users_file_needs_its_task_named(user_file: Path, user_task: str) -> None:
    ran = run("verify", user_file, "--json")
    assert ran.code == 1 and "--task file.py:function" in ran.json[0]["error_message"]
    ran = run("verify", user_file, "--task", user_task, "--json")
    assert ran.code == 0, ran.err
    assert ran.json[0]["task"] == "mine" and ran.json[0]["measured"]["samples"] == 50


def test_no_file_causes_an_import(user_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one that names a Python file that is there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('imported', 'w')\ndef task(): ...\n")
    header = json.dumps({"tensors": [], "task": "evil.py:task"})
    (tmp_path / "evil.fwt").write_bytes(_packed(header, b""))
    for command in ("inspect", "verify"):
        assert run(command, "evil.fwt").code == 1
    assert run("unpack", "evil.fwt", "-o", "out.safetensors").code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.fwt", "evil.py"]


def test_a_file_of_another_built_in_task_is_refused(digits_file: Path) -> None:
    ran = run("inspect", digits_file, "--task", "mnist-lenet5")
    assert ran.code == 1 and "built-in task 1" in ran.err


def test_a_file_with_real_valued_scores_names_its_built_in_task_by_number(digits_file: Path, tmp_path: Path) -> None:
    """The shortest header holds counts alone, so it has another one. No code is imported for a name in a file."""
    student, contents = file.load(digits_file.read_bytes(), by_number(1).architecture())
    claims = contents.header.claims
    assert claims is not None
    path = tmp_path / "real.fwt"
    file.save(path, file.encode(student, number=1, claims=replace(claims, total=claims.total - 0.25), task="digits"))
    ran = run("verify", path, "--json")
    assert ran.code == 0 and ran.json[0]["task"] == "digits" and ran.json[0]["ok"]
    assert run("inspect", path, "--json").json["number"] == 1


def test_inspect_adds_up(digits_file: Path, user_file: Path) -> None:
    for path in (digits_file, user_file):
        found = run("inspect", path, "--json").json
        assert found["bytes"] == path.stat().st_size
        assert found["overhead"] + sum(each["bytes"] for each in found["tensors"]) == found["bytes"]
    assert "claimed when it was saved, not measured now" in run("inspect", digits_file).out


def test_inspect_reads_a_users_file_with_and_without_its_task(user_file: Path, user_task: str) -> None:
    alone = run("inspect", user_file, "--json").json
    assert alone["task"] == user_task and alone["claimed"]["samples"] == 50
    assert [each["name"] for each in alone["tensors"]] == ["shift", "first.weight", "second.bias"]
    named = run("inspect", user_file, "--task", user_task, "--json").json
    assert named["task"] == "mine" and named["claimed"]["metric"] == "accuracy"
    assert run("inspect", user_file).code == run("inspect", user_file, "--task", user_task).code == 0


def test_the_size_of_a_users_file_is_bounded(user_file: Path, tmp_path: Path) -> None:
    for command in (("inspect", user_file), ("unpack", user_file, "-o", tmp_path / "out.safetensors")):
        ran = run(*command, "--max-bytes", "1kB")
        assert ran.code == 1 and "over the limit of 1000" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"hello", b"fwt", b"fwt\x01", bytes(range(256))])
def test_what_is_no_fwt_file_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.fwt"
    path.write_bytes(content)
    for command in (("inspect", path), ("verify", path), ("unpack", path, "-o", tmp_path / "out.safetensors")):
        ran = run(*command)
        assert ran.code == 1 and ran.err.startswith("error: ") and "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == [path]


def test_a_terminal_is_not_steered_by_a_file(user_file: Path, tmp_path: Path) -> None:
    """Names with escape sequences are shown, not obeyed."""
    reader = Reader(open_sealed(user_file.read_bytes()))
    assert reader.unsigned() == file.PACKED
    header = zlib.decompress(reader.blob()).decode()
    evil = header.replace("first.weight", "\\u001b[2J.wght").replace("second.bias", "[bold]x[/b]")
    path = tmp_path / "evil.fwt"
    path.write_bytes(_packed(evil, open_sealed(user_file.read_bytes())[-reader.remaining :]))
    ran = run("inspect", path)
    assert ran.code == 0, ran.err
    assert "\x1b" not in ran.out and "\\x1b[2J" in ran.out and "[bold]x[/b]" in ran.out


def _packed(header: str, coded: bytes) -> bytes:
    """A user's file with this header."""
    writer = Writer()
    writer.unsigned(file.PACKED)
    writer.blob(zlib.compress(header.encode()))
    return seal(writer.finish() + coded)


def test_claims_that_cannot_be_are_no_crash(digits_file: Path, tmp_path: Path) -> None:
    student, _ = file.load(digits_file.read_bytes(), by_number(1).architecture())
    huge = 1 << 60
    path = tmp_path / "huge.fwt"
    claims = file.Claims(samples=huge, total=huge // 2, parent=huge // 2, lost=huge // 4)
    file.save(path, file.encode(student, number=1, claims=claims))
    assert run("inspect", path).code == 0
    ran = run("verify", path)
    assert ran.code == 1 and "not ok" in ran.err


def test_unpacked_tensors_are_those_of_the_model(digits_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "digits.safetensors"
    ran = run("unpack", digits_file, "-o", out, "--json")
    assert ran.code == 0 and ran.json["bytes"] == out.stat().st_size and ran.json["tensors"] == 10
    student, _ = file.load(digits_file.read_bytes(), by_number(1).architecture())
    with safe_open(out, "pt") as opened:
        assert set(opened.keys()) == set(student.base.state_dict())
        for name, tensor in student.base.state_dict().items():
            assert torch.equal(opened.get_tensor(name), tensor)
    again = run("unpack", digits_file, "-o", out)
    assert again.code == 1 and "--force" in again.err
    assert run("unpack", digits_file, "-o", out, "--force").code == 0


def test_tied_tensors_are_unpacked_once(user_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    assert run("unpack", user_file, "-o", out).code == 0
    with safe_open(out, "pt") as opened:
        assert set(opened.keys()) == {"shift", "first.weight", "second.bias"}
        assert json.loads(opened.metadata()["ties"]) == {"first.weight": ["second.weight"]}
