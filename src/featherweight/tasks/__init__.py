"""Tasks: a model, its data, its loss and its quality. Built in, or from a user's file."""

from collections.abc import Callable
from difflib import get_close_matches

from featherweight.core.errors import SelectionError
from featherweight.core.task import Task
from featherweight.tasks import cifar, digits, imagenet, minilm, mnist, shakespeare
from featherweight.tasks.data import Tensors, data_folder
from featherweight.tasks.user import load_task

BUILT_IN: dict[str, Callable[[], Task]] = {
    "digits": digits.task,
    "mnist-lenet300": mnist.mnist_lenet300,
    "mnist-lenet5": mnist.mnist_lenet5,
    "fashion-lenet5": mnist.fashion_lenet5,
    "cifar10-resnet20": cifar.resnet20,
    "cifar10-resnet32": cifar.resnet32,
    "cifar10-resnet44": cifar.resnet44,
    "cifar10-resnet56": cifar.resnet56,
    "imagenet-lite0": imagenet.task,
    "minilm": minilm.task,
    "shakespeare-lstm": shakespeare.lstm,
    "shakespeare-transformer": shakespeare.transformer,
    "digits-lstm": digits.lstm,
}
"""All built-in tasks by name. Making one is cheap: data is read when the task's functions are called."""

__all__ = ["BUILT_IN", "Tensors", "by_number", "data_folder", "find", "load_task"]


def find(name_or_path: str) -> Task:
    """The built-in task of this name, or the user's task at ``file.py:function``."""
    if name_or_path in BUILT_IN:
        return BUILT_IN[name_or_path]()
    if ":" in name_or_path or name_or_path.endswith(".py"):
        return load_task(name_or_path)
    close = get_close_matches(name_or_path, BUILT_IN, 1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise SelectionError(
        f"there is no task {name_or_path!r}; {meant}built in are {', '.join(BUILT_IN)}, "
        "and a task of your own is file.py:function"
    )


def by_number(number: int) -> Task:
    """The built-in task that a file names by this number."""
    tasks = [make() for make in BUILT_IN.values()]
    for task in tasks:
        if task.number == number:
            return task
    known = ", ".join(f"{task.number} {task.name}" for task in tasks)
    raise SelectionError(f"there is no task of number {number}; known are {known}. A newer version may know it")
