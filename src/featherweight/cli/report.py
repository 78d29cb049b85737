"""``featherweight report``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherweight.cli.guard import AsJson, Debug
from featherweight.cli.options import Force, MaxBytes, TaskOption
from featherweight.cli.output import emit, show
from featherweight.cli.places import check_output

if TYPE_CHECKING:
    from featherweight.core.task import Task
    from featherweight.engines.compare import Comparison
    from featherweight.report.report import Method


def report(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .fwt file.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page to write, such as report.html; if not given, a short version."),
    ] = None,
    task: TaskOption = None,
    measurement: Annotated[
        list[Path] | None,
        typer.Option("--measurement", metavar="FILE", help="What `measure --save` wrote; may be given again."),
    ] = None,
    max_bytes: MaxBytes = None,
    force: Force = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write what a compression did as one page of HTML: size, quality, error by layer, speed, recipe.

    Quality is measured again, speed only where measurements are given. The page loads nothing from elsewhere. A recipe
    that was saved beside the file, as FILE.txt, is shown.
    """
    if output is not None:
        check_output(output, force)
    from featherweight import file as files
    from featherweight.cli.opening import limit, task_of
    from featherweight.report import figures, short
    from featherweight.report.page import page
    from featherweight.report.report import of_file

    data = files.read(file)
    of = task_of(data, task)
    found = [comparison(path, len(data)) for path in measurement or []]
    name = Path(file).name
    told = of_file(name, data, of, method=method(data, file, of), comparisons=found, max_bytes=limit(max_bytes))
    written = None if output is None else files.save(output, page(told).encode())
    if as_json:
        emit({"file": file, "page": None if output is None else str(output), **told.to_json()})
    elif output is None or written is None:
        show(*short.report(told))
    else:
        show(f"{figures.size(written)} written to {output}")


def comparison(path: Path, size: int) -> "Comparison":
    """What ``measure --save`` wrote of a file of ``size`` bytes."""
    import json

    from featherweight.core.errors import EngineError, FeatherweightError
    from featherweight.engines.compare import Comparison

    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found, measured = Comparison.from_json(record), record["bytes"]
    except OSError as error:
        raise FeatherweightError(f"{path} cannot be read: {error.strerror or error}") from error
    except (EngineError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FeatherweightError(
            f"{path} is no measurement ({type(error).__name__}: {error}); make one with `featherweight measure --save`"
        ) from error
    if measured != size:
        raise FeatherweightError(
            f"{path} was measured on a file of {measured} bytes, and this one has {size}; measure this file with "
            "`featherweight measure FILE --save`"
        )
    return found


def method(data: bytes, path: str, task: "Task") -> "Method":
    """The paper of the file's recipe, if it is one, and the plan that was saved beside the file."""
    from featherweight.cli.opening import header_of
    from featherweight.papers import PAPERS
    from featherweight.report.report import Method

    beside = Path(path).with_suffix(".txt")
    plan = beside.read_text(encoding="utf-8", errors="replace").rstrip("\n") if beside.is_file() else None
    name = header_of(data).recipe
    if name not in PAPERS:
        return Method(plan)
    paper = PAPERS[name]()
    return Method(plan, paper.reference, paper.claims, paper.deviations, name)
