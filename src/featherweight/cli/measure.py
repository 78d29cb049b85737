"""``featherweight measure``."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

from featherweight.cli.guard import AsJson, Debug
from featherweight.cli.options import Force, MaxBytes, TaskOption
from featherweight.cli.output import console, emit, say, show
from featherweight.cli.places import check_output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from featherweight.engines.compare import Comparison, Row
    from featherweight.engines.measure import Plan, Progress, Ratio, Timing
    from featherweight.engines.parity import Parity


def measure(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .fwt file.")],
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="pytorch, pytorch-compiled, onnxruntime or openvino; may be given again. All but pytorch-compiled, "
            "which needs a C++ compiler, if not given.",
        ),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", metavar="N", min=1, help="Threads of each engine; may be given again. 1 if not."),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", metavar="N", min=1, help="Samples in a batch; may be given again. 1 if not."),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Rounds of turns that count.")] = 9,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", help="Of each turn.")] = 0.5,
    task: TaskOption = None,
    save: Annotated[Path | None, typer.Option("--save", help="A JSON file to write what was measured to.")] = None,
    max_bytes: MaxBytes = None,
    force: Force = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Time a file's model beside the one it was made from, on engines, and hold outputs against PyTorch's.

    Models take turns, each in a process of its own, in float32. Rounds during which other programs used the processor
    are repeated; where there are too few others, a warning says so. Needs the optional extra "engines".
    """
    from featherweight.engines.measure import Plan

    plan = Plan(rounds=rounds, seconds=seconds, warmup=seconds)
    if save is not None:
        check_output(save, force, "--save")
    found, size = _compared(file, task, max_bytes, engine, threads, batch, plan)
    record = {"file": file, "bytes": size, **found.to_json()}
    if save is not None:
        import json

        from featherweight.coding import write_atomic

        write_atomic(save, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    if as_json:
        emit(record)
    else:
        show(*_told(found))
    for each in found.failures:
        where = "" if each.batch is None else f" (batch {each.batch}, threads {each.threads})"
        say(f"not measured: {each.engine}, {each.kind}{where}: {each.reason}")
    if found.disturbed:
        say(_disturbed(found, plan))


def _compared(
    file: str,
    task: str | None,
    max_bytes: int | None,
    engines: list[str] | None,
    threads: list[int] | None,
    batches: list[int] | None,
    plan: "Plan",
) -> "tuple[Comparison, int]":
    """What was measured, and the bytes of the file."""
    from featherweight import file as files
    from featherweight.cli.opening import limit, task_of
    from featherweight.engines import find
    from featherweight.engines.compare import DEFAULT, compare

    chosen = [find(name).name for name in engines or DEFAULT]
    data = files.read(file)
    of = task_of(data, task)
    student, _ = files.load(data, of.architecture(), max_bytes=limit(max_bytes))
    with _Bar() as bar:
        found = compare(of, student, of.model(), chosen, threads or [1], batches or [1], plan, bar.watch)
    return found, len(data)


class _Bar:
    """A line on stderr for each thing that begins; in a terminal, a bar of its rounds."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        out = console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
        self.bar = self.progress.add_task("", total=None)
        self.what = ""

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.progress.stop()

    def watch(self, now: "Progress") -> None:
        if now.what != self.what:
            self.what = now.what
            self.progress.console.print(now.what, soft_wrap=True)
        text = f"{now.rejected} rounds disturbed" if now.rejected else ""
        self.progress.update(self.bar, description=text, completed=now.done, total=now.rounds)


HEADINGS = (
    "engine", "batch", "threads", "float p50 / p95 ms", "compressed p50 / p95 ms", "speed (95 %)",
    "float file", "compressed file", "memory MB", "parity dB", "load",
)  # fmt: skip


def _told(found: "Comparison") -> "Iterator[RenderableType]":
    from featherweight.report import terminal

    yield terminal.table(HEADINGS, [_cells(row) for row in found.rows])
    machine = found.measurements[0].machine
    versions = {timing.engine: timing.version for each in found.measurements for timing in each.timings}
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield (
        f"{machine.cpu}, {machine.cores} cores, {machine.memory / 1e9:.3g} GB; {machine.platform}; "
        f"Python {machine.python}; {told}"
    )
    source = {"example": "the task's example, repeated"}.get(found.inputs, f"the task's {found.inputs} data")
    yield f"float operations in {found.precision}, run on {source}"
    yield "speed is how many times as fast as the float model of the same engine; memory and parity are of both models"


def _cells(row: "Row") -> list[str]:
    before, after = row.before, row.after
    return [
        row.engine, str(row.batch), str(row.threads), _latency(before), _latency(after), _speed(row.ratio),
        _bytes(before), _bytes(after), f"{_memory(before)} / {_memory(after)}",
        f"{_parity(row.parity_before)} / {_parity(row.parity_after)}", f"{row.load:.2f}",
    ]  # fmt: skip


def _latency(timing: "Timing | None") -> str:
    return "-" if timing is None else f"{timing.p50:.3g} / {timing.p95:.3g}"


def _speed(ratio: "Ratio | None") -> str:
    return "-" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _bytes(timing: "Timing | None") -> str:
    return "-" if timing is None else f"{timing.bytes:,}"


def _memory(timing: "Timing | None") -> str:
    return "-" if timing is None else f"{timing.memory / 1e6:.1f}"


def _parity(found: "Parity | None") -> str:
    return "-" if found is None else f"{found.snr:.0f}"


def _disturbed(found: "Comparison", plan: "Plan") -> str:
    load = max(row.load for row in found.rows)
    return (
        f"warning: other programs used up to {load:.2f} cores while the models ran, more than the {plan.disturbance:g} "
        "that a round may have; the figures are of the least disturbed rounds. Measure again on an idle machine"
    )
