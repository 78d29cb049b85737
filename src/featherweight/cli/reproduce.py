"""``featherweight reproduce``."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherweight.cli.compress import carry_out, recipe_of, save
from featherweight.cli.guard import AsJson, Debug
from featherweight.cli.options import Force
from featherweight.cli.output import emit, show
from featherweight.cli.papers import paper_record
from featherweight.cli.places import check_checkpoint, check_folder, check_output
from featherweight.cli.processes import Processes, check_processes, helped

if TYPE_CHECKING:
    from featherweight.core.stage import Recipe
    from featherweight.core.task import Task
    from featherweight.papers.measurement import Measurement
    from featherweight.report.summary import Summary


def reproduce(
    paper: Annotated[str, typer.Argument(metavar="PAPER", help="A paper's name (see `featherweight papers`).")],
    task: Annotated[
        str | None, typer.Option(help="The task to run it on; the first of the paper's own if not given.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the result to this file; nothing if not given.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep the run in this folder, and go on from there if it was stopped.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write what was measured into this folder, as PAPER.TASK.json.")
    ] = None,
    processes: Processes = 1,
    force: Force = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run a paper's recipe and set what it gives beside what the paper claims, with our deviations."""
    import time

    from featherweight.papers import find
    from featherweight.report import terminal
    from featherweight.search.budget import Effort

    found = find(paper)
    asked = partial(_asked, paper, task or found.tasks[0])
    on, recipe = asked()
    check_processes(processes, recipe)
    if output is not None:
        check_output(output, force)
    if record is not None:
        check_folder(record)
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    start = time.monotonic()
    with helped(processes, asked, checkpoint):
        result, parent = carry_out(on, recipe, None, Effort(), checkpoint)
    told = save(result, parent, output)
    if record is not None:
        keep(record, measured(found.name, recipe, told, time.monotonic() - start))
    if as_json:
        emit({"paper": paper_record(found), "file": None if output is None else str(output), "ours": told.to_json()})
        return
    claims = [(claim.testbed, claim.statement, claim.checked) for claim in found.claims]
    show(f"{found.reference}", "", terminal.table(("testbed", "the paper claims", "read in"), claims), "", "ours:")
    show(*terminal.summary(told), "", *(f"deviation: {each}" for each in found.deviations))
    if output is not None:
        show(f"written to {output}")


def _asked(paper: str, task: str) -> "tuple[Task, Recipe]":
    from featherweight.tasks import find

    found = find(task)
    return found, recipe_of(paper, found)


def measured(paper: str, recipe: "Recipe", told: "Summary", seconds: float) -> "Measurement":
    """The record of a run. Raises ``TaskError`` where the task has no evaluation data whose samples can be counted."""
    import torch

    from featherweight.core.errors import TaskError
    from featherweight.papers.measurement import Measurement

    standing = told.standing
    if standing is None or standing.samples is None:
        raise TaskError(f"task {told.task!r} counts no evaluation samples, so there is no record; leave --record out")
    return Measurement(
        paper=paper,
        task=told.task,
        digest=recipe.digest,
        bytes_before=told.bytes_before,
        bytes=told.bytes_after,
        metric=standing.metric,
        unit=standing.unit,
        before=standing.before,
        after=standing.after,
        samples=standing.samples,
        p_value=standing.p_value,
        epochs=recipe.epochs,
        seeds=recipe.seeds,
        seconds=round(seconds),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def keep(folder: Path, found: "Measurement") -> None:
    import json

    from featherweight.file import save as written

    written(folder / found.name, (json.dumps(found.to_json(), indent=1) + "\n").encode())
