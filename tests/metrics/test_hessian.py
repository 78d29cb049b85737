"""The second moment of inputs, and where it is not known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.metric import EUCLIDEAN, Diagonal, Full
from featherweight.core.stage import MetricRule
from featherweight.core.task import Example, Quality, Task
from featherweight.metrics.hessian import InputMoment, InputNorm, Kronecker, LogitKronecker, outputs_first, shrunk
from featherweight.schemes.uniform import Uniform
from featherweight.solvers.sweep import ColumnSweep

SQUARED = Quality("error", "", False, lambda outputs, batch: outputs.square().sum(1))


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


def test_each_group_of_a_convolution_has_its_own_moment() -> None:
    model = Net()
    student = Compressed(model).eval()
    metric = InputMoment().measure(student, ["depthwise.weight"], task(model))["depthwise.weight"]
    moved = torch.randn(model.depthwise.weight.shape)
    with torch.no_grad():
        outputs = torch.nn.functional.conv2d(model.conv(INPUTS), moved, groups=3)
    found = metric.distance(model.depthwise.weight.detach() + moved, model.depthwise.weight.detach())
    torch.testing.assert_close(float(found), float(outputs.square().sum(1).mean()), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv2d(2, 3, (2, 3), padding="same", dilation=(3, 1), bias=False), INPUTS),
        (nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode="reflect", groups=2, bias=False), INPUTS),
        (nn.Conv2d(2, 3, 3, 2, padding=2, padding_mode="circular", bias=False), INPUTS),
        (nn.Conv2d(2, 3, 3, padding="valid", padding_mode="replicate", bias=False), INPUTS),
        (nn.Conv2d(2, 3, 3, (1, 2), padding=(0, 2), dilation=(1, 2), bias=False), INPUTS),
        (nn.Conv1d(8, 3, 2, padding="same", padding_mode="replicate", bias=False), INPUTS.flatten(1, 2)),
        (nn.Conv3d(1, 3, (1, 2, 3), (1, 2, 1), padding=(1, 0, 2), bias=False), INPUTS[:, None]),
        (nn.Conv3d(2, 4, 2, padding="same", groups=2, bias=False), INPUTS[..., None].repeat(1, 1, 1, 1, 3)),
    ],
    ids=str,
)
def test_convolutions_of_all_kinds(layer: nn.Module, x: Tensor) -> None:
    """However they pad, stride and dilate, and in one to three dimensions: the layer itself says what it meets."""
    one = Task("t", lambda: layer, lambda: layer, lambda: Example((x,)), calibration=lambda: [x])
    student = Compressed(layer).eval()
    metric = InputMoment().measure(student, ["weight"], one)["weight"]
    moved = torch.randn(student.weight("weight").shape)
    with torch.no_grad():
        outputs = torch.func.functional_call(layer, {"weight": moved}, (x,))
    found = metric.distance(moved, torch.zeros_like(moved))
    torch.testing.assert_close(float(found), float(outputs.square().sum(1).mean()), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.ConvTranspose2d(2, 3, (3, 2), (2, 3), (1, 0), (1, 2), dilation=(1, 2), bias=False), INPUTS),
        (nn.ConvTranspose2d(2, 3, 1, 3, bias=False), INPUTS),  # places between, which nothing reaches
        (nn.ConvTranspose1d(8, 3, 3, padding=4, stride=3, bias=False), INPUTS.flatten(1, 2)),  # cut at the borders
        (nn.ConvTranspose3d(1, 3, (1, 2, 3), (1, 2, 1), (0, 1, 0), bias=False), INPUTS[:, None]),
    ],
    ids=str,
)
def test_transposed_convolutions_of_one_group_where_they_are_asked_for(layer: nn.Module, x: Tensor) -> None:
    """The moment is about the weight with its outputs first; without being asked for, nobody can mistake it."""
    one = Task("t", lambda: layer, lambda: layer, lambda: Example((x,)), calibration=lambda: [x])
    student = Compressed(layer).eval()
    with pytest.raises(SchemeError, match="not known; leave it out"):
        InputMoment().measure(student, ["weight"], one)
    moved = torch.randn(student.weight("weight").shape)
    with torch.no_grad():
        outputs = torch.func.functional_call(layer, {"weight": moved}, (x,))
    error = outputs.square().sum(1).mean()
    for rule in (InputMoment(transposed=True), Kronecker(transposed=True, shrink=False)):
        metric = rule.measure(student, ["weight"], one)["weight"]
        assert isinstance(metric, Full)
        first = outputs_first(layer, moved)
        found = Full(metric.hessian).distance(first, torch.zeros_like(first))
        torch.testing.assert_close(float(found), float(error), rtol=1e-5, atol=0)
        assert metric.rows is None or metric.rows.shape == (len(first),)


def test_transposed_convolutions_of_several_groups_are_not_known() -> None:
    layer = nn.ConvTranspose2d(2, 4, 2, groups=2)
    one = Task("t", lambda: layer, lambda: layer, lambda: Example((INPUTS,)), calibration=lambda: [INPUTS])
    found = InputMoment(required=False, transposed=True).measure(Compressed(layer).eval(), ["weight"], one)
    assert found["weight"] is EUCLIDEAN


@pytest.mark.parametrize("name", ["conv.weight", "depthwise.weight", "head.weight"])
def test_norms_of_inputs_are_the_diagonal_of_the_moment(name: str) -> None:
    model = Net()
    student = Compressed(model).eval()
    norms, moment = (rule.measure(student, [name], task(model))[name] for rule in (InputNorm(), InputMoment()))
    w = student.weight(name).detach()
    assert isinstance(norms, Diagonal) and norms.diagonal.shape == w.shape
    torch.testing.assert_close(norms.weights(w), moment.weights(w), rtol=1e-6, atol=0)


def test_norms_of_inputs_that_are_not_known() -> None:
    model = Recurring()
    with pytest.raises(SchemeError, match=r"table\.weight of a Embedding"):
        InputNorm().measure(Compressed(model).eval(), ["table.weight"], token_task(model))
    net = Net()
    with pytest.raises(TaskError, match="reached the layer"):
        InputNorm().measure(Compressed(net).eval(), ["unused.weight"], task(net))


class Recurring(nn.Module):
    """A layer that runs twice, on tokens, and one of one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.twice, self.along = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Conv1d(4, 6, 3, 2, 1, groups=2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.twice(self.twice(self.table(tokens)).relu())
        y: Tensor = self.along(x.transpose(1, 2)).mean(2)
        return y


TOKENS = torch.tensor([[0, 1, 1, 2, 0], [3, 3, 3, 2, 1]])


def token_task(model: nn.Module, **settings: object) -> Task:
    halves = [TOKENS[:1], TOKENS[1:]]
    return Task("t", Recurring, lambda: model, lambda: Example((TOKENS,)), calibration=lambda: halves, **settings)  # type: ignore[arg-type]


def test_rows_of_an_embedding_count_as_often_as_they_are_met() -> None:
    model = Recurring()
    metric = InputMoment().measure(Compressed(model).eval(), ["table.weight"], token_task(model))["table.weight"]
    assert isinstance(metric, Full) and metric.rows is not None
    torch.testing.assert_close(metric.rows, torch.tensor([3, 4, 3, 4, 1, 1, 1]).double() / 10)
    assert torch.equal(metric.hessian, torch.eye(4, dtype=torch.float64))


def test_all_calls_of_a_layer_count_and_convolutions_of_one_dimension_too() -> None:
    model = Recurring()
    names = ["twice.weight", "along.weight"]
    found = InputMoment().measure(Compressed(model).eval(), names, token_task(model))
    with torch.no_grad():
        first = model.table(TOKENS)
        x = torch.cat([first, model.twice(first).relu()]).reshape(-1, 4).double()
        moved = torch.randn(model.along.weight.shape)
        inputs = model.twice(model.twice(first).relu()).transpose(1, 2)
        outputs = torch.nn.functional.conv1d(inputs, moved, stride=2, padding=1, groups=2)
    metric, along = found["twice.weight"], found["along.weight"]
    assert isinstance(metric, Full)
    torch.testing.assert_close(metric.hessian, x.T @ x / len(x))
    error = along.distance(moved, torch.zeros_like(moved))
    torch.testing.assert_close(float(error), float(outputs.square().sum(1).mean()), rtol=1e-5, atol=0)


def test_the_curvature_of_a_linear_model_is_that_of_its_squared_error() -> None:
    """For ``f(x) = A (W x)`` a unit error of output ``r`` costs ``‖A_r‖²``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 4, bias=False))
    data = [torch.randn(50, 5) for _ in range(40)]
    asked = Task(
        "t", lambda: model, lambda: model, lambda: Example((data[0],)), calibration=lambda: data, quality=SQUARED
    )
    student = Compressed(model).eval()
    found = Kronecker(batches=40, draws=4, shrink=False).measure(student, ["0.weight", "1.weight"], asked)
    metric = found["0.weight"]
    assert isinstance(metric, Full) and metric.rows is not None
    expected = model[1].weight.detach().double().square().sum(0)
    torch.testing.assert_close(metric.rows, expected, rtol=0.05, atol=0)
    moved = 0.1 * torch.randn(3, 5)
    with torch.no_grad():
        rise = sum((model[1](x @ moved.T)).square().sum(1).mean() for x in data) / 40
    assert float(metric.distance(moved, torch.zeros(3, 5))) == pytest.approx(float(rise), rel=0.5)


def test_classifiers_are_measured_by_labels_of_their_own() -> None:
    """For logits that the layer gives itself the expected square is ``E[p (1 − p)]``: the Fisher information."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    data = [torch.randn(500, 4) for _ in range(8)]
    asked = Task("t", lambda: model, lambda: model, lambda: Example((data[0],)), calibration=lambda: data)
    metric = Kronecker(batches=8, draws=4, temperature=1.0).measure(Compressed(model).eval(), ["weight"], asked)[
        "weight"
    ]
    assert isinstance(metric, Full) and metric.rows is not None
    p = torch.cat([model(x).softmax(1) for x in data]).detach().double()
    torch.testing.assert_close(metric.rows, (p * (1 - p)).mean(0), rtol=0.05, atol=0)


def test_an_embedding_changes_sides() -> None:
    model = Recurring()
    metric = Kronecker(floor=0.0).measure(Compressed(model).eval(), ["table.weight"], token_task(model))["table.weight"]
    assert isinstance(metric, Full) and metric.rows is not None
    assert metric.hessian.shape == (4, 4) and not torch.equal(metric.hessian, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(metric.rows, torch.tensor([3, 4, 3, 4, 1, 1, 1]).double() / 10)


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        ([], TaskError, "no calibration input"),
        ([torch.full((2, 2, 4, 4), float("nan"))], SchemeError, "not finite"),
        ([torch.zeros(2, 5, 4, 4)], TaskError, "cannot run on a batch of its data"),
    ],
    ids=["empty", "nan", "shape"],
)
@pytest.mark.parametrize("rule", [InputMoment(), Kronecker()], ids=["moment", "kronecker"])
def test_bad_calibration_data_is_an_error(rule: MetricRule, data: list[Tensor], error: type, match: str) -> None:
    model = Net()
    asked = Task("t", Net, lambda: model, lambda: Example((INPUTS,)), calibration=lambda: data)
    with pytest.raises(error, match=match):
        rule.measure(Compressed(model).eval(), ["conv.weight"], asked)


