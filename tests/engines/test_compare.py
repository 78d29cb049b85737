"""A student beside its parent on engines, and what cannot be measured."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import DataError, EngineError, SelectionError
from featherweight.core.task import Example, Task
from featherweight.engines.compare import Checked, Comparison, Inputs, compare
from featherweight.engines.measure import Plan, Progress
from featherweight.engines.parity import Parity
from featherweight.result import Result

from .nets import NETS

pytest.importorskip("psutil")
PLAN = Plan(rounds=1, seconds=0.01, warmup=0.0, patience=1)


def task(**given: object) -> Task:
    net = NETS["digits"]
    return replace(Task("digits", net.build, net.model, lambda: net.example), **given)  # type: ignore[arg-type]


def test_what_fails_is_told_and_the_rest_is_measured(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    of, seen = task(), list[Progress]()
    found = compare(of, Compressed(Branching()), of.model(), ["pytorch"], [1], [2], PLAN, seen.append)
    (failure,) = found.failures
    assert (failure.engine, failure.kind, failure.batch) == ("pytorch", "compressed", None)
    assert "cannot be traced" in failure.reason
    (row,) = found.rows
    assert row.after is None and row.ratio is None and row.before is not None and row.batch == 2
    assert row.parity_before is not None and row.parity_before.snr > 80 and row.parity_after is None
    assert seen[-1].what == "timing batch 2, 1 thread"
    assert Comparison.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_nothing_to_measure() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(EngineError, match="nothing could be measured.*cannot be traced"):
        compare(task(), Compressed(Branching()), Branching(), ["pytorch"], [1], [1], PLAN)


def test_wrong_wishes() -> None:
    student = Compressed(NETS["digits"].model())
    with pytest.raises(SelectionError, match="no engine 'abacus'"):
        compare(task(), student, student.base, ["abacus"])
    with pytest.raises(EngineError, match="0 threads"):
        compare(task(), student, student.base, ["pytorch"], [0])
    with pytest.raises(EngineError, match="batch of 0"):
        compare(task(), student, student.base, ["pytorch"], [1], [0])
    with pytest.raises(EngineError, match="at least one"):
        compare(task(), student, student.base, [])


def test_infinite_numbers_are_valid_json() -> None:
    checked = Checked("pytorch", "float", 1, 1, Parity(0.0, inf, None, 64))
    found = Comparison("t", "example", "float32", (), (checked,), ())
    assert Comparison.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_inputs_come_from_data_where_it_is_like_the_example() -> None:
    x = torch.arange(3 * 64.0).reshape(3, 1, 8, 8)

    def absent() -> list[Tensor]:
        raise DataError("it is not there")

    found = Inputs.of(task(evaluation=lambda: [(x[:2], None), (x[2:], None)]))
    assert found.source == "evaluation"
    (batch,) = found.batch(4, 2)
    np.testing.assert_array_equal(batch, x[[2, 0, 1, 2]].numpy())
    assert Inputs.of(task(evaluation=absent, calibration=lambda: [x])).source == "calibration"
    other = Inputs.of(task(evaluation=lambda: [x[..., :5]]))
    assert (other.source, other.batch(3)[0].shape) == ("example", (3, 1, 8, 8))


def test_keyword_arguments_come_in_the_examples_order() -> None:
    example = Example((), {"b": torch.zeros(1, 2), "a": torch.zeros(1, 2)})
    rows = {"a": torch.ones(3, 2), "b": torch.full((3, 2), 2.0)}
    b, a = Inputs.of(replace(task(evaluation=lambda: [(rows, None)]), example=lambda: example)).batch(1)
    assert b[0, 0] == 2 and a[0, 0] == 1


def test_a_result_is_measured_beside_its_tasks_model() -> None:
    of = task()
    result = Result(Compressed(of.model()), of, None, (), None)  # type: ignore[arg-type]  # no recipe made it
    found = result.measure(["pytorch"], batches=[1, 3], plan=PLAN)
    assert [row.batch for row in found.rows] == [1, 3] and found.inputs == "example" and found.failures == ()
    assert all(row.ratio is not None for row in found.rows)
