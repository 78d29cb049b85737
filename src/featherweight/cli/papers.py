"""``featherweight papers``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from featherweight.cli.guard import AsJson, Debug
from featherweight.cli.output import emit, say, show

if TYPE_CHECKING:
    from featherweight.papers import Paper


def papers(
    query: Annotated[
        str | None, typer.Argument(metavar="QUERY", help="Words to look for; with --card, a paper's name.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Print the paper's card as Markdown.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the papers whose recipes are known, or print the card of one."""
    if card and query is None:
        raise typer.BadParameter("--card needs the name of a paper")
    from featherweight.papers import PAPERS, find
    from featherweight.report import terminal

    if card:
        from featherweight.report.card import card as written

        paper = find(query or "")
        text = written(paper)
        if as_json:
            emit(paper_record(paper) | {"card": text})
        else:
            typer.echo(text, nl=False)
        return
    found = [paper for make in PAPERS.values() if _matches(paper := make(), query or "")]
    if as_json:
        emit([paper_record(paper) for paper in found])
    elif found:
        show(terminal.table(("name", "year", "title", "tasks", "claims"), map(_row, found)))
    else:
        say(f"no paper matches {query!r}; `featherweight papers` lists all {len(PAPERS)}")


def _matches(paper: "Paper", query: str) -> bool:
    """Whether every word of the query stands somewhere in what is known of the paper."""
    text = " ".join((paper.name, str(paper.reference), paper.idea, *paper.tasks, *map(str, paper.claims))).casefold()
    return all(word in text for word in query.casefold().split())


def _row(paper: "Paper") -> tuple[str, ...]:
    claims = "; ".join(f"{claim.testbed}: {claim.statement} [{claim.checked}]" for claim in paper.claims)
    return paper.name, str(paper.reference.year), paper.reference.title, ", ".join(paper.tasks), claims


def paper_record(paper: "Paper") -> dict[str, Any]:
    reference = paper.reference
    return {
        "name": paper.name,
        "title": reference.title,
        "authors": reference.authors,
        "year": reference.year,
        "arxiv": reference.arxiv,
        "url": reference.url,
        "idea": paper.idea,
        "tasks": list(paper.tasks),
        "claims": [
            {"testbed": claim.testbed, "statement": claim.statement, "checked": claim.checked} for claim in paper.claims
        ],
        "deviations": list(paper.deviations),
    }
