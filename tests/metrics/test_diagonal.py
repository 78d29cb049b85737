"""Diagonal metrics against exact values on models that can be done by hand."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import TaskError
from featherweight.core.metric import Diagonal
from featherweight.core.stage import MetricRule
from featherweight.core.task import Example, Task
from featherweight.metrics.diagonal import Curvature, Fisher

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0, 0.1])


def task(model: nn.Module, data: Sequence[Any], loss: Any = None) -> Task:
    return Task("by hand", lambda: model, lambda: model, lambda: Example((X[:1],)), calibration=lambda: data, loss=loss)


def diagonal(rule: MetricRule, model: nn.Module, data: Sequence[Any], *names: str, loss: Any = None) -> list[Tensor]:
    student = Compressed(model)
    measured = rule.measure(student, names, task(model, data, loss))
    assert list(measured) == list(names)
    assert all(isinstance(metric, Diagonal) for metric in measured.values())
    return [metric.weights(student.parameter(name)) for name, metric in measured.items()]


def test_curvature_of_a_linear_layer() -> None:
    """``d_ij = E[x_j²]`` whatever the output and whatever the weights."""
    model = nn.Linear(3, 5)
    d, bias = diagonal(Curvature(batches=64, draws=200), model, list(X.split(1)), "weight", "bias")
    torch.testing.assert_close(d, X.square().mean(0).expand(5, 3), rtol=0.1, atol=0)
    torch.testing.assert_close(bias, torch.ones(5), rtol=0.1, atol=0)


def test_curvature_needs_no_single_samples() -> None:
    """A batch's cross terms have mean zero."""
    (d,) = diagonal(Curvature(batches=4, draws=2000), nn.Linear(3, 2), list(X.split(16)), "weight")
    torch.testing.assert_close(d, X.square().mean(0).expand(2, 3), rtol=0.15, atol=0)


def test_fisher_of_least_squares() -> None:
    """``L = ½ (w·x − y)²``: ``d_j = E[(w·x − y)² x_j²]``, exact in batches of one."""
    model = nn.Linear(3, 1, bias=False)
    y = X.sum(1, keepdim=True)
    data = list(zip(X.split(1), y.split(1), strict=True))
    loss = lambda outputs, batch: (outputs - batch[1]).square().mean() / 2  # noqa: E731
    (d,) = diagonal(Fisher(batches=64), model, data, "weight", loss=loss)
    with torch.no_grad():
        expected = ((model(X) - y).square() * X.square()).mean(0, keepdim=True)
    torch.testing.assert_close(d, expected, rtol=1e-3, atol=0)


def test_batches_are_limited() -> None:
    model = nn.Linear(3, 1)
    first = diagonal(Curvature(batches=2), model, list(X.split(8)), "weight")[0]
    assert torch.equal(first, diagonal(Curvature(batches=2), model, list(X.split(8))[:2], "weight")[0])
    assert not torch.equal(first, diagonal(Curvature(batches=3), model, list(X.split(8)), "weight")[0])


def test_labels_are_not_needed_and_not_looked_at() -> None:
    model = nn.Linear(3, 2)
    bare = diagonal(Curvature(), model, [X], "weight")[0]
    assert torch.equal(bare, diagonal(Curvature(), model, [(X, "no label")], "weight")[0])
    assert torch.equal(bare, diagonal(Curvature(), model, [{"input": X}], "weight")[0])


class Outputs(nn.Module):
    """Outputs of any form; ``unused`` is used for nothing."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.unused = nn.Parameter(torch.ones(2, 2))
        self.form = form

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        return {
            "a column": lambda: y,
            "a vector": lambda: y.squeeze(1),
            "one number": lambda: y.mean(),
            "a tuple": lambda: (y, y[None].expand(2, -1, -1)),
            "a mapping": lambda: {"logits": y, "labels": y.long()},
        }[self.form]()


FORMS = ["a column", "a vector", "one number", "a tuple", "a mapping"]


@pytest.mark.parametrize("form", FORMS)
def test_outputs_of_any_form(form: str) -> None:
    (d,) = diagonal(Curvature(), Outputs(form), [X], "layer.weight")
    assert bool((d > 0).all())


def test_a_vector_is_a_column() -> None:
    column, vector = (diagonal(Curvature(), _same(form), [X], "layer.weight")[0] for form in ("a column", "a vector"))
    assert torch.equal(column, vector)


def _same(form: str) -> Outputs:
    torch.manual_seed(0)
    return Outputs(form)


@pytest.mark.parametrize("names", [("unused",), ("unused", "layer.weight")])
def test_parameters_without_gradient_are_weighed_by_magnitude(names: tuple[str, ...]) -> None:
    d = diagonal(Curvature(), Outputs("a column"), [X], *names)[0]
    assert bool((d > 0).all()) and torch.equal(d, d[0, 0].expand(2, 2))


def test_measuring_leaves_everything_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    student = Compressed(model)
    student.base[1].eval()
    state = {name: value.clone() for name, value in student.state_dict().items()}
    random = torch.get_rng_state()
    given = task(model, [X])
    first = Curvature(seed=3).measure(student, ["0.weight"], given)["0.weight"]
    again = Curvature(seed=3).measure(student, ["0.weight"], given)["0.weight"]
    other = Curvature(seed=4).measure(student, ["0.weight"], given)["0.weight"]
    weight = student.parameter("0.weight")
    assert torch.equal(first.weights(weight), again.weights(weight))
    assert not torch.equal(first.weights(weight), other.weights(weight))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())
    assert all(p.grad is None for p in (*student.parameters(), *model.parameters()))
    assert (student.base[0].training, student.base[1].training, model[1].training) == (True, False, True)


@pytest.mark.parametrize(
    "rule, given, said",
    [
        (Curvature(), task(nn.Linear(3, 2), []), "'by hand' holds no batch"),
        (Fisher(), task(nn.Linear(3, 2), [X]), "'by hand' has none; use Curvature"),
        (Curvature(), Task("bare", nn.ReLU, nn.ReLU, Example), "'bare' has neither calibration nor training data"),
    ],
)
def test_what_is_missing_is_said(rule: MetricRule, given: Task, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        rule.measure(Compressed(nn.Linear(3, 2)), ["weight"], given)


def test_a_model_without_floating_outputs_is_refused() -> None:
    class Classes(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).argmax(1)

    with pytest.raises(TaskError, match="no floating-point output"):
        diagonal(Curvature(), Classes(3, 2), [X], "weight")
