"""A compressed model beside its parent, on engines: times, sizes, memory, and whether they compute the same."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from featherweight.core.compressed import Compressed
from featherweight.core.errors import EngineError, naming
from featherweight.core.task import Batch, Data, Example, Task, device_of, evaluating
from featherweight.engines import find
from featherweight.engines.arrays import arrays_of
from featherweight.engines.engine import Arrays, Engine, Exported, Precision, Settings
from featherweight.engines.export import export
from featherweight.engines.measure import Contender, Meter, Round, Start, foreign_load, in_a_process, measure
from featherweight.engines.measurement import Measurement, Plan, Ratio, reading
from featherweight.engines.packages import needed
from featherweight.engines.parity import Parity, parity

SAMPLES = 256
"""Samples that outputs are compared on, about: whole batches."""
USUAL = tuple(map(find, ("pytorch", "onnxruntime", "openvino")))
"""Engines that are asked where none is named; those that compile for minutes, and need a compiler, are not."""


class Side(Enum):
    """Which of the two models."""

    FLOAT = "float"
    COMPRESSED = "compressed"


@dataclass(frozen=True)
class Failure:
    """What could not be exported or run, and why.

    ``batch`` and ``threads`` are ``None`` where it could not be exported; ``engine`` and ``side`` where the reason
    names one of several that were measured together, none of which has times then.
    """

    engine: str | None
    side: Side | None
    batch: int | None
    threads: int | None
    reason: str


@dataclass(frozen=True)
class Row:
    """Both models on one engine, measured together; ``ratio`` is the compressed one's speed over the float one's."""

    engine: str
    measurement: Measurement
    parity: Mapping[Side, Parity]
    ratio: Ratio


@dataclass(frozen=True)
class Setting:
    """All that were measured together: one batch size, one number of threads.

    ``parity`` holds every contender, by label, against PyTorch on its own model in float32.
    """

    batch: int
    threads: int
    measurement: Measurement
    parity: Mapping[str, Parity]

    def rows(self, engines: Iterable[str]) -> Iterator[Row]:
        """A row for every engine on which both models were measured; there is no ratio of anything else."""
        for engine in engines:
            labels = {side: label(engine, side) for side in Side}
            if set(labels.values()) <= {each.label for each in self.measurement.timings}:
                ratio = self.measurement.ratio(labels[Side.COMPRESSED], labels[Side.FLOAT])
                yield Row(engine, self.measurement, {side: self.parity[each] for side, each in labels.items()}, ratio)


@dataclass(frozen=True)
class Comparison:
    """All that was measured of two models.

    ``inputs`` says where they are from: evaluation, calibration or training data, or the example again and again.
    ``notices`` are what engines say of the compressed model's files.
    """

    task: str
    engines: tuple[str, ...]
    precision: Precision
    inputs: str
    settings: tuple[Setting, ...]
    failures: tuple[Failure, ...]
    notices: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """Everywhere that both models were measured."""
        return tuple(row for setting in self.settings for row in setting.rows(self.engines))

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "engines": list(self.engines),
            "precision": self.precision.value,
            "inputs": self.inputs,
            "rows": [_row_record(row) for row in self.rows],
            "settings": [
                {
                    "batch": each.batch,
                    "threads": each.threads,
                    "measurement": each.measurement.to_json(),
                    "parity": {name: _parity_record(found) for name, found in each.parity.items()},
                }
                for each in self.settings
            ],
            "failures": [asdict(each) | {"side": each.side and each.side.value} for each in self.failures],
            "notices": list(self.notices),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Comparison":
        """What :meth:`to_json` gave; rows are worked out anew. ``EngineError`` for what is no such record."""
        with reading():
            return cls(
                task=record["task"],
                engines=tuple(record["engines"]),
                precision=Precision(record["precision"]),
                inputs=record["inputs"],
                settings=tuple(_setting(each) for each in record["settings"]),
                failures=tuple(
                    Failure(**{**each, "side": None if each["side"] is None else Side(each["side"])})
                    for each in record["failures"]
                ),
                notices=tuple(map(str, record.get("notices", ()))),
            )


def label(engine: str, side: Side) -> str:
    return f"{engine} {side.value}"


@dataclass(frozen=True)
class Watch:
    """What is told on the way: ``say`` a line before every longer step, ``round`` every round."""

    say: Callable[[str], None] = lambda text: None
    round: Callable[[Round], None] | None = None


def compare(
    task: Task,
    student: Compressed,
    parent: nn.Module,
    engines: Sequence[Engine] = USUAL,
    *,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    precision: Precision = Precision.FLOAT32,
    plan: Plan = Plan(),  # noqa: B008  # frozen
    watch: Watch = Watch(),  # frozen
    meter: Meter = foreign_load,
    start: Start = in_a_process,
) -> Comparison:
    """Export ``student`` and its ``parent`` for every engine and measure them, each batch and threads together.

    What cannot be exported or run is a :class:`Failure` of the result, and the others go on. Before times are taken,
    every export's outputs are compared with PyTorch's in float32, of the model that it was made from.
    """
    if min(batches, default=0) < 1 or min(threads, default=0) < 1 or not engines:
        raise EngineError("nothing to measure; give an engine, and batch sizes and numbers of threads of 1 or more")
    needed("psutil", "engines")  # the long work comes first, and it last
    models: dict[Side, nn.Module] = {Side.FLOAT: parent, Side.COMPRESSED: student}
    failures: list[Failure] = []
    notices: list[str] = []
    settings: list[Setting] = []
    example = task.example()
    own = len(arrays_of(example)[0])
    source, samples = _samples(task, example, max(SAMPLES, *batches))
    with tempfile.TemporaryDirectory(prefix="featherweight-", ignore_cleanup_errors=True) as folder:
        files = _exported(models, example, engines, Path(folder), watch, failures, notices)
        for batch in dict.fromkeys(batches):
            inputs = _batches(samples, batch)
            references = {side: _reference(model, example, inputs) for side, model in models.items()}
            for count in dict.fromkeys(threads):
                taken = {key: made for key, made in files.items() if made.any_batch or batch == own}
                failures += [Failure(*key, batch, count, _alone(own)) for key in files if key not in taken]
                entries = [Entry(*key, made.path, Settings(count, precision)) for key, made in taken.items()]
                watch.say(f"batch {batch}, threads {count}: comparing outputs")
                parities = _parities(entries, inputs, references, plan, start, failures)
                able = [each.contender for each in entries if each.contender.label in parities]
                if not able:
                    continue
                watch.say(f"batch {batch}, threads {count}: timing {', '.join(each.label for each in able)}")
                try:
                    found = measure(able, inputs[0], able[0].label, plan, watch.round, meter, start)
                    settings.append(Setting(batch, count, found, parities))
                except EngineError as error:
                    failures.append(Failure(None, None, batch, count, str(error)))
    names = tuple(dict.fromkeys(each.name for each in engines))
    return Comparison(task.name, names, precision, source, tuple(settings), tuple(failures), tuple(notices))


@dataclass(frozen=True)
class Entry:
    """A file, of which model it is, and how it is run."""

    engine: str
    side: Side
    path: Path
    settings: Settings

    @property
    def contender(self) -> Contender:
        return Contender(label(self.engine, self.side), self.engine, self.path, self.settings)


def _exported(
    models: Mapping[Side, nn.Module],
    example: Example,
    engines: Sequence[Engine],
    folder: Path,
    watch: Watch,
    failures: list[Failure],
    notices: list[str],
) -> dict[tuple[str, Side], Exported]:
    """The files that could be written, by engine and side."""
    files: dict[tuple[str, Side], Exported] = {}
    for engine in engines:
        for side, model in models.items():
            path = folder / f"{engine.name}-{side.value}{engine.suffix}"
            watch.say(f"exporting for {label(engine.name, side)}")
            try:
                if isinstance(model, Compressed):
                    made = export(model, example, path, engine).file
                    notices += [f"{engine.name}: {made.notice}"] if made.notice else []
                else:
                    made = engine.export(model, example, path)
                files[engine.name, side] = made
            except EngineError as error:
                failures.append(Failure(engine.name, side, None, None, str(error)))
    return files


def _alone(batch: int) -> str:
    return f"its file takes batches of {batch} alone, as the example is; measure with that, or give another example"


def _parities(
    entries: Sequence[Entry],
    inputs: Sequence[Arrays],
    references: Mapping[Side, Sequence[Arrays]],
    plan: Plan,
    start: Start,
    failures: list[Failure],
) -> dict[str, Parity]:
    """By label, each entry's outputs beside the reference's; without those that could not be run."""
    found: dict[str, Parity] = {}
    for each in entries:
        try:
            with start(each.settings, plan.timeout) as worker:
                worker.open(each.engine, each.path, each.settings)
                worker.inputs(inputs)
                found[each.contender.label] = parity(references[each.side], worker.run())
        except EngineError as error:
            batch = len(inputs[0][0])
            failures.append(Failure(each.engine, each.side, batch, each.settings.threads, str(error)))
    return found


def _samples(task: Task, example: Example, count: int) -> tuple[str, Arrays]:
    """Where inputs come from, and ``count`` of them: the task's own where they are shaped as the example is."""
    wanted = arrays_of(example)
    if any(each.ndim == 0 for each in wanted) or not wanted:
        raise EngineError(f"task {task.name!r}: inputs without a batch dimension cannot be measured at a batch size")
    for name, source in (("evaluation", task.evaluation), ("calibration", task.calibration), ("training", task.train)):
        found = None if source is None else _gathered(source(), example, wanted, count)
        if found is not None:
            return name, found
    return "example", [_repeated(each, count) for each in wanted]


