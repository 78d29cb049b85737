"""Tables for a terminal: pure functions from results, files and measurements to renderables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from featherweight.core.task import Quality
from featherweight.file import Contents
from featherweight.report import figures
from featherweight.report.ledger import Ledger, ledger
from featherweight.report.summary import Standing, Summary, claimed
from featherweight.result import Measured, Verified, lines

SEEN = "warning: the model has seen this evaluation data in training, so the quality is no forecast for new data"


REST = "no choice was made on"


def summary(told: Summary, most: int = 40) -> Iterator[RenderableType]:
    """Everything that is told at the end of a compression; of long tables the ``most`` largest rows."""
    yield f"{told.task}, recipe {told.recipe}"
    yield f"before  {figures.size(told.bytes_before)}, as safetensors"
    yield f"after   {figures.size(told.bytes_after)}, {told.ratio:.2f} times smaller"
    if told.rest is not None:
        yield from standing(told.rest, f"evaluation data that {REST}")
        yield "on all of it, for comparison with the literature:"
    yield from standing(told.standing)
    if not told.unseen:
        yield SEEN
    yield from ("", "where the bytes went:", bytes_table(told.ledger, most))
    if told.worst:
        yield from ("", "largest relative errors |w - w'| / |w| of a stage:", errors_table(told.worst))
    yield from left_alone(told.left_alone)


def standing(found: Standing | None, where: str = "evaluation data") -> Iterator[str]:
    if found is None:
        yield "quality was not measured: the task has no evaluation data and no evaluate()"
        return
    before, after = (figures.quality(value, found.unit) for value in (found.before, found.after))
    samples = "" if found.samples is None else f" on {found.samples:,} samples of {where}"
    change = figures.difference(-found.drop, found.unit)
    yield f"{found.metric}  {before} before, {after} after ({change}){samples}"
    if found.lost is not None and found.won is not None and found.p_value is not None:
        p = figures.probability(found.p_value)
        yield f"pairs   {found.lost} lost, {found.won} won; McNemar's p = {p} that both models are equally good"


def bytes_table(found: Ledger, most: int | None = None) -> Table:
    """Where the bytes went; the rows add up to the size of the file."""
    table = _table("tensor", "shape", "code")
    for column in ("bytes", "bits/weight", "nonzero"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = sorted(found.rows, key=lambda row: -row.bytes)[:most]
    shown = {row.name for row in rows}
    for row in found.rows:
        if row.name in shown:
            shape = "x".join(map(str, row.shape)) or "scalar"
            cells = (shape, row.code, f"{row.bytes:,}", f"{row.bits_per_weight:.2f}", figures.share(row.nonzero))
            table.add_row(*map(_cell, (row.name, *cells)))
    others = [row for row in found.rows if row.name not in shown]
    if others:
        table.add_row(f"{len(others)} smaller tensors", "", "", f"{sum(row.bytes for row in others):,}")
    table.add_row("envelope and header", "", "", f"{found.overhead:,}")
    table.add_section()
    table.add_row("file", "", "", f"{found.size:,}")
    return table


def errors_table(errors: Mapping[str, float]) -> Table:
    table = _table("tensor")
    table.add_column("error", justify="right")
    for name, error in errors.items():
        table.add_row(_cell(name), figures.share(error))
    return table


def left_alone(reasons: Mapping[str, str]) -> Iterator[str]:
    """A line for every reason, with the tensors that it holds for."""
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, each in reasons.items() if each == reason]
        yield f"without a scheme ({reason}): {', '.join(names)}"


def contents(path: str, found: Contents, task: str | None, quality: Quality | None) -> Iterator[RenderableType]:
    """What is in a file. ``quality`` is the task's, where the task is known."""
    header = found.header
    yield f"{path}: {figures.size(found.size)}"
    number = "" if header.number is None else f" (built-in task {header.number})"
    yield f"task    {task or header.task or 'not named'}{number}"
    if header.recipe:
        yield f"recipe  {header.recipe}"
    if header.edits:
        yield f"edits   {', '.join(edit.identifier for edit in header.edits)}"
    yield from _claims(found, quality)
    yield from ("", "where the bytes go:", bytes_table(ledger(lines(found.codes), found.size)))


def _claims(found: Contents, quality: Quality | None) -> Iterator[str]:
    claims = found.header.claims
    if claims is None or claims.samples == 0:
        yield "claims  none"
    elif quality is None:
        sums = f"scores add up to {claims.total:g}, the parent's to {claims.parent:g}"
        yield f"claims  {sums}, on {claims.samples:,} samples; name the task with --task to see them in its unit"
    else:
        yield "claimed when it was saved, not measured now:"
        yield from standing(claimed(claims, quality))


def verified(results: Sequence[Verified]) -> Table:
    """A row a file: what it claims, what it measures; and on the samples that no choice was made on, if some were."""
    table = _table("file", "task")
    parts = any(each.measured.rest is not None for each in results)
    for column in ("bytes", "claimed", "measured", "samples", *(["held out"] if parts else []), "nonzero", "MACs"):
        table.add_column(column, justify="right")
    table.add_column("")
    for each in results:
        found, quality = each.measured, each.task.quality
        said = "none"
        if each.claims is not None and each.claims.samples:
            said = figures.quality(quality.value(each.claims.total / each.claims.samples), quality.unit)
        table.add_row(
            _cell(each.file),
            _cell(each.task.name),
            f"{each.bytes:,}",
            said,
            figures.quality(found.value, found.unit) if found.samples else "not measured",
            f"{found.samples:,}",
            *([_rest(found)] if parts else []),
            figures.share(found.nonzero / max(found.parameters, 1)),
            f"{found.macs:,}",
            "ok" if each.ok else "NOT OK",
        )
    return table


def _rest(found: Measured) -> str:
    if found.rest is None:
        return "all"
    return f"{figures.quality(found.rest.value, found.unit)} of {found.rest.samples:,}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain table of texts."""
    made = _table(*columns)
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def _table(*columns: str) -> Table:
    made = Table(box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def _cell(text: str) -> Text:
    """Text as it is: no markup, and no control characters, which a file from elsewhere could bring."""
    return Text("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))
