"""A compressed model beside the one it was made from, on engines."""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from featherweight.core.compressed import Compressed
from featherweight.core.errors import DataError, EngineError
from featherweight.core.task import Data, Example, Task, evaluating
from featherweight.engines import find
from featherweight.engines.engine import Arrays, Engine, Precision, Settings, arrays_of
from featherweight.engines.export import export
from featherweight.engines.measure import (
    Contender,
    ContenderError,
    Measurement,
    Plan,
    Progress,
    Ratio,
    Timing,
    Watch,
    measure,
)
from featherweight.engines.parity import Parity, parity
from featherweight.engines.process import Worker

Kind = Literal["float", "compressed"]
KINDS: tuple[Kind, ...] = ("float", "compressed")
DEFAULT = ("pytorch", "onnxruntime", "openvino")
"""Engines that need no compiler."""
PLAN = Plan()
SAMPLES = 64
"""What parity is measured on, or one batch where that is more."""


@dataclass(frozen=True)
class Checked:
    """How far an engine's outputs are from those of PyTorch, for the same model and inputs."""

    engine: str
    kind: Kind
    batch: int
    threads: int
    parity: Parity


@dataclass(frozen=True)
class Failure:
    """What could not be exported or run, and why; ``batch`` and ``threads`` are ``None`` for an export."""

    engine: str
    kind: Kind
    reason: str
    batch: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Row:
    """One engine at one batch size and number of threads; ``None`` for what could not be measured."""

    engine: str
    batch: int
    threads: int
    before: Timing | None
    after: Timing | None
    ratio: Ratio | None
    parity_before: Parity | None
    parity_after: Parity | None
    disturbed: bool
    load: float


