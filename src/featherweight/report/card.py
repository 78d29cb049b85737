"""A paper's card in Markdown, generated from its record."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from featherweight.core.plan import plan
from featherweight.report.figures import probability, quality
from featherweight.report.outlook import plan_lines
from featherweight.tasks import find

if TYPE_CHECKING:
    from featherweight.papers.measurement import Measurement
    from featherweight.papers.paper import Paper
    from featherweight.papers.system import System


def card(paper: "Paper") -> str:
    """Name, reference, idea, claims with how they were checked, our recipe, where it differs, how to run it."""
    return "\n".join(_lines(paper)) + "\n"


def _lines(paper: "Paper") -> Iterator[str]:
    yield from (f"# {paper.name}", "", f"{paper.reference}", "", paper.idea, "")
    yield from ("## What the paper claims", "")
    yield from ("| testbed | claim | read in |", "| --- | --- | --- |")
    for claim in paper.claims:
        yield f"| {_cell(claim.testbed)} | {_cell(claim.statement)} | {_cell(claim.checked)} |"
    yield from ("", "## The recipe", "")
    yield from _recipe(paper)
    yield from ("", "## Where it differs from the paper", "")
    yield from [f"- {each}" for each in paper.deviations] or ["Nowhere that we know of."]
    yield from ("", "## Run it", "", "```", *_commands(paper), "```")


def _recipe(paper: "Paper") -> Iterator[str]:
    """The plan on the first task: stages, sites and schemes, as ``compress --dry-run`` prints them."""
    task = find(paper.tasks[0])
    with torch.random.fork_rng(devices=[]):
        planned = plan(task.architecture(), paper.recipe(task.name))
    yield from (f"On `{task.name}`:", "", "```", *plan_lines(planned), "```")


def _commands(paper: "Paper") -> Iterator[str]:
    for task in paper.tasks:
        yield f"featherweight reproduce {paper.name} --task {task} -o {task}.fwt"
    yield f"featherweight compress my_task.py:task --recipe {paper.name}"


def system_card(system: "System") -> str:
    """Name, reference, idea, what of it is where, what was checked and what not, what came after it."""
    return "\n".join(_system_lines(system)) + "\n"


def _system_lines(system: "System") -> Iterator[str]:
    yield from (f"# {system.name}", "", f"{system.reference}", "", system.idea, "")
    yield from ("A system, without a recipe. Read in: " + system.read + ".", "")
    yield from ("## What of it is here", "", "| what | where |", "| --- | --- |")
    yield from (f"| {_cell(part.what)} | {_cell(part.where)} |" for part in system.parts)
    yield from ("", "## What was checked here", "", *(f"- {each}" for each in system.checked))
    yield from ("", "## What was not", "", *(f"- {each}" for each in system.unchecked))
    yield from ("", "## What came after it", "", system.successor)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def measured_page(found: "Iterable[Measurement]", papers: "Mapping[str, Paper]", limits: Mapping[str, float]) -> str:
    """What recipes gave on their stand-ins, a table a task, in Markdown."""
    return "\n".join(_measured_lines(list(found), papers, limits)) + "\n"


HEAD = (
    "# Measured",
    "",
    "Every recipe on its stand-in, beside what its paper claims on its own data. Bytes are those of the `.fwt` file, "
    "quality is on all evaluation data, p is McNemar's against the dense model; one run each. `featherweight reproduce "
    "PAPER --task TASK` measures a row again; seconds are of a machine that may have been busy. Written by "
    "`scripts/cards`.",
)


def _measured_lines(
    found: "list[Measurement]", papers: "Mapping[str, Paper]", limits: Mapping[str, float]
) -> Iterator[str]:
    yield from HEAD
    for task in dict.fromkeys(each.task for each in found):
        rows = [each for each in found if each.task == task]
        first = rows[0]
        yield from ("", f"## {task}", "")
        at = f" Rows with * reach {quality(limits[task], first.unit)} and come first." if task in limits else ""
        yield f"{first.bytes_before:,} bytes dense; {first.metric} on {first.samples:,} samples.{at}"
        yield from (
            "",
            "| paper | bytes | smaller | dense | compressed | p | epochs, seed, seconds | claim | deviations |",
        )
        yield "|---|---|---|---|---|---|---|---|---|"
        yield from (_measured_row(each, papers[each.paper]) for each in rows)


def _measured_row(each: "Measurement", paper: "Paper") -> str:
    cells = (
        f"[{each.paper}](papers/{each.paper}.md)" + (" *" if each.at_equal_error else ""),
        f"{each.bytes:,}",
        f"{each.bytes_before / each.bytes:.1f}x",
        quality(each.before, each.unit),
        quality(each.after, each.unit),
        "" if each.p_value is None else probability(each.p_value),
        f"{each.epochs}, {' '.join(map(str, each.seeds)) or 'none'}, {each.seconds}",
        paper.claimed,
        "; ".join(paper.deviations),
    )
    return "| " + " | ".join(map(_cell, cells)) + " |"
