"""A comparison on engines for a terminal. No ratio is in it but of two models that took turns."""

from collections.abc import Iterable, Iterator

from rich.console import RenderableType

from featherweight.engines.compare import Comparison, Failure, Row, Setting, Side, label
from featherweight.engines.machine import Machine
from featherweight.engines.measurement import Measurement, Timing
from featherweight.engines.parity import Parity
from featherweight.report import figures, terminal

ABSENT = "not measured"
ENOUGH = 6
"""Rounds from which on the smallest and the largest have the median between them in 95 of 100 cases: 1 - 2^(1-n)."""


def comparison(found: Comparison) -> Iterator[RenderableType]:
    """Everything that was measured, and what could not be."""
    if found.settings:
        yield f"milliseconds a batch, p50 / p95; load of all else in cores; inputs: {_inputs(found.inputs)}"
        yield terminal.table(
            ("engine", "batch", "threads", "float", "compressed", "times as fast", "load"),
            (_times(setting, engine) for setting, engine in _lines(found)),
        )
        yield ""
        yield "float / compressed: files, and peak memory over that before opening them; outputs beside PyTorch's"
        yield terminal.table(
            ("engine", "batch", "threads", "bytes", "memory", "float parity", "compressed parity"),
            (_files(setting, engine) for setting, engine in _lines(found)),
        )
        yield ""
        yield _machine(found, found.settings[0].measurement.machine)
        yield from (disturbed(each) for each in found.settings if each.measurement.disturbed)
    yield from map(failure, found.failures)
    yield from found.notices


def _lines(found: Comparison) -> Iterator[tuple[Setting, str]]:
    for setting in found.settings:
        for engine in found.engines:
            if any(_timing(setting.measurement, engine, side) for side in Side):
                yield setting, engine


def _timing(measurement: Measurement, engine: str, side: Side) -> Timing | None:
    name = label(engine, side)
    return next((each for each in measurement.timings if each.label == name), None)


def _times(setting: Setting, engine: str) -> list[str]:
    sides = [_timing(setting.measurement, engine, side) for side in Side]
    times = [
        ABSENT if each is None else f"{figures.milliseconds(each.p50)} / {figures.milliseconds(each.p95)}"
        for each in sides
    ]
    load = max(load for each in sides if each is not None for load in each.loads)
    return [*_key(setting, engine), *times, _ratio(next(setting.rows([engine]), None)), f"{load:.2f}"]


def _ratio(row: Row | None) -> str:
    """A speed-up, where both were measured together."""
    if row is None:
        return ABSENT
    ratio = row.ratio
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _files(setting: Setting, engine: str) -> list[str]:
    sides = [_timing(setting.measurement, engine, side) for side in Side]
    sizes = _both("-" if each is None else f"{each.bytes:,}" for each in sides)
    memory = _both("-" if each is None else f"{each.memory.model / 1e6:.1f} MB" for each in sides)
    parities = [_parity(setting.parity.get(label(engine, side))) for side in Side]
    return [*_key(setting, engine), sizes, memory, *parities]


def _key(setting: Setting, engine: str) -> list[str]:
    return [engine, str(setting.batch), str(setting.threads)]


def _both(texts: Iterable[str]) -> str:
    return " / ".join(texts)


def _parity(found: Parity | None) -> str:
    if found is None:
        return ABSENT
    same = "" if found.agreement is None else f", {figures.share(found.agreement)} of {found.samples:,} agree"
    return f"{nearness(found)}{same}"


def nearness(found: Parity) -> str:
    """Signal to noise where there is noise."""
    return f"{found.snr:.1f} dB" if found.largest else "identical"


def _inputs(source: str) -> str:
    return "the task's example, repeated" if source == "example" else f"the task's {source} data"


def _machine(found: Comparison, machine: Machine) -> str:
    versions = {each.engine: each.version for setting in found.settings for each in setting.measurement.timings}
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"measured on {machine.cpu}, {machine.cores} cores, {machine.memory / 2**30:.1f} GiB, {machine.platform}, "
        f"Python {machine.python}, torch {machine.torch}; {told}; what is not quantized is computed in "
        f"{found.precision.value}; {_rounds(found.settings[0].measurement.plan.rounds)}"
    )


def _rounds(count: int) -> str:
    told = "ratios are medians over rounds, in which the models took turns"
    if count < ENOUGH:
        return (
            f"{told}; {count} rounds are too few for an interval of 95 %: what is in brackets only tells their spread"
        )
    return f"{told}, with 95 % intervals"


def disturbed(setting: Setting) -> str:
    found = setting.measurement
    return (
        f"warning: batch {setting.batch}, threads {setting.threads}: the machine was disturbed: something else took up "
        f"to {found.load:.2f} cores in the rounds that count; {len(found.rejected)} worse ones were left out. Measure "
        "again when it is quiet"
    )


def failure(found: Failure) -> str:
    """Why there are no times, and so no speed-up."""
    what = "all of them" if found.engine is None or found.side is None else label(found.engine, found.side)
    where = "" if found.batch is None else f", batch {found.batch}, threads {found.threads}"
    return f"not measured: {what}{where}: {found.reason}"
