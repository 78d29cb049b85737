"""``featherweight inspect``."""

from typing import Annotated

import typer

from featherweight.cli.guard import AsJson, Debug
from featherweight.cli.options import MaxBytes, TaskOption
from featherweight.cli.output import emit, show


def inspect(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .fwt file.")],
    task: TaskOption = None,
    max_bytes: MaxBytes = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what is in a file: task, claims, and where the bytes go. The model is not run.

    What a file claims was measured by whoever saved it; `verify` measures it again.
    """
    from featherweight import file as files
    from featherweight.cli.opening import architecture_of, limit
    from featherweight.report import records, terminal

    data = files.read(file)
    found, model = architecture_of(data, task)
    contents = files.decode(data, model, max_bytes=limit(max_bytes))
    name, quality = (found.name, found.quality) if found is not None else (None, None)
    if as_json:
        emit(records.contents_record(file, contents, name, quality))
    else:
        show(*terminal.contents(file, contents, name, quality))
