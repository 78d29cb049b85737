"""A paper's card in Markdown, generated from its record."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from featherweight.core.plan import plan
from featherweight.report.outlook import plan_lines
from featherweight.tasks import find

if TYPE_CHECKING:
    from featherweight.papers.paper import Paper


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


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