def _gathered(data: Data, example: Example, wanted: Arrays, count: int) -> Arrays | None:
    """The first samples, again from the first where there are fewer; ``None`` where they are not like the example."""
    parts: list[list[np.ndarray[Any, Any]]] = []
    for batch in data:
        arrays = arrays_of(_ordered(batch, example))
        if [_kind(each) for each in arrays] != [_kind(each) for each in wanted] or len({len(a) for a in arrays}) != 1:
            return None
        parts.append(arrays)
        if sum(len(part[0]) for part in parts) >= count:
            break
    if not parts:
        return None
    return [_repeated(np.concatenate(each), count) for each in zip(*parts, strict=True)]


def _ordered(batch: Batch, example: Example) -> Batch:
    """Of a mapping, what the example has, in its order: targets may lie in it too."""
    if isinstance(batch, dict) and example.kwargs.keys() <= batch.keys():
        return {key: batch[key] for key in example.kwargs}
    return batch


def _kind(array: "np.ndarray[Any, Any]") -> Any:
    return array.dtype, array.shape[1:]


def _repeated(array: "np.ndarray[Any, Any]", count: int) -> "np.ndarray[Any, Any]":
    return array[np.arange(count) % len(array)]


def _batches(samples: Arrays, batch: int) -> list[Arrays]:
    """About ``SAMPLES`` samples in whole batches, one at least."""
    count = max(1, SAMPLES // batch)
    return [[each[k * batch : (k + 1) * batch] for each in samples] for k in range(count)]


@torch.no_grad()
def _reference(model: nn.Module, example: Example, inputs: Sequence[Arrays]) -> list[Arrays]:
    """What PyTorch gives for each batch, in evaluation mode and in the order of engines' outputs."""
    found: list[Arrays] = []
    with evaluating(model), naming("the reference"):
        for arrays in inputs:
            outputs = _filled(example, arrays, device_of(model)).run(model)
            found.append([each.cpu().numpy() for each in tree_leaves(outputs) if isinstance(each, Tensor)])
    return found


def _filled(example: Example, arrays: Arrays, device: torch.device) -> Example:
    """The example with other tensors in the places of its own."""
    given = iter(arrays)

    def fill(value: Any) -> Any:
        return torch.from_numpy(next(given)).to(device) if isinstance(value, Tensor) else value

    return Example(tuple(map(fill, example.args)), {key: fill(value) for key, value in example.kwargs.items()})


def _row_record(row: Row) -> dict[str, Any]:
    """What a reader wants first; all of it is in the settings too."""
    sides = {side: row.measurement.timing(label(row.engine, side)) for side in Side}
    threads = sides[Side.FLOAT].settings.threads
    record: dict[str, Any] = {"engine": row.engine, "batch": row.measurement.batch, "threads": threads}
    for side, each in sides.items():
        figures = {"p50": each.p50, "p95": each.p95, "bytes": each.bytes, "memory": asdict(each.memory)}
        record[side.value] = figures | {"parity": _parity_record(row.parity[side])}
    return record | {"ratio": asdict(row.ratio), "disturbed": row.measurement.disturbed}


def _parity_record(found: Parity) -> dict[str, Any]:
    """JSON has no infinity: ``None`` stands for it, and ``largest`` tells which one of ``snr``."""
    values = asdict(found).items()
    return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in values}


def _setting(record: Mapping[str, Any]) -> Setting:
    parities = {name: _parity(each) for name, each in record["parity"].items()}
    return Setting(record["batch"], record["threads"], Measurement.from_json(record["measurement"]), parities)


def _parity(record: Mapping[str, Any]) -> Parity:
    largest = inf if record["largest"] is None else record["largest"]
    snr = (-inf if largest else inf) if record["snr"] is None else record["snr"]
    return Parity(largest, snr, record["agreement"], record["samples"])
