"""``featherweight compress``."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featherweight.cli.guard import AsJson, Debug
from featherweight.cli.output import emit, show, warnings_said
from featherweight.cli.places import check_checkpoint, check_output
from featherweight.cli.processes import Processes, check_processes, helped
from featherweight.cli.sizes import parse_share, parse_size

if TYPE_CHECKING:
    from torch import nn

    from featherweight.core.stage import Budget, Priced, Recipe
    from featherweight.core.task import Task
    from featherweight.report.summary import Summary
    from featherweight.result import Result
    from featherweight.search.budget import Effort


def compress(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="A built-in task (see `featherweight tasks`), or my_task.py:function.")
    ],
    recipe: Annotated[
        str | None,
        typer.Option(help="A paper's recipe (see `papers`), int8, int7, int8-dynamic, int8-weights or int4-weights."),
    ] = None,
    max_size: Annotated[
        int | None,
        typer.Option(parser=parse_size, metavar="SIZE", help="At most this size: 17kB, 17KiB, 1.5MB, 17200."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0.0, help="At most this loss of quality, in the task's unit, on its selection data."),
    ] = None,
    max_macs: Annotated[
        float | None,
        typer.Option(parser=parse_share, metavar="SHARE", help="Cut channels to this share of the operations: 50%."),
    ] = None,
    max_parameters: Annotated[
        float | None,
        typer.Option(parser=parse_share, metavar="SHARE", help="Cut channels to this share of the parameters."),
    ] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(
            parser=parse_share, metavar="SHARE", help="Cut channels to this share of the time on --engine, measured."
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="Of --max-latency: onnxruntime, openvino, pytorch.")] = "onnxruntime",
    batch: Annotated[int, typer.Option(min=1, help="Of --max-latency: samples in a batch.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Of --max-latency: threads.")] = 1,
    recover: Annotated[
        int, typer.Option(min=0, metavar="EPOCHS", help="Learn so long from the original once channels are cut.")
    ] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; TASK.fwt if not given.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Recipes that a search tries at most.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training data that a trial prunes in.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep a recipe's run in this folder, and go on from there if it was stopped.")
    ] = None,
    processes: Processes = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done; read no data, write nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make the model of a task small and write it as a .fwt file.

    With --recipe, by a published method or to a given precision; --max-drop beside it lets the layers that mind most
    stay floats. A recipe with a price of a bit (watersic) takes --max-size and --max-drop: the price is then searched.
    With --max-size, --max-drop or both alone, by a search for a scheme a tensor. With --max-macs, --max-parameters or
    --max-latency, alone or before a recipe, by cutting channels: those that matter least, until the limit is kept.
    """
    shares = {"macs": max_macs, "parameters": max_parameters, "latency": max_latency}
    limits = {name: share for name, share in shares.items() if share is not None}
    _check_usage(recipe, max_size, max_drop, trials, epochs, checkpoint, processes, limits)
    from featherweight.core.stage import Budget
    from featherweight.search.budget import Effort

    asked = partial(_asked, task, recipe, max_size, max_drop, limits, engine, batch, threads, recover)
    found, chosen = asked()
    check_processes(processes, chosen)
    budget = None if max_size is None and max_drop is None else Budget(max_size, max_drop)
    effort = Effort(**{key: value for key, value in (("trials", trials), ("epochs", epochs)) if value is not None})
    if dry_run:
        _print_plan(found, chosen, budget, effort, as_json)
        return
    path = output or Path(f"{found.name}.fwt")
    check_output(path, force)
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    with helped(processes, asked, checkpoint):
        result, parent = carry_out(found, chosen, budget, effort, checkpoint)
    print_result(save(result, parent, path), path, as_json)


def _asked(
    task: str,
    recipe: str | None,
    max_size: int | None,
    max_drop: float | None,
    limits: Mapping[str, float],
    engine: str,
    batch: int,
    threads: int,
    recover: int,
) -> "tuple[Task, Recipe | Priced | None]":
    """The task, and the recipe that is asked for, with channels cut before it."""
    from featherweight.tasks import find

    found = find(task)
    chosen = _chosen(recipe, found, max_size, max_drop)
    for kind, share in limits.items():
        chosen = _narrowed(found, kind, share, engine, batch, threads, recover, chosen)
    return found, chosen


def _check_usage(
    recipe: str | None,
    max_size: int | None,
    max_drop: float | None,
    trials: int | None,
    epochs: int | None,
    checkpoint: Path | None,
    processes: int,
    narrow: Mapping[str, float],
) -> None:
    limited = max_size is not None or max_drop is not None
    if recipe is None and not limited and not narrow:
        raise typer.BadParameter(
            "give either --recipe NAME, or limits: --max-size SIZE, --max-drop DROP, or both; or --max-macs SHARE, "
            "--max-parameters SHARE or --max-latency SHARE"
        )
    if len(narrow) > 1:
        raise typer.BadParameter(
            "channels are cut to one limit: give one of --max-macs, --max-parameters, --max-latency"
        )
    if narrow and limited:
        raise typer.BadParameter("channels are cut to a share; limits of size and drop are of another run, on its file")
    if recipe is not None and (trials or epochs):
        raise typer.BadParameter("--trials and --epochs are of a search; a recipe has its own number of epochs")
    if limited and checkpoint is not None:
        raise typer.BadParameter("--checkpoint is for one run of a --recipe; limits make several, and short ones")
    if max_drop is not None and processes > 1:
        raise typer.BadParameter("--processes is for one run of a --recipe; limits make several")


