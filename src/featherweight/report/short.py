"""The report in short, for a terminal."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table

from featherweight.report import measured, terminal
from featherweight.report.layers import Activation
from featherweight.report.report import Report

OTHER_PARENT = (
    "warning: the parent here does not score as the one that the file was made from, so it is another network: quality "
    "before, pairs and errors are held against the one here, and are not what the compression did"
)


def report(told: Report, most: int = 40) -> Iterator[RenderableType]:
    """The page in short."""
    yield from terminal.summary(told.summary, most)
    if told.claims is not None:
        agrees = {None: "not held against a measurement", True: "agrees with it", False: "DOES NOT AGREE with it"}
        yield f"what the file claims {agrees[told.claims.agrees]}"
    if told.other_parent:
        yield OTHER_PARENT
    if "quality" in told.missing:
        yield f"because: {told.missing['quality']}; measure it with: {told.commands['measure its quality']}"
    if told.errors:
        shown = dict(list(told.errors.items())[:most])
        yield from ("", "relative errors |w - w'| / |w| against the parent, worst first:", terminal.errors_table(shown))
    if told.activations:
        yield from ("", "quantized activations:", activations_table(told.activations[:most]))
    yield from (f"changed: {change}" for change in told.changes[:most])
    yield ""
    yield from speeds(told)
    yield from (f"to {what}: {command}" for what, command in told.commands.items())


def activations_table(found: Sequence[Activation]) -> Table:
    rows = []
    for each in found:
        numbers = ("" if value is None else f"{value:.4g}" for value in (each.bits, each.low, each.high))
        rows.append(("; ".join(each.places), each.function, *numbers))
    return terminal.table(("activation", "function", "bits", "low", "high"), rows)


def speeds(told: Report) -> Iterator[RenderableType]:
    """Latency where it was measured, else how to measure it."""
    if not told.comparisons:
        yield f"speed was not measured; measure it with: {told.commands['measure its speed']}"
    for found in told.comparisons:
        yield from measured.comparison(found)
