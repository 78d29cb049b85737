"""Texts: tiny Shakespeare, and the docstrings of Python's standard library."""

import ast
import inspect
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from featherweight.core.errors import DataError
from featherweight.tasks.data import data_folder
from featherweight.tasks.download import Published, fetch

SHAKESPEARE = Published(
    "tinyshakespeare.txt",
    ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
    "6fb458f1232090904fb40fe944165e91",
)
"""Speeches of Shakespeare's plays, 1,115,394 characters of 65 kinds (Karpathy, "The unreasonable effectiveness of
recurrent neural networks", 2015)."""
CHARACTERS = 1_115_394

MODULES = (
    "argparse", "ast", "asyncio/base_events", "asyncio/tasks", "bdb", "bisect", "calendar", "cmd", "codecs",
    "collections/__init__", "concurrent/futures/_base", "configparser", "contextlib", "copy", "csv", "dataclasses",
    "difflib", "dis", "doctest", "email/message", "enum", "fileinput", "fractions", "ftplib", "functools", "gettext",
    "gzip", "heapq", "http/client", "http/cookiejar", "imaplib", "inspect", "ipaddress", "json/decoder",
    "json/encoder", "locale", "logging/__init__", "logging/handlers", "mailbox", "mimetypes", "multiprocessing/pool",
    "netrc", "os", "pdb", "pickle", "pickletools", "platform", "poplib", "pprint", "pydoc", "queue", "random",
    "sched", "selectors", "shelve", "shlex", "shutil", "smtplib", "socket", "socketserver", "ssl", "statistics",
    "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "timeit", "tokenize", "trace",
    "traceback", "types", "typing", "unittest/case", "unittest/mock", "urllib/parse", "urllib/request", "uuid",
    "warnings", "weakref", "webbrowser", "xml/dom/minidom", "zipapp",
)  # fmt: skip
"""Of the standard library, in the order in which they are read; all of Python 3.11 to 3.13 have them."""


def shakespeare() -> str:
    """The whole text, from the data folder; fetched if it is missing."""
    path = data_folder() / SHAKESPEARE.name
    if not path.exists():
        path = fetch(SHAKESPEARE, data_folder())
    try:
        text = path.read_bytes().decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Delete it and it will be fetched again") from error
    if len(text) != CHARACTERS:
        raise DataError(f"{path} has {len(text)} characters, not {CHARACTERS}. Delete it and it will be fetched again")
    return text


def docstring_paragraphs(count: int, words: int = 6, most: int = 15) -> list[str]:
    """``count`` first paragraphs, of ``words`` words or more, each on one line and each another one.

    They are those of the modules of ``MODULES``, their classes and functions, in the order of the source, at most
    ``most`` of a module. Versions of Python differ in a few of them. Raises ``DataError`` where the library's sources
    are not installed.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    found: dict[str, None] = {}
    for module in MODULES:
        path = folder / f"{module}.py"
        if not path.is_file():
            raise DataError(f"the source {path} of Python's standard library is not there; use a Python that has it")
        own = dict.fromkeys(text for text in _paragraphs(ast.parse(path.read_bytes())) if len(text.split()) >= words)
        found |= dict.fromkeys([text for text in own if text not in found][:most])
        if len(found) >= count:
            return list(found)[:count]
    raise DataError(f"Python's standard library in {folder} has {len(found)} such paragraphs, not {count}")


def _paragraphs(node: ast.AST) -> Iterator[str]:
    """The first paragraph of every docstring, depth first."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node) or ""
        yield " ".join(inspect.cleandoc(docstring).partition("\n\n")[0].split())
    for child in ast.iter_child_nodes(node):
        yield from _paragraphs(child)
