"""A compressed model beside its parent: what is measured, compared with PyTorch, left out, and said."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from featherweight.core.compressed import Compressed
from featherweight.core.errors import EngineError
from featherweight.core.task import Example, Task
from featherweight.engines.compare import SAMPLES, Comparison, Failure, Side, Watch, compare
from featherweight.engines.engine import Engine, Exported, Precision, Runner, Settings
from featherweight.engines.measurement import Plan
from featherweight.engines.parity import Parity
from featherweight.engines.pytorch import Eager
from featherweight.engines.worker import Model
from featherweight.papers import deep_compression
from featherweight.report import measured
from featherweight.result import Result
from featherweight.schemes.uniform import PerChannel, Uniform

from .fakes import Fake, Inside

pytest.importorskip("psutil")

PLAN = Plan(rounds=2, seconds=1e-4, warmup=0, patience=2)


class Net(nn.Module):
    """Takes two inputs, one by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def forward(self, x: Tensor, *, shift: Tensor) -> Tensor:
        return self.layer(x) + shift


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


def example() -> Example:
    return Example((torch.zeros(1, 8),), {"shift": torch.zeros(1, 5)})


TASK = Task("two inputs", architecture=Net, model=net, example=example)


def student() -> Compressed:
    made = Compressed(net())
    scheme = Uniform(4, granularity=PerChannel(0))
    made.encode({"layer.weight": scheme.project(made.parameter("layer.weight"))}, {"layer.weight": scheme})
    return made.eval()


@dataclass(frozen=True)
class Once(Eager):
    """Writes the files of the two models above once: they are the same in every test."""

    name: ClassVar[str] = "pytorch"

    def export(self, model: nn.Module, example: Example, path: Path) -> Exported:
        key = (parametrize.is_parametrized(model.get_submodule("layer")), str(example))
        if key not in WRITTEN:
            WRITTEN[key] = (super().export(model, example, path), path.read_bytes())
        made, data = WRITTEN[key]
        path.write_bytes(data)
        return replace(made, path=path)


WRITTEN: dict[tuple[bool, str], tuple[Exported, bytes]] = {}


@dataclass(frozen=True)
class Refuses(Once):
    """Exports the parent alone."""

    name: ClassVar[str] = "refuses"

    def export(self, model: nn.Module, example: Example, path: Path) -> Exported:
        if parametrize.is_parametrized(model.get_submodule("layer")):
            raise EngineError("it takes no compressed models")
        return super().export(model, example, path)


@dataclass(frozen=True)
class Widens(Once):
    """As if there were no VNNI."""

    name: ClassVar[str] = "pytorch"

    def export(self, model: nn.Module, example: Example, path: Path) -> Exported:
        return replace(super().export(model, example, path), unsigned=3)


@dataclass(frozen=True)
class Holds(Once):
    """Its files hold on to the example's batch."""

    name: ClassVar[str] = "holds"

    def export(self, model: nn.Module, example: Example, path: Path) -> Exported:
        return replace(super().export(model, example, path), any_batch=False)


@dataclass(frozen=True)
class Breaks(Once):
    """Exports all and opens nothing."""

    name: ClassVar[str] = "breaks"

    def open(self, path: Path, settings: Settings) -> Runner:
        raise EngineError(f"it cannot open files with {settings.threads} threads")


ENGINES: dict[str, Engine] = {each.name: each for each in (Once(), Refuses(), Holds(), Breaks())}


def quiet(pid: int) -> Callable[[], float]:
    return lambda: 0.02


def compared(task: Task = TASK, engines: tuple[Engine, ...] = (Once(),), **settings: Any) -> Comparison:
    def start(settings: Settings, timeout: float) -> Inside:
        return Inside(ENGINES)

    return compare(
        task, student(), net(), engines, plan=PLAN, meter=settings.pop("meter", quiet), start=start, **settings
    )


@pytest.fixture(scope="module")
def usual() -> Comparison:
    return compared(engines=(Once(), Refuses(), Breaks()), batches=(1, 3), threads=(1,))


def test_both_models_are_measured_together_at_every_setting(usual: Comparison) -> None:
    assert [(each.batch, each.threads) for each in usual.settings] == [(1, 1), (3, 1)]
    for setting in usual.settings:
        labels = [each.label for each in setting.measurement.timings]
        assert labels == ["pytorch float", "pytorch compressed", "refuses float"]
        assert setting.measurement.batch == setting.batch
        assert set(setting.parity) == set(labels)


def test_a_file_of_one_batch_is_measured_with_that_alone() -> None:
    found = compared(engines=(Once(), Holds()), batches=(1, 3))
    assert [(row.engine, row.measurement.batch) for row in found.rows] == [
        ("pytorch", 1), ("holds", 1), ("pytorch", 3),
    ]  # fmt: skip
    assert [(each.engine, each.side, each.batch, each.threads) for each in found.failures] == [
        ("holds", side, 3, 1) for side in Side
    ]
    assert all("batches of 1 alone" in each.reason for each in found.failures)


