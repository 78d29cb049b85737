"""Tasks of the user's own: ``my_task.py:function``."""

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from featherweight.core.errors import TaskError
from featherweight.core.task import Task


def load_task(spec: str) -> Task:
    """Run the file of ``file.py:function`` and return the task that the function, called without arguments, returns.

    The file can import its neighbours: while it and the function run, its folder is first on the import path. What the
    task's functions import later has to be on the path by itself.
    """
    path, name = _parse(spec)
    with _neighbours(path.parent):
        function = _find(path, name, _run(path))
        made = _call(path, name, function)
    if not isinstance(made, Task):
        raise TaskError(
            f"{path}, line {_line(function)}: {name}() returned {type(made).__name__}, not a featherweight Task; end "
            "it with `return Task(name=..., architecture=..., model=..., example=...)`"
        )
    return replace(made, source=spec, number=None)


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """``folder`` first on the import path; what else the user's file adds to the path stays there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))


def _parse(spec: str) -> tuple[Path, str]:
    """The file and the function; the last colon counts, since Windows paths have one too."""
    file, colon, function = spec.rpartition(":")
    if not colon or not function.isidentifier():
        raise TaskError(f"{spec!r} names no function; write it as file.py:function, such as my_task.py:task")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise TaskError(f"there is no file {path}; {spec!r} is looked up from {Path.cwd()}")
    return path, function


def _run(path: Path) -> ModuleType:
    """The module of the file, under a name of its own.

    It is compiled here and not by the import system, whose cached bytecode goes by seconds and can be out of date, and
    which would write a ``__pycache__`` next to the user's file.
    """
    name = f"featherweight_task_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = spec_from_file_location(name, path)
    if spec is None:
        raise TaskError(f"{path} is no Python file; its name has to end in .py")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _raised(path, error) from error
    return module


def _find(path: Path, function: str, module: ModuleType) -> Callable[..., Any]:
    found = getattr(module, function, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    if found is not None:
        raise TaskError(f"{path}: `{function}` is no function but {type(found).__name__}; write `def {function}():`")
    there = [name for name, value in vars(module).items() if _own_function(value, module)]
    close = get_close_matches(function, there, 1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise TaskError(f"{path} has no function {function!r}; {meant}it has: {', '.join(there) or 'none'}")


def _own_function(value: Any, module: ModuleType) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__


def _call(path: Path, name: str, function: Callable[..., Any]) -> Any:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        line = _line(function)
        raise TaskError(f"{path}, line {line}: {name}() is called without arguments, but {error}") from error
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise _raised(path, error) from error


def _line(function: Callable[..., Any]) -> int | str:
    """The line on which a function begins."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code.co_firstlineno if code else "?"


def _raised(path: Path, error: BaseException) -> TaskError:
    """The error, with the last line of the user's file that led to it."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return TaskError(f"{path}, line {error.lineno}: {type(error).__name__}: {error.msg}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    return TaskError(f"{where}: {type(error).__name__}: {error}")