def _narrowed(
    task: "Task",
    kind: str,
    share: float,
    engine: str,
    batch: int,
    threads: int,
    epochs: int,
    recipe: "Recipe | Priced | None",
) -> "Recipe":
    """The recipe, with channels cut to a share of a cost before it."""
    from featherweight.channels.exchange import Exchange
    from featherweight.core.stage import Priced
    from featherweight.costs.latency import Latency
    from featherweight.costs.layers import Macs, Parameters
    from featherweight.engines import find
    from featherweight.search.channels import Narrow
    from featherweight.search.narrowing import narrowed, narrowing

    rule: Narrow
    match kind:
        case "macs":
            rule = Narrow(share, Macs(), least=4)
        case "parameters":
            rule = Narrow(share, Parameters(), least=4)
        case _:
            rule = Exchange(share, Latency(find(engine), batch, threads), step=8, least=4)
    plain = recipe.at(recipe.price) if isinstance(recipe, Priced) else recipe
    return narrowed(narrowing(rule, task, epochs), plain)


def _chosen(name: str | None, task: "Task", max_size: int | None, max_drop: float | None) -> "Recipe | Priced | None":
    """The recipe of this name; at any price of a bit, where there are limits and it has one."""
    from featherweight.papers import find
    from featherweight.search.precision import PRECISIONS

    if name is None:
        return None
    priced = None if name in PRECISIONS else find(name, also=PRECISIONS).priced
    if priced is not None and (max_size is not None or max_drop is not None):
        return priced(task.name if task.number is not None else "")
    if max_size is not None:
        raise typer.BadParameter(
            "--max-size is of a search, or of a recipe with a price of a bit (watersic); this one has no number to turn"
        )
    return recipe_of(name, task)


def recipe_of(name: str, task: "Task") -> "Recipe":
    """A recipe of a precision; or a paper's, as tuned for a built-in task, or its general one."""
    from featherweight.papers import find
    from featherweight.search.precision import PRECISIONS

    if name in PRECISIONS:
        return PRECISIONS[name]()
    return find(name, also=PRECISIONS).recipe(task.name if task.number is not None else "")


def carry_out(
    task: "Task", recipe: "Recipe | Priced | None", budget: "Budget | None", effort: "Effort", checkpoint: Path | None
) -> "tuple[Result, nn.Module]":
    """Compress with progress on stderr; the original model, built once, comes along."""
    from featherweight.cli.progress import Bars
    from featherweight.compression import compress as run
    from featherweight.core.errors import SeenDataWarning

    parent = task.model()
    with warnings_said(SeenDataWarning), Bars(task, effort.trials if recipe is None else None) as bars:
        result = run(
            replace(task, model=lambda: parent),
            recipe,
            budget,
            effort=effort,
            checkpoint=checkpoint,
            watch=bars.watch,
            tell=bars.tell,
        )
    return result, parent


def save(result: "Result", parent: "nn.Module", path: Path | None) -> "Summary":
    """Write the file, where one is wanted, and sum up."""
    from featherweight.report.summary import summarize

    size = result.save(path) if path is not None else result.size
    return summarize(result, parent, size)


def print_result(told: "Summary", path: Path, as_json: bool) -> None:
    from featherweight.report import terminal

    if as_json:
        emit({"file": str(path), **told.to_json()})
    else:
        show(*terminal.summary(told), f"written to {path}")


def _print_plan(
    task: "Task", recipe: "Recipe | Priced | None", budget: "Budget | None", effort: "Effort", as_json: bool
) -> None:
    from featherweight.core.plan import plan
    from featherweight.core.stage import Priced
    from featherweight.report import outlook

    model = task.architecture()
    if recipe is not None:
        planned = plan(model, recipe.at(recipe.price) if isinstance(recipe, Priced) else recipe)
        record: dict[str, Any] = outlook.plan_record(planned)
        lines = [*outlook.plan_lines(planned)]
        if isinstance(recipe, Priced):
            record["price"] = recipe.price
            lines.append(f"tried at prices of a bit from {recipe.price:g} on, until a file keeps to the limits")
        elif budget is not None:
            record |= {"max_drop": budget.drop, "judged_on": outlook.judged_on(task)}
            lines += outlook.fall_back_lines(task, budget)
    else:
        assert budget is not None
        ahead = outlook.search_outlook(task, model, budget, effort)
        record, lines = outlook.search_record(ahead), [*outlook.search_lines(ahead)]
    if as_json:
        emit({"dry_run": True, "task": task.name, **record})
    else:
        show(*lines, "dry run: nothing was trained, nothing was written")