def test_there_is_a_ratio_where_both_ran_and_nowhere_else(usual: Comparison) -> None:
    assert [(row.engine, row.measurement.batch) for row in usual.rows] == [("pytorch", 1), ("pytorch", 3)]
    row, found = usual.rows[0], usual.settings[0].measurement
    assert row.ratio == found.ratio("pytorch compressed", "pytorch float")


def test_what_cannot_be_exported_or_run_is_said(usual: Comparison) -> None:
    first = Failure("refuses", Side.COMPRESSED, None, None, "it takes no compressed models")
    reason = "it cannot open files with 1 threads"
    rest = [Failure("breaks", side, batch, 1, reason) for batch in (1, 3) for side in Side]
    assert list(usual.failures) == [first, *rest]


def test_what_engines_say_of_the_compressed_models_file_is_said() -> None:
    found = compared(engines=(Widens(),))
    (notice,) = found.notices
    assert re.match(r"pytorch: 3 weights have more than 7 bits.*no faster than floats.*int7", notice)
    assert Comparison.from_json(found.to_json()).notices == found.notices
    assert notice in list(measured.comparison(found))
    assert not compared().notices


def test_exports_are_compared_with_their_own_model(usual: Comparison) -> None:
    """The compressed one with the student: with its parent it would be far off."""
    for setting in usual.settings:
        for found in setting.parity.values():
            assert found.samples == SAMPLES // setting.batch * setting.batch
            assert found.largest < 1e-5 and found.agreement == 1


def test_records_come_back(usual: Comparison) -> None:
    record = json.loads(json.dumps(usual.to_json(), allow_nan=False))
    assert Comparison.from_json(record) == usual
    assert [row["ratio"]["median"] for row in record["rows"]] == [row.ratio.median for row in usual.rows]
    with pytest.raises(EngineError, match="no record"):
        Comparison.from_json(record | {"failures": [{"side": "neither"}]})


@pytest.mark.parametrize("parity", [Parity(0.0, inf, 1.0, 3), Parity(inf, -inf, None, 3), Parity(0.1, 20.0, 0.5, 3)])
def test_infinite_parities_come_back(usual: Comparison, parity: Parity) -> None:
    setting = replace(usual.settings[0], parity=dict.fromkeys(usual.settings[0].parity, parity))
    found = replace(usual, settings=(setting,))
    assert Comparison.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def text(found: Comparison) -> str:
    from rich.console import Console

    out = Console(width=300, highlight=False, markup=False)
    with out.capture() as captured:
        for part in measured.comparison(found):
            out.print(part)
    return captured.get()


def test_a_terminal_is_told_all_of_it(usual: Comparison) -> None:
    told = text(usual)
    ratio = usual.rows[0].ratio
    assert f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" in told
    sizes = [usual.settings[0].measurement.timing(f"pytorch {side.value}").bytes for side in Side]
    assert f"{sizes[0]:,} / {sizes[1]:,}" in told
    machine = usual.settings[0].measurement.machine
    assert machine.cpu in told and f"{machine.cores} cores" in told and "computed in float32" in told
    assert "the task's example, repeated" in told and "warning" not in told
    assert "not measured: refuses compressed: it takes no compressed models" in told
    assert "not measured: breaks float, batch 3, threads 1: it cannot open" in told


def test_no_speed_up_is_told_of_one_model_alone(usual: Comparison) -> None:
    rows = [line.split() for line in text(usual).splitlines() if line.startswith("refuses")]
    times = rows[0]
    assert times[3:6] == [times[3], "/", times[5]] and times[6:10] == ["not", "measured", "not", "measured"]


def test_few_rounds_are_told(usual: Comparison) -> None:
    """Two rounds' ratios are no interval of 95 %; nine would be."""
    assert "2 rounds are too few" in text(usual)
    nine = Plan(rounds=9)
    setting = usual.settings[0]
    timings = tuple(replace(each, medians=(1.0,) * 9, loads=(0.0,) * 9) for each in setting.measurement.timings)
    found = replace(
        usual, settings=(replace(setting, measurement=replace(setting.measurement, timings=timings, plan=nine)),)
    )
    assert "with 95 % intervals" in text(found) and "too few" not in text(found)


def test_a_disturbed_machine_is_told() -> None:
    found = compared(meter=lambda pid: lambda: 0.8)
    assert found.settings[0].measurement.disturbed and found.rows[0].measurement.disturbed
    assert "warning: batch 1, threads 1: the machine was disturbed: something else took up to 0.80 cores" in text(found)


def test_nothing_at_all_is_no_table() -> None:
    found = compared(engines=(Breaks(),))
    assert found.settings == () and found.rows == () and "p95" not in text(found)


