"""Whose a file is. Nothing in a file ever causes an import: a user's task is named on the command line."""

from typing import TYPE_CHECKING

from featherweight.coding import Reader, open_sealed
from featherweight.core.errors import SelectionError, TaskError
from featherweight.core.task import Task
from featherweight.file import Header
from featherweight.tasks import by_number, find

if TYPE_CHECKING:
    from torch import nn

LIMIT = 1 << 30


def header_of(data: bytes) -> Header:
    """What a file says of its task, without its codes."""
    return Header.read(Reader(open_sealed(data)))


def task_of(data: bytes, named: str | None) -> Task:
    """The task that ``--task`` names, else the built-in one of the file's number."""
    header = header_of(data)
    if named is None:
        if header.number is None:
            hint = f"it was made from {header.task}. " if header.task else ""
            raise TaskError(
                f"the file is of a task that is not built in: {hint}Name the task with --task file.py:function; "
                "no file ever causes code to be imported"
            )
        return by_number(header.number)
    task = find(named)
    if None not in (task.number, header.number) and task.number != header.number:
        raise SelectionError(f"the file is of built-in task {header.number}, and --task {named} is {task.number}")
    return task


def architecture_of(data: bytes, named: str | None) -> "tuple[Task | None, nn.Module | None]":
    """The task and its architecture; neither for a user's file without ``--task``, which names its tensors itself."""
    if named is None and header_of(data).number is None:
        return None, None
    task = task_of(data, named)
    return task, task.architecture()


def limit(max_bytes: int | None) -> int:
    """Bytes that a file's tensors may take decoded."""
    return LIMIT if max_bytes is None else max_bytes
