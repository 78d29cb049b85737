"""The second moment of inputs, and where it is not known."""

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.metric import EUCLIDEAN, Full
from featherweight.core.task import Example, Task
from featherweight.metrics.hessian import InputMoment


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2, padding=1)
        self.depthwise = nn.Conv2d(3, 3, 2, groups=3)
        self.head, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.depthwise(self.conv(x)).mean((2, 3)))
        return y


INPUTS = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def task(model: nn.Module) -> Task:
    return Task("t", Net, lambda: model, lambda: Example((INPUTS,)), calibration=lambda: [INPUTS[:2], INPUTS[2:]])


def test_the_metric_is_the_error_of_the_outputs() -> None:
    model = Net()
    metric = InputMoment().measure(Compressed(model).eval(), ["conv.weight"], task(model))["conv.weight"]
    moved = torch.randn(model.conv.weight.shape)
    with torch.no_grad():
        outputs = torch.nn.functional.conv2d(INPUTS, moved, padding=1)
    found = metric.distance(model.conv.weight.detach() + moved, model.conv.weight.detach())
    torch.testing.assert_close(float(found), float(outputs.square().sum(1).mean()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["depthwise.weight", "unused.weight", "head.bias"])
def test_where_inputs_are_not_known_errors_count_alike_if_that_is_allowed(name: str) -> None:
    model = Net()
    student = Compressed(model).eval()
    found = InputMoment(required=False).measure(student, [name, "head.weight"], task(model))
    assert found[name] is EUCLIDEAN and isinstance(found["head.weight"], Full)


@pytest.mark.parametrize(("name", "error"), [("depthwise.weight", SchemeError), ("unused.weight", TaskError)])
def test_else_it_is_an_error(name: str, error: type[Exception]) -> None:
    model = Net()
    with pytest.raises(error):
        InputMoment().measure(Compressed(model).eval(), [name], task(model))