def rows(count: int) -> Tensor:
    return torch.arange(count * 8, dtype=torch.float32).reshape(count, 8)


class Sees(Inside):
    """Keeps the inputs that it was given."""

    seen: ClassVar[list[list[list[np.ndarray[Any, Any]]]]] = []

    def inputs(self, batches: Any) -> None:
        Sees.seen.append([list(each) for each in batches])
        super().inputs(batches)


def inputs_of(task: Task, batch: int) -> tuple[str, list[list[np.ndarray[Any, Any]]]]:
    """Where inputs came from, and those that outputs were compared on."""
    Sees.seen.clear()
    parent = task.model()
    found = compare(
        task, Compressed(parent), parent, (Eager(),), batches=(batch,), plan=PLAN, meter=quiet,
        start=lambda settings, timeout: Sees(ENGINES),
    )  # fmt: skip
    assert not found.failures
    first, timed = Sees.seen[0], Sees.seen[-1]
    assert all(np.array_equal(a, b) for a, b in zip(first[0], timed[0], strict=True)) and len(timed) == 1
    return found.inputs, first


def simple(**data: Any) -> Task:
    def model() -> nn.Module:
        return nn.Linear(8, 3).eval()

    given = {name: (lambda value=value: value) for name, value in data.items()}
    example = Example((torch.zeros(1, 8),))
    return Task("simple", architecture=model, model=model, example=lambda: example, **given)


def test_inputs_are_the_evaluation_datas_and_again_from_the_first() -> None:
    batches = [(rows(5)[:3], torch.zeros(3)), (rows(5)[3:], torch.zeros(2))]
    source, found = inputs_of(simple(evaluation=batches, calibration=[rows(5) + 1]), 4)
    assert source == "evaluation" and len(found) == SAMPLES // 4
    order = np.arange(SAMPLES) % 5
    assert np.array_equal(np.concatenate([each[0] for each in found]), rows(5).numpy()[order])


def test_inputs_are_the_calibration_datas_else_the_example() -> None:
    assert inputs_of(simple(calibration=[rows(300)]), 300)[0] == "calibration"
    unlike = [(torch.zeros(3, 9), torch.zeros(3))]
    source, found = inputs_of(simple(evaluation=unlike, calibration=[]), 2)
    assert source == "example" and found[0][0].shape == (2, 8) and not found[0][0].any()


def test_of_mappings_the_inputs_are_what_the_example_has() -> None:
    data = [{"target": torch.zeros(4), "shift": torch.ones(4, 5), "x": rows(4)}]
    task = replace(
        TASK,
        example=lambda: Example((), {"x": torch.zeros(1, 8), "shift": torch.zeros(1, 5)}),
        evaluation=lambda: data,
    )
    source, found = inputs_of(task, 2)
    assert source == "evaluation"
    assert np.array_equal(found[0][0], rows(4).numpy()[:2]) and found[0][1].shape == (2, 5)


@pytest.mark.parametrize("wrong", [{"batches": (0,)}, {"batches": ()}, {"threads": ()}, {"engines": ()}])
def test_nothing_to_measure_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="nothing to measure"):
        compared(**wrong)


def test_steps_and_rounds_are_told() -> None:
    lines: list[str] = []
    told: list[int] = []
    compared(watch=Watch(lines.append, lambda now: told.append(now.number)))
    assert told == [1, 2]
    assert lines[0] == "exporting for pytorch float" and lines[-1].startswith(
        "batch 1, threads 1: timing pytorch float"
    )


def test_times_of_a_setting_that_fails_are_none_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that breaks when it is timed, for the larger batch."""
    whole = Model.time

    def time(self: Model, calls: int) -> list[int]:
        if len(self.batches[0][0]) == 2:
            raise EngineError("out of breath")
        return whole(self, calls)

    monkeypatch.setattr(Model, "time", time)
    found = compared(batches=(2, 1))
    assert [each.batch for each in found.settings] == [1]
    assert found.failures == (Failure(None, None, 2, 1, "pytorch float: out of breath"),)
    assert "not measured: all of them, batch 2, threads 1: pytorch float: out of breath" in text(found)


def test_the_precision_is_recorded() -> None:
    found = compared(precision=Precision.BFLOAT16)
    assert found.precision is Precision.BFLOAT16
    assert found.settings[0].measurement.timings[0].settings == Settings(1, Precision.BFLOAT16)
    assert found.settings[0].parity["pytorch float"].largest > 0


def test_a_result_is_measured_beside_its_tasks_model() -> None:
    found = Result(student(), TASK, deep_compression.recipe(), (), None).measure((Fake(),), batches=(2,))
    assert (found.task, found.engines, found.rows) == ("two inputs", ("fake",), ())
    assert [each.side for each in found.failures] == [Side.FLOAT, Side.COMPRESSED]