@pytest.mark.parametrize("data", [INPUTS[:1], torch.ones(3, 2, 4, 4), torch.zeros(3, 2, 4, 4)], ids=["1", "ones", "0"])
def test_little_calibration_data_never_makes_rounding_worse(data: Tensor) -> None:
    model = Net()
    asked = Task("t", Net, lambda: model, lambda: Example((INPUTS,)), calibration=lambda: [data])
    metric = Kronecker().measure(Compressed(model).eval(), ["conv.weight"], asked)["conv.weight"]
    w, scheme = model.conv.weight.detach(), Uniform(3)
    swept = ColumnSweep().project(scheme, w, metric).decode()
    assert metric.distance(w, swept) <= metric.distance(w, scheme.project(w).decode())
    assert float((swept - w).abs().max()) < float(w.abs().max())


@pytest.mark.parametrize("name", ["unused.weight", "head.bias"])
def test_where_inputs_are_not_known_errors_count_alike_if_that_is_allowed(name: str) -> None:
    model = Net()
    student = Compressed(model).eval()
    found = InputMoment(required=False).measure(student, [name, "head.weight"], task(model))
    assert found[name] is EUCLIDEAN and isinstance(found["head.weight"], Full)


@pytest.mark.parametrize(("name", "error"), [("head.bias", SchemeError), ("unused.weight", TaskError)])
def test_else_it_is_an_error(name: str, error: type[Exception]) -> None:
    model = Net()
    with pytest.raises(error):
        InputMoment().measure(Compressed(model).eval(), [name], task(model))