@dataclass(frozen=True)
class Comparison:
    """``inputs`` says what the models were run on: the task's ``evaluation`` or ``calibration`` data, or its
    ``example``, repeated.
    """

    task: str
    inputs: str
    precision: str
    measurements: tuple[Measurement, ...]
    checks: tuple[Checked, ...]
    failures: tuple[Failure, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every engine of every measurement. A speed is compared with the same engine's, in the same measurement."""
        return tuple(row for each in self.measurements for row in self._rows(each))

    @property
    def disturbed(self) -> bool:
        return any(each.disturbed for each in self.measurements)

    def _rows(self, found: Measurement) -> Iterator[Row]:
        timings = {each.label: each for each in found.timings}
        threads = found.timings[0].threads
        for engine in dict.fromkeys(each.engine for each in found.timings):
            before, after = label(engine, "float"), label(engine, "compressed")
            checks = {
                each.kind: each.parity
                for each in self.checks
                if (each.engine, each.batch, each.threads) == (engine, found.batch, threads)
            }
            yield Row(
                engine=engine,
                batch=found.batch,
                threads=threads,
                before=timings.get(before),
                after=timings.get(after),
                ratio=found.ratio(after, before) if {before, after} <= timings.keys() else None,
                parity_before=checks.get("float"),
                parity_after=checks.get("compressed"),
                disturbed=found.disturbed,
                load=max(found.loads),
            )

    def to_json(self) -> dict[str, Any]:
        """Numbers that are infinite are texts, which ``float`` reads. Ratios of each engine stand in ``ratios``."""
        return {
            "task": self.task,
            "inputs": self.inputs,
            "precision": self.precision,
            "measurements": [each.to_json() for each in self.measurements],
            "ratios": [
                {"engine": row.engine, "batch": row.batch, "threads": row.threads, **asdict(row.ratio)}
                for row in self.rows
                if row.ratio is not None
            ],
            "checks": [asdict(each) | {"parity": _written(each.parity)} for each in self.checks],
            "failures": [asdict(each) for each in self.failures],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Ratios are computed again from the timings."""
        return cls(
            task=record["task"],
            inputs=record["inputs"],
            precision=record["precision"],
            measurements=tuple(Measurement.from_json(each) for each in record["measurements"]),
            checks=tuple(Checked(**each | {"parity": _read(each["parity"])}) for each in record["checks"]),
            failures=tuple(Failure(**each) for each in record["failures"]),
        )


def _written(found: Parity) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(found).items()
    }


def _read(record: Mapping[str, Any]) -> Parity:
    return Parity(float(record["largest"]), float(record["snr"]), record["agreement"], record["samples"])


def label(engine: str, kind: Kind) -> str:
    """What a contender is called in a measurement."""
    return f"{engine}, {kind}"


def compare(
    task: Task,
    student: Compressed,
    parent: nn.Module,
    engines: Sequence[str] = DEFAULT,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    plan: Plan = PLAN,
    watch: Watch | None = None,
) -> Comparison:
    """Export the student and its parent, and time both on every engine.

    All contenders of one batch size and number of threads take turns (:func:`measure`), in float32. Each is first held
    against its own model in PyTorch, on up to 64 samples. What cannot be exported or run is kept with its reason, and
    the others go on. ``EngineError`` where nothing at all can be measured.
    """
    chosen = [find(name) for name in dict.fromkeys(engines)]
    _check(chosen, threads, batches)
    with tempfile.TemporaryDirectory(prefix="featherweight-") as folder:
        models: dict[Kind, Compressed] = {"float": Compressed(parent), "compressed": student}
        run = _Run(task, models, plan, watch or (lambda _: None))
        run.export(chosen, Path(folder))
        for batch in dict.fromkeys(batches):
            for count in dict.fromkeys(threads):
                run.measure(batch, count)
    if not run.measurements:
        raise EngineError(f"nothing could be measured: {'; '.join(dict.fromkeys(f.reason for f in run.failures))}")
    return Comparison(
        task.name,
        run.inputs.source,
        Precision.FLOAT32.value,
        tuple(run.measurements),
        tuple(run.checks),
        tuple(run.failures),
    )


def _check(engines: Sequence[Engine], threads: Sequence[int], batches: Sequence[int]) -> None:
    if not engines or not threads or not batches:
        raise EngineError("name at least one engine, one number of threads and one batch size")
    for count in threads:
        Settings(count)
    if min(batches) < 1:
        raise EngineError(f"a batch of {min(batches)} samples; give 1 or more")


@dataclass(frozen=True)
class _File:
    path: Path
    any_batch: bool


class _Run:
    """What a comparison has found so far."""

    def __init__(self, task: Task, models: Mapping[Kind, Compressed], plan: Plan, watch: Watch) -> None:
        self.task, self.models, self.plan, self.watch = task, models, plan, watch
        self.example = task.example()
        self.inputs = Inputs.of(task)
        self.files: dict[tuple[str, Kind], _File] = {}  # by engine
        self.measurements: list[Measurement] = []
        self.checks: list[Checked] = []
        self.failures: list[Failure] = []

    def export(self, engines: Sequence[Engine], folder: Path) -> None:
        """Every model once for each suffix."""
        made: dict[tuple[str, Kind], _File | str] = {}
        for engine in engines:
            for kind in KINDS:
                key = engine.suffix, kind
                if key not in made:
                    self.watch(Progress(f"exporting {kind}{engine.suffix}", 0, 1))
                    made[key] = self._exported(engine, kind, folder / f"{kind}{engine.suffix}")
                found = made[key]
                if isinstance(found, str):
                    self.failures.append(Failure(engine.name, kind, found))
                else:
                    self.files[engine.name, kind] = found

    def _exported(self, engine: Engine, kind: Kind, path: Path) -> _File | str:
        try:
            return _File(path, export(self.models[kind], self.example, path, engine).file.any_batch)
        except EngineError as error:
            return str(error)

    def measure(self, batch: int, threads: int) -> None:
        """Time whatever runs; a contender that fails is left out, and the others begin anew."""
        what = f"batch {batch}, {threads} thread{'s' * (threads > 1)}"
        contenders = {key: self._contender(key, file, threads) for key, file in self._fitting(batch, threads).items()}
        while contenders:
            checks: list[Checked] = []

            def check(contender: Contender, worker: Worker, checks: list[Checked] = checks) -> None:
                self.watch(Progress(f"checking {contender.label}, {what}", 0, self.plan.rounds))
                checks.append(self._checked(contender, worker, batch))

            try:
                found = measure(
                    tuple(contenders.values()),
                    self.inputs.batch(batch),
                    next(iter(contenders.values())).label,
                    self.plan,
                    lambda now: self.watch(replace(now, what=f"timing {what}")),
                    opened=check,
                )
            except ContenderError as error:
                key = next(key for key, each in contenders.items() if each.label == error.label)
                self.failures.append(Failure(*key, str(error), batch, threads))
                del contenders[key]
            else:
                self.checks += checks
                self.measurements.append(found)
                return

    def _contender(self, key: tuple[str, Kind], file: _File, threads: int) -> Contender:
        return Contender(label(*key), key[0], file.path, Settings(threads))

    def _fitting(self, batch: int, threads: int) -> dict[tuple[str, Kind], _File]:
        """The files that take batches of this size."""
        fitting = {}
        for key, file in self.files.items():
            if file.any_batch or batch == self.inputs.size:
                fitting[key] = file
            else:
                only = (
                    f"the model could be exported for batches of {self.inputs.size} alone, its example's; measure that"
                )
                self.failures.append(Failure(*key, only, batch, threads))
        return fitting

    def _checked(self, contender: Contender, worker: Worker, batch: int) -> Checked:
        """How the outputs agree with those of PyTorch for the same model."""
        kind = next(kind for kind in KINDS if contender.label == label(contender.engine, kind))
        given = [self.inputs.batch(batch, i * batch) for i in range(max(1, SAMPLES // batch))]
        outputs = []
        for each in given:
            worker.inputs(each)
            outputs.append(worker.run())
        found = parity([self._reference(kind, each) for each in given], outputs)
        return Checked(contender.engine, kind, batch, contender.settings.threads, found)

    @torch.no_grad()
    def _reference(self, kind: Kind, inputs: Arrays) -> "list[np.ndarray[Any, Any]]":
        model = self.models[kind]
        with evaluating(model):
            outputs = _filled(self.example, inputs).run(model)
        return [each.cpu().numpy() for each in tree_leaves(outputs) if isinstance(each, Tensor)]


def _filled(example: Example, arrays: Arrays) -> Example:
    """The example with these tensors in place of its own."""
    given = iter(arrays)

    def fill(value: Any) -> Any:
        return torch.from_numpy(next(given).copy()).to(value.device) if isinstance(value, Tensor) else value

    return Example(tuple(map(fill, example.args)), {name: fill(value) for name, value in example.kwargs.items()})


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples to run models on.

    arrays  of the model's tensors in the example's order, samples first; tensors without dimensions stay as they are
    source  where they came from
    size    samples in the example
    """

    arrays: tuple["np.ndarray[Any, Any]", ...]
    source: str
    size: int

    @classmethod
    def of(cls, task: Task) -> Self:
        """From the task's data, where its tensors are like the example's; else from the example itself."""
        example = task.example()
        own = arrays_of(example)
        size = next((len(each) for each in own if each.ndim), 1)
        for source, data in (("evaluation", task.evaluation), ("calibration", task.calibration or task.train)):
            found = None if data is None else _gathered(data, example, own)
            if found is not None:
                return cls(found, source, size)
        return cls(tuple(own), "example", size)

    def batch(self, size: int, start: int = 0) -> "list[np.ndarray[Any, Any]]":
        """``size`` samples from number ``start`` on; they are repeated where there are too few."""
        return [
            np.ascontiguousarray(each[np.arange(start, start + size) % len(each)]) if each.ndim else each
            for each in self.arrays
        ]


def _gathered(data: Callable[[], Data], example: Example, own: Arrays) -> "tuple[np.ndarray[Any, Any], ...] | None":
    """The first samples of the data, enough for parity; ``None`` where it is absent or not like the example's."""
    parts: list[list[np.ndarray[Any, Any]]] = []
    try:
        batches = iter(data())
    except DataError:
        return None
    for batch in batches:
        arrays = arrays_of(_ordered(batch, example))
        if not all(x.ndim for x in own) or [_kind(x) for x in arrays] != [_kind(x) for x in own]:
            return None
        parts.append(arrays)
        if sum(len(each[0]) for each in parts) >= SAMPLES:
            break
    if not parts or not all(len(each[0]) for each in parts):
        return None
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))


def _kind(x: "np.ndarray[Any, Any]") -> tuple[tuple[int, ...], "np.dtype[Any]"]:
    return x.shape[1:], x.dtype


def _ordered(batch: Any, example: Example) -> Any:
    """The inputs of a batch, keyword arguments in the example's order."""
    inputs = batch[0] if isinstance(batch, tuple | list) else batch
    if isinstance(inputs, dict) and inputs.keys() == example.kwargs.keys():
        return {name: inputs[name] for name in example.kwargs}
    return inputs
