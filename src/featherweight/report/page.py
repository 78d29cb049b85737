"""The report as one page of HTML: no script, and nothing that is loaded from elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import isfinite
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from featherweight.core.errors import FeatherweightError
from featherweight.engines.compare import Comparison, Failure, Row, Side, label
from featherweight.engines.measurement import Timing
from featherweight.engines.parity import Parity
from featherweight.report import charts, figures
from featherweight.report.layers import Activation
from featherweight.report.measured import ENOUGH, nearness
from featherweight.report.report import Report

MOST_ROWS = 150
"""Rows of a table; the rest is told in sum."""
MOST_BYTES = 200_000


def page(report: Report) -> str:
    """The page's HTML, under ``MOST_BYTES``. The same report gives the same page."""
    for most in (MOST_ROWS, MOST_ROWS // 3, MOST_ROWS // 10):
        text = _template().render(
            report=report,
            told=report.summary,
            sizes=sizes(report, most),
            moved=moved(report, most),
            activations=[activation(each) for each in report.activations[:most]],
            unshown=max(0, len(report.activations) - most),
            changes=report.changes[:most],
            left=left_alone(report, most),
            speeds=[speeds(each) for each in report.comparisons],
            range_of_speed=range_of_speed(report.comparisons),
            dotted=dotted,
            figures=figures,
            charts=charts,
        )
        if len(text.encode()) < MOST_BYTES:
            return text
    raise FeatherweightError(
        f"the page would take {len(text.encode()):,} bytes, over {MOST_BYTES:,}: names or texts are too long for one "
        "page; give fewer measurements, or look at the report in the terminal"
    )


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=visible
    )
    return environment.from_string(files("featherweight.report").joinpath("page.html.jinja").read_text("utf-8"))


def visible(value: Any) -> Any:
    """Text without characters that cannot be seen, such as those that turn the direction of writing around."""
    if isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(value))


def dotted(name: str) -> Markup:
    """A name that lines may break behind the dots of."""
    return Markup(".<wbr>").join(escape(visible(part)) for part in name.split("."))


@dataclass(frozen=True)
class SizeRow:
    """One tensor, or several in sum; ``None`` where a figure has no meaning."""

    name: str
    shape: str
    code: str
    before: int | None
    after: int
    bits: str
    nonzero: str
    chart: Markup


def sizes(report: Report, most: int = MOST_ROWS) -> list[SizeRow]:
    """Rows in the model's order that add up to the parent's tensors and to the file; the smallest in sum."""
    rows = report.summary.ledger.rows
    shown = {row.name for row in sorted(rows, key=lambda row: -(row.bytes + report.before.get(row.name, 0)))[:most]}
    longest = max([*report.before.values(), *(row.bytes for row in rows), 1])
    found = [
        SizeRow(
            row.name, "×".join(map(str, row.shape)) or "scalar", row.code, report.before.get(row.name), row.bytes,
            f"{row.bits_per_weight:.2f}", figures.share(row.nonzero),
            _pair(report.before.get(row.name, 0), row.bytes, longest),
        )
        for row in rows
        if row.name in shown
    ]  # fmt: skip
    others = [row for row in rows if row.name not in shown]
    if others:
        before = sum(report.before.get(row.name, 0) for row in others)
        found.append(_sum(f"{len(others)} smaller tensors", before, sum(row.bytes for row in others), longest))
    if report.removed:
        found.append(
            _sum(f"{len(report.removed)} tensors folded or cut away", sum(report.removed.values()), 0, longest)
        )
    overhead = report.summary.bytes_before - sum(report.before.values())
    return [*found, _sum("envelope and header", overhead, report.summary.ledger.overhead, longest)]


def _sum(name: str, before: int, after: int, longest: int) -> SizeRow:
    return SizeRow(name, "", "", before, after, "", "", _pair(before, after, longest))


def _pair(before: float, after: float, longest: float) -> Markup:
    return charts.bars((("before", before), ("after", after)), longest)


def moved(report: Report, most: int = MOST_ROWS) -> list[tuple[str, str, Markup]]:
    """(parameter, relative error, bar), worst first."""
    found = list((report.errors or {}).items())
    largest = max((error for _, error in found if isfinite(error)), default=0.0)
    return [
        (name, figures.relative(error), charts.bars((("error", error),), largest, 8.0)) for name, error in found[:most]
    ]


def activation(found: Activation) -> tuple[str, str, str, str, str]:
    """(places, function, bits, range, step) as text."""
    low_high = "" if found.low is None or found.high is None else f"{found.low:.4g} to {found.high:.4g}"
    bits = "" if found.bits is None else str(found.bits)
    step = "" if found.step is None else f"{found.step:.4g}"
    return "; ".join(found.places), found.function, bits, low_high, step


