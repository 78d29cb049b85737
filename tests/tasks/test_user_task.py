"""Tasks from a user's file: what works, and that each mistake is told with its file, its line and its cause."""

import sys
from pathlib import Path

import pytest

from featherweight.core.errors import SelectionError, TaskError
from featherweight.tasks import find, load_task

GOOD = """
import torch
from featherweight.core.task import Example, Task

def net():
    return torch.nn.Linear(2, 2)

def task():
    return Task("mine", net, net, lambda: Example((torch.zeros(1, 2),)), number=1)
"""


def write(folder: Path, text: str, name: str = "my_task.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def message(spec: str) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(spec)
    return str(caught.value)


def test_a_good_file_gives_its_task_with_its_source_and_without_a_number(tmp_path: Path) -> None:
    spec = f"{write(tmp_path, GOOD)}:task"
    for task in (load_task(spec), find(spec)):
        assert (task.name, task.source, task.number) == ("mine", spec, None)
        task.example().run(task.model())


def test_a_relative_path_is_kept_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert load_task("my_task.py:task").source == "my_task.py:task"


def test_a_changed_file_is_read_again_and_no_bytecode_is_left(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert load_task(f"{path}:task").name == "mine"
    write(tmp_path, GOOD.replace('"mine"', '"ours"'))  # same size, perhaps within the same second
    assert load_task(f"{path}:task").name == "ours"
    assert not (tmp_path / "__pycache__").exists()


def test_neighbours_can_be_imported_and_the_path_is_put_back(tmp_path: Path) -> None:
    write(tmp_path, "NAME = 'from next door'\n", "next_door_of_my_task.py")
    path = write(tmp_path, "from next_door_of_my_task import NAME\n" + GOOD.replace('"mine"', "NAME"))
    before = sys.path[:]
    assert load_task(f"{path}:task").name == "from next door"
    assert sys.path == before


def test_dataclasses_with_text_annotations_work(tmp_path: Path) -> None:
    head = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass C:\n    x: int = 1\n"
    )
    assert load_task(f"{write(tmp_path, head + GOOD)}:task").name == "mine"


def test_no_function_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert "names no function; write it as file.py:function" in message(str(path))
    assert "names no function" in message(f"{path}:")
    with pytest.raises(TaskError, match="names no function"):
        find(str(path))


def test_no_such_file(tmp_path: Path) -> None:
    assert str(tmp_path / "absent.py") in message(f"{tmp_path / 'absent.py'}:task")


def test_not_a_python_file(tmp_path: Path) -> None:
    assert "has to end in .py" in message(f"{write(tmp_path, GOOD, 'task.txt')}:task")


def test_no_such_function_lists_those_of_the_file_only(tmp_path: Path) -> None:
    told = message(f"{write(tmp_path, 'from os.path import join' + GOOD)}:tsak")
    assert "no function 'tsak'" in told and "did you mean task?" in told
    assert told.endswith("it has: net, task")
    assert message(f"{write(tmp_path, 'x = 1')}:task").endswith("it has: none")


def test_something_that_is_no_function(tmp_path: Path) -> None:
    assert "`task` is no function but int" in message(f"{write(tmp_path, 'task = 5')}:task")


def test_an_exception_in_the_file_or_the_function_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "x = 1\nraise KeyError('lost')\n")
    assert message(f"{path}:task") == f"{path}, line 2: KeyError: 'lost'"
    path = write(tmp_path, "def task():\n    return helper()\n\ndef helper():\n    return int('seven')\n")
    assert f"{path}, line 5: ValueError: invalid literal" in message(f"{path}:task")
    path = write(tmp_path, "import sys\nsys.exit(3)\n")
    assert f"{path}, line 2: SystemExit: 3" in message(f"{path}:task")


def test_an_exception_in_a_library_is_told_with_the_users_line(tmp_path: Path) -> None:
    path = write(tmp_path, "import json\n\n\nx = json.loads('{')\n")
    assert f"{path}, line 4: JSONDecodeError" in message(f"{path}:task")


def test_a_file_that_failed_leaves_no_module_behind(tmp_path: Path) -> None:
    before = set(sys.modules)
    message(f"{write(tmp_path, 'raise RuntimeError')}:task")
    assert set(sys.modules) == before


def test_a_syntax_error(tmp_path: Path) -> None:
    path = write(tmp_path, "x = 1\ndef task(:\n")
    assert f"{path}, line 2: SyntaxError" in message(f"{path}:task")


def test_a_missing_import(tmp_path: Path) -> None:
    path = write(tmp_path, "import no_such_module_anywhere\n")
    assert f"{path}, line 1: ModuleNotFoundError: No module named 'no_such_module_anywhere'" in message(f"{path}:task")


def test_a_wrong_return_type(tmp_path: Path) -> None:
    path = write(tmp_path, "\n\ndef task():\n    return {'name': 'mine'}\n")
    assert f"{path}, line 3: task() returned dict, not a featherweight Task" in message(f"{path}:task")


def test_a_function_that_needs_arguments(tmp_path: Path) -> None:
    path = write(tmp_path, "def task(size):\n    return size\n")
    told = message(f"{path}:task")
    assert f"{path}, line 1: task() is called without arguments" in told and "'size'" in told


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(SelectionError, match="did you mean mnist-lenet5.*built in are digits, mnist-lenet300"):
        find("mnist-lenet-5")
