"""``featherweight compress``: what it writes, what it says, and what it refuses before the long work."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
from torch import nn

from featherweight import file

from .commands import Ran, run

TINY = ("--max-size", "30kB", "--trials", 2, "--epochs", 1)


def test_every_number_in_the_json_is_of_the_file(digits_run: Ran, digits_file: Path, digits_model: nn.Module) -> None:
    path = digits_file
    trials = [line.split(":")[0] for line in digits_run.err.splitlines()]
    assert trials == [f"trial {number} of at most 2" for number in range(1, len(trials) + 1)] != []
    told = digits_run.json
    assert told["bytes"] == path.stat().st_size <= 30_000
    assert told["bytes_before"] == len(safetensors.torch.save(digits_model.state_dict()))
    assert told["ratio"] == pytest.approx(told["bytes_before"] / told["bytes"])
    assert sum(each["bytes"] for each in told["tensors"]) + told["overhead"] == told["bytes"]
    assert all(0 <= each["nonzero"] <= 1 and each["bits_per_weight"] > 0 for each in told["tensors"])
    quality = told["quality"]
    assert quality["samples"] == 599 and quality["drop"] == pytest.approx(quality["before"] - quality["after"])
    assert quality["lost"] - quality["won"] == round(5.99 * quality["drop"])
    assert 0 < quality["p_value"] <= 1
    assert list(path.parent.iterdir()) == [path]


def test_the_text_adds_up_to_the_size(digits_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = run("inspect", digits_file).out
    rows = [line.split() for line in text.splitlines() if line.startswith(("conv", "fc"))]
    overhead = next(line for line in text.splitlines() if line.startswith("envelope and header"))
    sizes = [int(row[-4].replace(",", "")) for row in rows if row[-1] == "%"]
    assert len(sizes) == 10
    assert sum(sizes) + int(overhead.split()[-1]) == digits_file.stat().st_size


def test_what_was_seen_and_left_alone_is_said(user_task: str, tmp_path: Path) -> None:
    ran = run("compress", user_task, "--max-size", "2kB", "--trials", 3, "-o", tmp_path / "mine.fwt")
    assert ran.code == 0, ran.err
    assert "the model has seen this evaluation data" in ran.out
    assert "times smaller" in ran.out and "McNemar" in ran.out and "relative errors" in ran.out
    assert f"written to {tmp_path / 'mine.fwt'}" in ran.out


def test_a_limit_on_the_drop_that_nothing_honest_judges_is_doubted(user_task: str, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "x.fwt", "--trials", 1)
    ran = run("compress", user_task, "--max-drop", 100, *out)
    assert ran.code == 0 and ran.err.startswith("warning: the model of task 'mine' has seen its selection data")
    ran = run("compress", user_task.replace(":task", ":bare"), "--max-drop", 100, *out, "--force")
    assert ran.code == 0 and ran.err.startswith("warning: task 'bare' has no selection data")
    ran = run("compress", user_task.replace(":task", ":judged"), "--max-drop", 100, *out, "--force")
    assert ran.code == 0 and "warning" not in ran.err
    ran = run("compress", user_task, "--max-size", "30kB", *out, "--force")
    assert ran.code == 0 and "warning" not in ran.err  # only the size is limited
    assert "warning: the model of task" in run("compress", user_task, "--max-drop", 1, "--dry-run").out


def test_quality_is_told_on_the_samples_that_no_choice_was_made_on(user_task: str, tmp_path: Path) -> None:
    shared, path = user_task.replace(":task", ":shared"), tmp_path / "shared.fwt"
    ran = run("compress", shared, "--max-size", "2kB", "--trials", 3, "-o", path, "--json")
    assert ran.code == 0, ran.err
    told = ran.json
    assert told["quality"]["samples"] == 50 and told["quality_rest"]["samples"] == 40
    lost, won = (told["quality_rest"][name] for name in ("lost", "won"))
    assert (lost - won) / 40 * 100 == pytest.approx(told["quality_rest"]["drop"])
    text = run("compress", shared, "--max-size", "2kB", "--trials", 3, "-o", path, "--force").out
    rest, whole = text.index("on 40 samples of evaluation data that no choice was made on"), text.index("on 50 samples")
    assert rest < whole  # the honest figure first
    (found,) = run("verify", path, "--task", shared, "--json").json
    assert found["ok"] and found["claimed"]["samples"] == found["measured"]["samples"] == 50
    assert found["measured"]["rest"] == {"samples": 40, "value": pytest.approx(told["quality_rest"]["after"])}
    assert "of 40" in run("verify", path, "--task", shared).out


def test_nothing_is_told_that_was_not_measured(user_task: str, tmp_path: Path) -> None:
    """A task with ``evaluate`` has no samples and no pairs; one without any data has no quality at all."""
    judged, bare = (user_task.replace(":task", name) for name in (":judged", ":bare"))
    ran = run("compress", judged, "--max-size", "2kB", "--trials", 3, "-o", tmp_path / "judged.fwt")
    assert ran.code == 0, ran.err
    assert "evaluate  0 before" in ran.out and "samples" not in ran.out and "McNemar" not in ran.out
    assert "by the task's evaluate()" in ran.err and "%" not in ran.err
    ran = run("compress", bare, "--max-size", "2kB", "--trials", 3, "-o", tmp_path / "bare.fwt")
    assert ran.code == 0 and "quality was not measured" in ran.out
    ran = run("verify", tmp_path / "bare.fwt", "--task", bare, "--json")
    assert ran.code == 1 and ran.json[0]["measured"]["value"] is None and ran.json[0]["claimed"] is None


def test_an_error_in_the_users_own_code_keeps_its_traceback(user_task: str, tmp_path: Path) -> None:
    command = ["compress", user_task.replace(":task", ":broken"), "--max-size", "2kB", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "featherweight.cli", *command], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 1 and "my_task.py" in done.stderr
    assert json.loads(done.stdout)["error"] == {"type": "ZeroDivisionError", "message": "division by zero"}
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_named_after_the_task(user_task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("compress", user_task, "--max-size", "2kB", "--trials", 3).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine.fwt"]


@pytest.mark.parametrize(
    "kind",
    [
        ("--recipe", "deep-compression"),
        ("--recipe", "int8", "--max-drop", "0.5"),
        ("--max-size", "17kB", "--max-drop", "0.5"),
    ],
)
def test_a_dry_run_reads_and_writes_nothing(
    kind: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path / "no data here"))
    ran = run("compress", "mnist-lenet5", *kind, "--dry-run")
    assert ran.code == 0 and "fc1.weight" in ran.out and "nothing was written" in ran.out
    record = run("compress", "mnist-lenet5", *kind, "--dry-run", "--json").json
    assert record["dry_run"] and "fc1.weight" in json.dumps(record)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["int8", "int7", "int8-dynamic", "int8-weights", "int4-weights"])
def test_a_recipe_of_a_precision(user_task: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.fwt"
    ran = run("compress", user_task, "--recipe", name, "-o", path, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["recipe"] == name and ran.json["bytes"] == path.stat().st_size
    kinds = {each["name"]: each["code"] for each in ran.json["tensors"]}
    assert kinds["first.weight"].startswith(f"uniform {name[3]}")


def test_layers_fall_back_where_the_drop_is_limited(user_task: str, tmp_path: Path) -> None:
    """One tied weight is all that the model has: it stays a float, and the reason is told."""
    limited = ("compress", user_task.replace(":task", ":judged"), "--recipe", "int8-weights", "--max-drop")
    ran = run(*limited, 0.001, "-o", tmp_path / "a.fwt", "--json")
    assert ran.code == 0 and [line[:7] for line in ran.err.splitlines() if "trial" in line] == ["trial 1", "trial 2"]
    assert "falls back to floats" in ran.json["left_alone"]["first.weight"]
    ran = run(*limited, 100, "-o", tmp_path / "b.fwt", "--json")
    assert ran.code == 0 and "first.weight" not in ran.json["left_alone"]
    assert "stay floats, one after the other" in run(*limited, 1, "--dry-run").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give either --recipe"),
        (("--recipe", "deep-compression", "--max-size", "9kB"), "this one has no number to turn"),
        (("--recipe", "deep-compression", "--epochs", "2"), "of a search"),
        (("--max-size", "9kB", "--checkpoint", "here"), "--checkpoint is for"),
        (("--recipe", "int8", "--max-drop", "1", "--checkpoint", "here"), "--checkpoint is for"),
        (("--max-size", "nine"), "no size"),
        (("--max-size", "0"), "no size"),
        (("--max-size", "-5kB"), "no size"),
        (("--max-drop", "-1"), "--max-drop"),
        (("--recipe", "int8", "--processes", "2"), "for recipes that train"),
        (("--max-size", "9kB", "--processes", "2"), "for recipes that train"),
        (("--recipe", "lsq", "--max-drop", "1", "--processes", "2"), "for one run"),
        (("--max-size", "9kB", "--trials", "0"), "--trials"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], said: str) -> None:
    ran = run("compress", "digits", *arguments)
    assert ran.code == 2 and ran.out == ""
    assert said in " ".join(ran.err.replace("│", "").split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("digit", "--max-size", "9kB"), "there is no task 'digit'; did you mean digits?"),
        (("digits", "--recipe", "deep-compresion"), "there is no paper 'deep-compresion'; did you mean"),
        (("digits", "--recipe", "int-8"), "there is no paper 'int-8'; did you mean int8?"),
        (("nowhere.py:task", "--max-size", "9kB"), "there is no file"),
        (("digits", "--max-size", "9kB", "-o", "no/such/folder/x.fwt"), "there is no folder no/such/folder"),
        (("digits", "--max-size", "9kB", "-o", "."), "is a folder; name a file"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], said: str) -> None:
    ran = run("compress", *arguments)
    assert ran.code == 1 and ran.out == ""
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1 and said in ran.err


def test_with_json_the_error_is_on_stdout_too() -> None:
    ran = run("compress", "digit", "--max-size", "9kB", "--json")
    assert ran.code == 1 and ran.err.startswith("error: there is no task")
    assert ran.json["error"]["type"] == "SelectionError" and "did you mean digits?" in ran.json["error"]["message"]


def test_debug_shows_the_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "featherweight.cli", "compress", "digit", "--max-size", "9kB", "--debug"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "Traceback" in done.stderr and "SelectionError" in done.stderr


def no_work(*arguments: object, **settings: object) -> None:
    raise AssertionError("the long work was begun")


def test_an_existing_file_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featherweight.compression.compress", no_work)
    path = tmp_path / "mine.fwt"
    path.write_bytes(b"precious")
    ran = run("compress", "digits", *TINY, "-o", path)
    assert ran.code == 1 and "--force" in ran.err
    assert path.read_bytes() == b"precious"


def test_force_overwrites(user_task: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.fwt"
    path.write_bytes(b"old")
    assert run("compress", user_task, "--max-size", "2kB", "--trials", 3, "-o", path, "--force").code == 0
    assert path.read_bytes().startswith(b"fwt")


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featherweight.compression.compress", no_work)

    def refuse(*arguments: object, **settings: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # a chmod would not stop a test that runs as root
    ran = run("compress", "digits", *TINY, "-o", tmp_path / "x.fwt")
    assert ran.code == 1 and "cannot be written to: Permission denied" in ran.err


def test_a_limit_that_cannot_be_met_leaves_no_file(user_task: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.fwt"
    ran = run("compress", user_task, "--max-size", 20, "--trials", 1, "-o", path)
    assert ran.code == 1 and "no trial met 20 bytes" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_a_task_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import torch\n\ndef task():\n    return 1 / 0\n")
    ran = run("compress", f"{path}:task", "--max-size", "9kB")
    assert ran.code == 1 and "line 4: ZeroDivisionError" in ran.err


def test_a_failed_write_leaves_nothing(user_task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: object, data: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file, "write_atomic", full)
    ran = run("compress", user_task, "--max-size", "2kB", "--trials", 3, "-o", tmp_path / "mine.fwt")
    assert ran.code == 1 and "No space left on device" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_exits_with_130(user_task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("featherweight.search.budget.run", interrupt)
    ran = run("compress", user_task, "--max-size", "2kB", "-o", tmp_path / "mine.fwt")
    assert ran.code == 130 and ran.err.startswith("interrupted") and ran.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_in_the_middle_of_a_search(user_task: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "featherweight.cli", "compress", user_task, "--max-drop", "5", "--trials", "99999"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None and process.stderr is not None
    try:
        assert "has seen its selection data" in process.stderr.readline()
        assert process.stderr.readline().startswith("trial 1 of at most 99999")
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and out == ""
    assert "Traceback" not in err and err.splitlines()[-1].startswith("interrupted")
    assert list(tmp_path.iterdir()) == []


def test_a_priced_recipe_takes_limits_and_says_so_beforehand() -> None:
    ran = run("compress", "digits", "--recipe", "watersic", "--max-size", "9kB", "--dry-run")
    assert ran.code == 0 and "tried at prices of a bit from" in ran.out


def test_processes_learn_together(user_task: str, tmp_path: Path) -> None:
    """Each has half of every batch, one of them writes, and what learns is what one process alone would make."""
    command = ("compress", user_task.replace(":task", ":learns"), "--recipe", "lsq", "--json")
    folder = Path(user_task.rpartition(":")[0]).parent
    alone = run(*command, "-o", tmp_path / "alone.fwt")
    assert alone.code == 0 and {path.stem.partition("-")[2] for path in folder.glob("*.asked")} == {"50"}
    together = run(*command, "--processes", 2, "-o", tmp_path / "together.fwt")
    assert together.code == 0, together.err
    halves = [path.stem.partition("-") for path in folder.glob("*-25.asked")]
    assert len({process for process, _, _ in halves}) == 2
    assert together.json["bytes"] == pytest.approx(alone.json["bytes"], rel=0.01)
    assert together.json["quality"] == pytest.approx(alone.json["quality"], abs=5)


def test_an_error_ends_all_processes(user_task: str, tmp_path: Path) -> None:
    """The same in both: said once."""
    damaged = tmp_path / "kept"
    damaged.mkdir()
    (damaged / "checkpoint.safetensors").write_bytes(b"no checkpoint")
    task = user_task.replace(":task", ":learns")
    ran = run("compress", task, "--recipe", "lsq", "--processes", 2, "--checkpoint", damaged, "-o", tmp_path / "x.fwt")
    assert ran.code == 1 and ran.err.count("error: ") == 1 and "delete it" in ran.err
    assert not (tmp_path / "x.fwt").exists()


def test_a_process_that_ends_early_is_told(user_task: str, tmp_path: Path) -> None:
    command = ("compress", user_task.replace(":task", ":leaves"), "--recipe", "lsq", "--processes", 2)
    ran = run(*command, "-o", tmp_path / "x.fwt")
    assert ran.code == 1 and "ended with code 3" in ran.err and "fewer --processes" in ran.err
    assert not (tmp_path / "x.fwt").exists()