def left_alone(report: Report, most: int) -> list[tuple[str, str]]:
    """(reason, names), a reason once."""
    reasons = report.summary.left_alone
    found = []
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, each in reasons.items() if each == reason]
        more = f" and {len(names) - most} more" if len(names) > most else ""
        found.append((reason, ", ".join(names[:most]) + more))
    return found


@dataclass(frozen=True)
class SpeedRow:
    """One engine, batch and number of threads: texts and a chart."""

    engine: str
    batch: int
    threads: int
    before: str
    after: str
    ratio: str
    chart: Markup
    bytes: str
    memory: str
    parity: str
    load: str


@dataclass(frozen=True)
class Speeds:
    """One measurement file. ``few``: its rounds, where they are too few for an interval of 95 %."""

    rows: tuple[SpeedRow, ...]
    machine: tuple[str, ...]
    inputs: str
    disturbed: bool
    few: int | None
    failures: tuple[str, ...]
    notices: tuple[str, ...]


def speeds(found: Comparison) -> Speeds:
    ratios = [row.ratio for row in found.rows]
    axis = charts.Axis.around([end for ratio in ratios for end in (ratio.low, ratio.high)])
    where = INPUTS.get(found.inputs, f"the task's {found.inputs} data")
    return Speeds(
        rows=tuple(_speed(row, axis) for row in found.rows),
        machine=tuple(dict.fromkeys(_machines(found))),
        inputs=f"{where}; float operations in {found.precision.value}",
        disturbed=any(each.measurement.disturbed for each in found.settings),
        few=_few(found),
        failures=tuple(map(_failure, found.failures)),
        notices=found.notices,
    )


def _few(found: Comparison) -> int | None:
    """The rounds of the measurement with the fewest, where these give no interval of 95 %."""
    least = min((each.measurement.plan.rounds for each in found.settings), default=ENOUGH)
    return least if least < ENOUGH else None


def _failure(found: Failure) -> str:
    parts = [found.engine, found.side and f"the {found.side.value} model"]
    parts += [] if found.batch is None else [f"batch {found.batch}, threads {found.threads}"]
    return f"{', '.join(part for part in parts if part) or 'all'}: {found.reason}"


INPUTS = {"example": "the task's example, repeated"}


def _machines(found: Comparison) -> Iterator[str]:
    for each in found.settings:
        machine = each.measurement.machine
        yield (
            f"{machine.cpu}, {machine.cores} cores, {machine.memory / 1e9:.3g} GB memory; {machine.platform}; "
            f"Python {machine.python}, torch {machine.torch}"
        )


def _speed(row: Row, axis: charts.Axis) -> SpeedRow:
    ratio, found = row.ratio, row.measurement
    before, after = (found.timing(label(row.engine, side)) for side in Side)
    return SpeedRow(
        engine=f"{row.engine} {before.version}",
        batch=found.batch,
        threads=before.settings.threads,
        before=_latency(before),
        after=_latency(after),
        ratio=f"{ratio.median:.2f}× ({ratio.low:.2f} to {ratio.high:.2f})",
        chart=charts.interval(ratio.low, ratio.median, ratio.high, axis, sure=found.plan.rounds >= ENOUGH),
        bytes=f"{before.bytes:,} → {after.bytes:,}",
        memory=f"{before.memory.model / 1e6:.1f} → {after.memory.model / 1e6:.1f}",
        parity=f"{_parity(row.parity[Side.FLOAT])} → {_parity(row.parity[Side.COMPRESSED])}",
        load=f"{found.load:.2f}" + (" (disturbed)" if found.disturbed else ""),
    )


def _latency(timing: Timing) -> str:
    return f"{figures.milliseconds(timing.p50)} / {figures.milliseconds(timing.p95)}"


def _parity(found: Parity) -> str:
    agreement = "" if found.agreement is None else f", {100 * found.agreement:.1f} % same class"
    return f"{nearness(found)}{agreement}"


def range_of_speed(comparisons: Sequence[Comparison]) -> tuple[str, str] | None:
    """(slowest to fastest of all measured ratios, of how many) for the head of the page; none is picked out."""
    rows = [row for each in comparisons for row in each.rows]
    ratios = [row.ratio for row in rows]
    if not ratios:
        return None
    if len(ratios) == 1:
        only, rounds = ratios[0], rows[0].measurement.plan.rounds
        what = "95 % interval" if rounds >= ENOUGH else "rounds too few for a 95 % interval spread from"
        return f"{only.median:.2f}×", f"as fast, {what} {only.low:.2f} to {only.high:.2f}"
    low, high = min(each.median for each in ratios), max(each.median for each in ratios)
    return f"{low:.2f}× to {high:.2f}×", f"as fast, medians of {len(ratios)} settings of engine, batch and threads"
