"""``featherweight reproduce``."""

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli.compress import carry_out, save
from featherweight.cli.guard import AsJson, Debug
from featherweight.cli.options import Force
from featherweight.cli.output import emit, show
from featherweight.cli.papers import paper_record
from featherweight.cli.places import check_checkpoint, check_output


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
    force: Force = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run a paper's recipe and set what it gives beside what the paper claims, with our deviations."""
    from featherweight.cli.compress import recipe_of
    from featherweight.papers import find
    from featherweight.report import terminal
    from featherweight.search.budget import Effort
    from featherweight.tasks import find as find_task

    found = find(paper)
    on = find_task(task or found.tasks[0])
    if output is not None:
        check_output(output, force)
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    result, parent = carry_out(on, recipe_of(paper, on), None, Effort(), checkpoint)
    told = save(result, parent, output)
    if as_json:
        emit({"paper": paper_record(found), "file": None if output is None else str(output), "ours": told.to_json()})
        return
    claims = [(claim.testbed, claim.statement, claim.checked) for claim in found.claims]
    show(f"{found.reference}", "", terminal.table(("testbed", "the paper claims", "read in"), claims), "", "ours:")
    show(*terminal.summary(told), "", *(f"deviation: {each}" for each in found.deviations))
    if output is not None:
        show(f"written to {output}")
