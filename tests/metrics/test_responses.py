"""Responses: inputs of the student, outputs of the original, row for row."""

import copy

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.task import Example, Task
from featherweight.metrics.responses import LayerResponses, RectifiedResponses, Responses
from featherweight.schemes.product import Product
from featherweight.schemes.sparse import Magnitude, Sparse
from featherweight.solvers.net_trim import NetTrim
from featherweight.solvers.product import ResponseDescent


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2, padding=1, bias=False)
        self.head, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.conv(x).relu().mean((2, 3)))
        return y


INPUTS = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def task(model: nn.Module) -> Task:
    return Task("t", Net, lambda: model, lambda: Example((INPUTS,)), calibration=lambda: [INPUTS[:2], INPUTS[2:]])


def responses(student: Compressed, model: nn.Module, name: str, **settings: int) -> Responses:
    found = LayerResponses(**settings).measure(student, [name], task(model))[name]
    assert isinstance(found, Responses)
    return found


@torch.no_grad()
def test_inputs_are_the_students_and_outputs_the_originals() -> None:
    model = Net()
    changed = copy.deepcopy(model)
    changed.conv.weight.mul_(0.5)
    student = Compressed(changed).eval()
    found = responses(student, model, "head.weight")
    hidden = model.conv(INPUTS).relu().mean((2, 3))
    order = (found.outputs[:, None] - hidden @ model.head.weight.T).abs().sum(2).argmin(1)
    assert sorted(order.tolist()) == list(range(6))
    torch.testing.assert_close(found.outputs, (hidden @ model.head.weight.T)[order])
    torch.testing.assert_close(found.inputs, 0.5 * hidden[order])
    torch.testing.assert_close(found.bias, model.head.bias)
    torch.testing.assert_close(found.error(2 * model.head.weight), torch.tensor(0.0, dtype=torch.float64))
    apart = responses(student, model, "head.weight", corrected=False)
    torch.testing.assert_close(apart.inputs, 2 * found.inputs)
    torch.testing.assert_close(apart.outputs, found.outputs)


def test_patches_are_drawn_and_bounded() -> None:
    model = Net()
    found = responses(Compressed(model).eval(), model, "conv.weight", samples=20)
    assert found.inputs.shape == (19, 8) and found.outputs.shape == (19, 3) and not bool(found.bias.any())
    again = responses(Compressed(model).eval(), model, "conv.weight", samples=20)
    assert torch.equal(found.inputs, again.inputs)
    other = responses(Compressed(model).eval(), model, "conv.weight", samples=20, seed=1)
    assert not torch.equal(found.inputs, other.inputs)


def test_a_layer_that_nothing_reaches() -> None:
    model = Net()
    with pytest.raises(TaskError, match=r"unused\.weight"):
        responses(Compressed(model).eval(), model, "unused.weight")


def test_another_shape_than_the_tasks_model() -> None:
    wider = Net()
    wider.head = nn.Linear(3, 4)
    with pytest.raises(SchemeError, match="another shape"):
        responses(Compressed(wider).eval(), Net(), "head.weight")


@pytest.mark.parametrize("name", ["conv.weight", "head.weight"])
def test_data_that_says_nothing(name: str) -> None:
    """Not a number is an error, no batch is one; one sample and constant ones are fitted as well as they can be."""
    model = Net()
    student = Compressed(model).eval()

    def measured(*batches: Tensor) -> Responses:
        made = Task("t", Net, lambda: model, lambda: Example((INPUTS,)), calibration=lambda: list(batches))
        found = LayerResponses().measure(student, [name], made)[name]
        assert isinstance(found, Responses)
        return found

    for batches in ((), (INPUTS[:0],)):
        with pytest.raises(TaskError, match="reached"):
            measured(*batches)
    with pytest.raises(TaskError, match="not finite"):
        measured(INPUTS * float("nan"))
    w = student.parameter(name).detach()
    for batch in (INPUTS[:1], torch.ones_like(INPUTS), torch.zeros_like(INPUTS)):
        metric = measured(batch)
        code = ResponseDescent().project(Product(2, 2), w, metric)
        assert bool(torch.isfinite(code.decode()).all())
        trimmed = NetTrim(0.1).project(Sparse(Magnitude()), w, metric).decode()
        assert float(metric.error(trimmed)) <= float(metric.error(torch.zeros_like(w))) + 1e-9


@torch.no_grad()
def test_rectifiers_are_found_and_outputs_are_those_of_the_stages_beginning() -> None:
    model, changed = Net(), Net()
    student = Compressed(changed).eval()
    rule = RectifiedResponses().begun(student, ["conv.weight", "head.weight"], task(model))
    kept = changed.conv.weight.clone()
    student.renew("conv.weight", 2 * kept)
    found = rule.measure(student, ["conv.weight", "head.weight"], task(model))
    conv, head = found["conv.weight"], found["head.weight"]
    assert isinstance(conv, Responses) and isinstance(head, Responses)
    assert (conv.rectified, head.rectified) == (True, False)
    torch.testing.assert_close(conv.outputs, conv.inputs @ kept.flatten(1).T)
    torch.testing.assert_close(conv.error(kept), torch.tensor(0.0, dtype=torch.float64))
    torch.testing.assert_close(head.outputs, 0.5 * head.inputs @ changed.head.weight.T)
