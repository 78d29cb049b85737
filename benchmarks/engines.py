"""Sizes, speeds and outputs of every engine over the tasks: the float model beside its 8-bit one.

    python benchmarks/engines.py [TASK ...] [--engine NAME ...] [--batch 1 32] [--threads 1] [--save FILE.json]
    python benchmarks/engines.py --show FILE.json          what was saved, as a table of Markdown

Both models of a task are exported for every engine whose packages are there, compared with PyTorch's outputs, and then
timed by turns, each in a process of its own: bytes are of the file as the engine takes it, ratios are of speeds within
one engine with their 95 % interval, the largest difference is in parts of the largest output, and agreement is of top-1
with the model that was exported. What cannot be exported or run stands below with the reason. With --save a run that
is killed goes on where it was.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.errors import FeatherweightError
from featherweight.engines import ENGINES, find
from featherweight.engines.compare import Comparison, Failure, Row, Side, Watch, compare, label
from featherweight.engines.engine import Engine
from featherweight.engines.measurement import Plan
from featherweight.run import run
from featherweight.search.precision import post_training
from featherweight.tasks import find as find_task

TASKS = ("digits", "mnist-lenet5", "cifar10-resnet20", "imagenet-lite0", "minilm")
ALL_ENGINES = tuple(name for name in ENGINES if name != "tensorrt")
"""Those that run here."""


def measured(name: str, engines: Sequence[Engine], options: argparse.Namespace) -> Comparison:
    task = find_task(name)
    parent = task.model()
    student, _ = run(parent, task, post_training())
    return compare(
        task,
        student,
        parent,
        engines,
        threads=options.threads,
        batches=options.batch,
        plan=Plan(rounds=options.rounds, seconds=options.seconds),
        watch=Watch(say=lambda text: print(f"{name}: {text}", flush=True)),
    )


def lines(found: Comparison) -> Iterator[str]:
    """A task's table and what is missing from it."""
    yield f"### {found.task}"
    yield ""
    yield (
        "| engine | batch | threads | bytes: float32, int8 | ms: float32 p50 (p95), int8 p50 (p95) | int8 is faster "
        "| float: largest difference | int8: agreement, SNR |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for row in sorted(found.rows, key=lambda each: (each.measurement.batch, found.engines.index(each.engine))):
        yield _line(row)
    yield ""
    for failure in found.failures:
        yield f"- {_reason(failure)}"
    disturbed = any(each.measurement.disturbed for each in found.settings)
    yield from (["", "The machine did other work meanwhile: times are no figures of speed."] if disturbed else [])


def _line(row: Row) -> str:
    plain, small = (row.measurement.timing(label(row.engine, side)) for side in Side)
    exact, ours = row.parity[Side.FLOAT], row.parity[Side.COMPRESSED]
    agreement = "" if ours.agreement is None else f"{100 * ours.agreement:.1f} %, "
    return (
        f"| {row.engine} | {row.measurement.batch} | {plain.settings.threads} | {plain.bytes:,}, {small.bytes:,} "
        f"| {plain.p50:.3g} ({plain.p95:.3g}), {small.p50:.3g} ({small.p95:.3g}) "
        f"| {row.ratio.median:.2f} ({row.ratio.low:.2f} to {row.ratio.high:.2f}) "
        f"| {exact.largest:.1e} | {agreement}{ours.snr:.1f} dB |"
    )


def _reason(failure: Failure) -> str:
    what = " ".join(str(each) for each in (failure.engine, failure.side and failure.side.value) if each)
    where = "" if failure.batch is None else f", batch {failure.batch}, {failure.threads} threads"
    return f"{what or 'all'}{where}: {failure.reason}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--engine", nargs="+", default=ALL_ENGINES, choices=ALL_ENGINES, metavar="NAME")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a turn")
    parser.add_argument("--save", type=Path, help="file of all tasks; those that it has are not measured again")
    parser.add_argument("--show", type=Path)
    options = parser.parse_args()
    if options.show:
        for record in json.loads(options.show.read_text()).values():
            print("\n".join(lines(Comparison.from_json(record))) + "\n")
        return
    done: dict[str, Any] = {}
    if options.save and options.save.exists():
        done = json.loads(options.save.read_text())
    for name in options.tasks:
        if name in done:
            continue
        try:
            found = measured(name, [find(each) for each in options.engine], options)
        except FeatherweightError as error:
            print(f"{name}: {error}")
            continue
        print("\n".join(lines(found)), flush=True)
        done[name] = found.to_json()
        if options.save:
            options.save.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
