"""Fetching the publishers' files: only what is missing, checked, and never half a file in place."""

import hashlib
import os
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from featherweight.core.errors import DataError
from featherweight.tasks.data import VARIABLE

BLOCK = 1 << 18
TIMEOUT = 30.0
"""Seconds without an answer after which an address counts as out of reach."""


@dataclass(frozen=True)
class Published:
    """A file as its publisher offers it: its name, the addresses that have it, and the MD5 of its content."""

    name: str
    addresses: tuple[str, ...]
    md5: str


def fetch(file: Published, root: Path, inside: str = "") -> Path:
    """Put ``file`` into the folder ``inside`` of the data folder ``root`` and return its path.

    The first address that has the right content wins.
    """
    path = root / inside / file.name
    reasons = []
    for address in file.addresses:
        try:
            with _in_place(path) as out:
                _download(address, file, out)
            return path
        except (OSError, ValueError, HTTPException) as error:
            reasons.append(f"{address}: {error}")
    place = f"in {inside} of the folder" if inside else "in the folder"
    raise DataError(
        f"{file.name} is not in {path.parent} and could not be fetched ({'; '.join(reasons)}). "
        f"Put it there, or have it {place} that the environment variable {VARIABLE} names"
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write the whole file or nothing."""
    with _in_place(path) as out:
        out.write(content)


@contextmanager
def _in_place(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at ``path`` when the block ends well, and leaves no trace otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
        os.chmod(draft, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _download(address: str, file: Published, out: BinaryIO) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(address, timeout=TIMEOUT) as answer, _bar() as progress:
        length = answer.headers.get("Content-Length")
        bar: TaskID = progress.add_task(file.name, total=int(length) if length else None)
        while block := answer.read(BLOCK):
            digest.update(block)
            out.write(block)
            progress.advance(bar, len(block))
    if digest.hexdigest() != file.md5:
        raise ValueError(f"the content has MD5 {digest.hexdigest()}, published is {file.md5}")


def _bar() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
