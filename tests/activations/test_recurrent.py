"""Which signals of an LSTM are quantized, and over which range."""

import pytest
import torch
from torch import Tensor, nn

from featherweight.activations.least_squares import LeastSquares
from featherweight.activations.ranges import MinMax
from featherweight.activations.recurrent import QuantizedSignals
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, SelectionError
from featherweight.core.task import Example, Task
from featherweight.graph.recurrent import Step

X = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.lstm(x)[0]
        return states


def problem() -> tuple[Compressed, Task]:
    torch.manual_seed(0)
    model = Net().eval()
    task = Task("signals", Net, lambda: model, lambda: Example((X,)), calibration=lambda: [X, 2 * X])
    return Compressed(model).eval(), task


def test_bounds_need_no_data() -> None:
    student, task = problem()
    (edit,) = QuantizedSignals({"*hidden_l1": 3, "lstm.gates*": 2}).decide(student, task)
    assert isinstance(edit, Step) and set(edit.signals) == {"lstm"}
    found = edit.signals["lstm"]
    assert set(found) == {"hidden_l1", "gates_l0", "gates_l1"}
    assert found["hidden_l1"] == pytest.approx((3, -4, 1 / 3)) and found["gates_l0"] == pytest.approx((2, 0, 1 / 3))
    with pytest.raises(SchemeError, match=r"lstm\.cell_l0.* observer"):
        QuantizedSignals({"*cell_l0": 4}).decide(student, task)


def test_observed_ranges_are_those_of_calibration_data() -> None:
    student, task = problem()
    seen = student.base.lstm(2 * X)[0].detach().abs().max()
    bits = {"*input*": 8, "*hidden_l1": 8, "*cell*": 4}
    (edit,) = QuantizedSignals(bits, MinMax()).decide(student, task)
    assert isinstance(edit, Step)
    found = edit.signals["lstm"]
    assert found["input_l0"] == pytest.approx((8, -128, float(2 * X.abs().max()) / 127))
    assert found["hidden_l1"] == pytest.approx((8, -128, float(seen) / 127))
    assert {"input_l1", "cell_l0", "cell_l1"} < set(found)
    assert type(student.base.lstm) is nn.LSTM  # the student is not changed
    (less,) = QuantizedSignals({"*hidden_l1": 2}, LeastSquares(), batches=1).decide(student, task)
    assert isinstance(less, Step) and less.signals["lstm"]["hidden_l1"][2] < float(seen)


def test_nothing_to_quantize() -> None:
    student, task = problem()
    with pytest.raises(SelectionError, match="no signal"):
        QuantizedSignals({"gru.*": 4}).decide(student, task)
    with pytest.raises(SelectionError, match="no signal"):
        QuantizedSignals().decide(Compressed(nn.Linear(3, 2)), task)
