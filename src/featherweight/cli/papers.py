"""``featherweight papers``."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featherweight.cli.guard import AsJson, Debug
from featherweight.cli.output import emit, say, show

if TYPE_CHECKING:
    from featherweight.papers import Paper, System
    from featherweight.papers.measurement import Measurement


def papers(
    query: Annotated[
        str | None, typer.Argument(metavar="QUERY", help="Words to look for; with --card, a paper's name.")
    ] = None,
    measured: Annotated[
        bool, typer.Option("--measured", help="What the recipes gave on their stand-ins, beside what the papers claim.")
    ] = False,
    card: Annotated[bool, typer.Option("--card", help="Print the paper's card as Markdown.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the papers whose recipes are known, and systems; print the card of one, or what was measured of all."""
    if card and query is None:
        raise typer.BadParameter("--card needs the name of a paper")
    if card and measured:
        raise typer.BadParameter("--card and --measured are two different lists; give one")
    from featherweight.papers import PAPERS, SYSTEMS
    from featherweight.report import terminal

    if card:
        record, text = _card(query or "")
        if as_json:
            emit(record | {"card": text})
        else:
            typer.echo(text, nl=False)
        return
    found = [paper for make in PAPERS.values() if _matches(paper := make(), query or "")]
    if measured:
        _show_measured(found, as_json)
        return
    systems = [system for system in SYSTEMS.values() if _among(_system_text(system), query or "")]
    if as_json:
        emit([*map(paper_record, found), *map(system_record, systems)])
    elif found or systems:
        rows = [*map(_row, found), *map(_system_row, systems)]
        show(terminal.table(("name", "year", "title", "tasks", "claims"), rows))
    else:
        say(f"no paper matches {query!r}; `featherweight papers` lists all {len(PAPERS)}")


def _matches(paper: "Paper", query: str) -> bool:
    """Whether every word of the query stands somewhere in what is known of the paper."""
    return _among(
        " ".join((paper.name, str(paper.reference), paper.idea, *paper.tasks, *map(str, paper.claims))), query
    )


def _among(text: str, query: str) -> bool:
    return all(word in text.casefold() for word in query.casefold().split())


def _system_text(system: "System") -> str:
    return " ".join((system.name, str(system.reference), system.idea, *map(str, system.parts), system.successor))


def _card(name: str) -> tuple[dict[str, Any], str]:
    from featherweight.papers import System, known
    from featherweight.report.card import card, system_card

    found = known(name)
    if isinstance(found, System):
        return system_record(found), system_card(found)
    return paper_record(found), card(found)


def _row(paper: "Paper") -> tuple[str, ...]:
    return paper.name, str(paper.reference.year), paper.reference.title, ", ".join(paper.tasks), paper.claimed


def _system_row(system: "System") -> tuple[str, ...]:
    return system.name, str(system.reference.year), system.reference.title, "", "a system: --card tells what is here"


def system_record(system: "System") -> dict[str, Any]:
    record = asdict(system)
    reference = record.pop("reference")
    return {"name": record.pop("name"), **reference, **record, "tasks": []}


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
        "stand_ins": list(paper.measured_on),
        "claims": [
            {"testbed": claim.testbed, "statement": claim.statement, "checked": claim.checked} for claim in paper.claims
        ],
        "deviations": list(paper.deviations),
    }


def _show_measured(papers: "list[Paper]", as_json: bool) -> None:
    from featherweight.papers.measurement import EQUAL_ERROR, measurements
    from featherweight.report import terminal
    from featherweight.report.figures import quality

    known = {paper.name: paper for paper in papers}
    found = [each for each in measurements() if each.paper in known]
    if as_json:
        emit([{**each.to_json(), "command": each.command, **_said(known[each.paper])} for each in found])
        return
    for task in dict.fromkeys(each.task for each in found):
        of_task = [each for each in found if each.task == task]
        first = of_task[0]
        limit = f"; * is at least {quality(EQUAL_ERROR[task], first.unit)}" if task in EQUAL_ERROR else ""
        show("", f"{task}: {first.bytes_before:,} bytes dense, {first.metric} on {first.samples:,} samples{limit}", "")
        show(terminal.table(MEASURED, (_measured_row(each, known[each.paper]) for each in of_task)))
    missing = [name for name, paper in known.items() if not any(each.paper == name for each in found)]
    if missing:
        say(f"not measured yet: {', '.join(missing)}")
    show("", "measure one again: featherweight reproduce PAPER --task TASK", "deviations in full: papers PAPER --card")


MEASURED = ("paper", "bytes", "smaller", "dense, compressed", "epochs, seed", "the paper claims", "deviations")


def _measured_row(each: "Measurement", paper: "Paper") -> tuple[str, ...]:
    from featherweight.report.figures import quality

    mark = " *" if each.at_equal_error else ""
    return (
        each.paper + mark,
        f"{each.bytes:,}",
        f"{each.bytes_before / each.bytes:.1f}",
        f"{quality(each.before, each.unit)}, {quality(each.after, each.unit)}",
        f"{each.epochs}, {' '.join(map(str, each.seeds)) or 'none'}",
        paper.claimed,
        str(len(paper.deviations)),
    )


def _said(paper: "Paper") -> dict[str, Any]:
    record = paper_record(paper)
    return {key: record[key] for key in ("title", "claims", "deviations")}
