"""``featherweight verify``."""

from typing import TYPE_CHECKING, Annotated

import typer

from featherweight.cli.guard import AsJson, Debug
from featherweight.cli.options import MaxBytes, TaskOption
from featherweight.cli.output import emit, say, show

if TYPE_CHECKING:
    from featherweight.core.errors import FeatherweightError
    from featherweight.result import Verified


def verify(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="One or more .fwt files.")],
    task: TaskOption = None,
    max_bytes: MaxBytes = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure files again on their task's evaluation data and hold them against what they claim.

    Exits with 1 if any file cannot be loaded, claims nothing, or is not as good as it claims.
    """
    from featherweight.report import records, terminal

    outcomes = [_outcome(path, task, max_bytes) for path in files]
    if as_json:
        emit([
            records.failed_record(path, each) if isinstance(each, Exception) else records.verified_record(each)
            for path, each in zip(files, outcomes, strict=True)
        ])  # fmt: skip
    else:
        measured = [each for each in outcomes if not isinstance(each, Exception)]
        if measured:
            show(terminal.verified(measured))
    for path, each in zip(files, outcomes, strict=True):
        if isinstance(each, Exception):
            say(f"error: {each}" if path in str(each) else f"error: {path}: {each}")
        elif not each.ok:
            say(f"not ok: {path}: {_why(each)}")
    if any(isinstance(each, Exception) or not each.ok for each in outcomes):
        raise typer.Exit(1)


def _outcome(path: str, task: str | None, max_bytes: int | None) -> "Verified | FeatherweightError":
    """A file's measurement, or the error that it gives; one bad file does not keep the others from being measured."""
    from featherweight import file
    from featherweight.cli.opening import limit, task_of
    from featherweight.core.errors import FeatherweightError
    from featherweight.result import verify as measure

    try:
        return measure(path, task_of(file.read(path), task), max_bytes=limit(max_bytes))
    except FeatherweightError as error:
        return error


def _why(each: "Verified") -> str:
    if each.claims is None:
        return "the file claims nothing that the measurement could be held against"
    if each.claims.samples != each.measured.samples:
        return f"it claims {each.claims.samples:,} samples, and the task has {each.measured.samples:,}"
    return f"it claims scores of {each.claims.total:g} in sum, and {each.measured.total:g} were measured"
