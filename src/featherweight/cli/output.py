"""What goes to stdout and stderr."""

import json
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def emit(record: Any) -> None:
    """One JSON value on stdout; what is not a finite number becomes null."""
    typer.echo(json.dumps(_finite(record), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case _:
            return value


def printable(text: str) -> str:
    """The text without control characters, which a file from elsewhere could steer a terminal with."""
    return "".join(c if c.isprintable() or c in "\n" else c.encode("unicode_escape").decode() for c in text)


def console(*, stderr: bool = False) -> "Console":
    """Plain where it is no terminal or NO_COLOR is set; tables fold in narrow terminals."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def show(*parts: "RenderableType") -> None:
    """Print renderables and lines of text on stdout; lines are wrapped by the terminal alone."""
    out = console()
    for part in parts:
        if isinstance(part, str):
            out.print(printable(part), soft_wrap=True)
        else:
            out.print(part)


def say(text: str) -> None:
    """A line on stderr."""
    print(printable(text), file=sys.stderr)


@contextmanager
def warnings_said(ours: type[Warning]) -> Iterator[None]:
    """Warnings of our own as lines on stderr, without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ours)
        shown = warnings.showwarning

        def show_warning(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, ours):
                say(f"warning: {message}")
            else:
                shown(message, category, filename, lineno, file, line)

        warnings.showwarning = show_warning
        yield