def test_moments_of_few_samples_are_drawn_to_the_identity_and_come_nearer_to_the_truth() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(0.5, 2.0, 40, dtype=torch.float64)
    truth = torch.diag(spread.square())
    x = torch.randn(30, 40, generator=generator, dtype=torch.float64) * spread
    few = x.T @ x / len(x)
    found = shrunk(few[None], len(x))[0]
    torch.testing.assert_close(found.trace(), few.trace())
    assert float((found - truth).norm()) < 0.5 * float((few - truth).norm())
    assert float(torch.linalg.eigvalsh(found)[0]) > 0.1
    many = torch.randn(20_000, 40, generator=generator, dtype=torch.float64) * spread
    moment = many.T @ many / len(many)
    torch.testing.assert_close(shrunk(moment[None], len(many))[0], moment, rtol=0, atol=0.02)


def test_a_task_that_counts_nothing_can_say_that_its_outputs_are_logits() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    data = [torch.randn(50, 4)]
    counting = Task("t", lambda: model, lambda: model, lambda: Example((data[0],)), calibration=lambda: data)
    student = Compressed(model).eval()
    said = LogitKronecker().measure(student, ["weight"], replace(counting, quality=SQUARED))["weight"]
    plain = Kronecker().measure(student, ["weight"], counting)["weight"]
    other = Kronecker().measure(student, ["weight"], replace(counting, quality=SQUARED))["weight"]
    assert isinstance(said, Full) and isinstance(plain, Full) and isinstance(other, Full)
    assert said.rows is not None and plain.rows is not None and other.rows is not None
    assert torch.equal(said.rows, plain.rows) and not torch.equal(said.rows, other.rows)
