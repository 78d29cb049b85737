"""Curvature back-propagated: against second derivatives that autograd finds, where the published rule is exact."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import TaskError
from featherweight.core.task import Example, Task
from featherweight.metrics.curvature import BackpropagatedCurvature, squared_error

Loss = Callable[[Any, Any], Tensor]


def half_square(outputs: Tensor, batch: Any) -> Tensor:
    return (outputs - batch[1]).square().sum(1).mean() / 2


def cross_entropy(outputs: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(outputs, batch[1].argmax(1))


def task(model: nn.Module, x: Tensor, y: Tensor, loss: Loss | None) -> Task:
    return Task("t", lambda: model, lambda: model, lambda: Example((x[:1],)), calibration=lambda: [(x, y)], loss=loss)


def measured(model: nn.Module, x: Tensor, y: Tensor, loss: Loss | None) -> dict[str, Tensor]:
    names = [name for name, _ in model.named_parameters()]
    found = BackpropagatedCurvature().measure(Compressed(model).eval(), names, task(model, x, y, loss))
    return {name: metric.weights(model.get_parameter(name).detach()) for name, metric in found.items()}  # type: ignore[misc]


def functional(model: nn.Module, name: str, x: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda w: torch.func.functional_call(model, {name: w}, (x,))


def gauss_newton(model: nn.Module, name: str, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """``diag(Jᵀ (∂²E/∂f²) J)`` with only the diagonal of the loss's, as published: from the full Jacobian."""
    w = model.get_parameter(name).detach()
    jacobian = torch.func.jacrev(functional(model, name, x))(w)  # [n, outputs, *w]
    outputs = model(x).detach()
    second = torch.autograd.functional.hessian(lambda f: loss(f, (x, y)), outputs)  # type: ignore[no-untyped-call]
    diagonal = second.reshape(outputs.numel(), -1).diagonal()
    return (jacobian.flatten(0, 1).flatten(1).square() * diagonal[:, None]).sum(0).reshape(w.shape).detach()


def exact(model: nn.Module, name: str, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    w = model.get_parameter(name).detach()
    function = functional(model, name, x)
    hessian = torch.autograd.functional.hessian(lambda each: loss(function(each), (x, y)), w)  # type: ignore[no-untyped-call]
    return hessian.reshape(w.numel(), -1).diagonal().reshape(w.shape)


def made(*layers: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(*layers).double().eval()
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.7)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()  # type: ignore[union-attr, operator]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    return model


def inputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=2e-6 * float(expected.detach().mean()))


ONE_PATH = {
    "a linear layer": lambda: (made(nn.Linear(5, 3)), inputs(8, 5)),
    "sigmoids": lambda: (made(nn.Linear(5, 7), nn.Sigmoid(), nn.Linear(7, 3)), inputs(8, 5)),
    "tanh": lambda: (made(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), inputs(8, 5)),
    "relu in place": lambda: (made(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)), inputs(8, 5)),
    "a function at the outputs": lambda: (made(nn.Linear(5, 7), nn.SiLU(), nn.Linear(7, 3), nn.Tanh()), inputs(8, 5)),
}


@pytest.mark.parametrize("loss", [half_square, cross_entropy])
@pytest.mark.parametrize("name", ONE_PATH)
def test_the_gauss_newton_diagonal_with_one_hidden_layer(name: str, loss: Loss) -> None:
    model, x = ONE_PATH[name]()
    y = inputs(8, 3).sigmoid()
    for parameter, found in measured(model, x, y, loss).items():
        close(found, gauss_newton(model, parameter, x, y, loss))


@pytest.mark.parametrize("name", [name for name in ONE_PATH if name != "a function at the outputs"])
def test_the_exact_diagonal_where_nothing_is_left_to_learn(name: str) -> None:
    """With no residual the dropped term, ``f''(a) ∂E/∂x``, is zero."""
    model, x = ONE_PATH[name]()
    y = model(x).detach()
    for parameter, found in measured(model, x, y, half_square).items():
        close(found, exact(model, parameter, x, y, half_square))


def test_with_a_residual_the_exact_diagonal_differs_and_may_be_negative() -> None:
    model, x = ONE_PATH["sigmoids"]()
    y = inputs(8, 3) * 4
    truth = exact(model, "0.weight", x, y, half_square)
    found = measured(model, x, y, half_square)["0.weight"]
    assert bool((truth < 0).any()) and bool((found > 0).all())


def test_by_hand_through_two_hidden_layers() -> None:
    """The published recursion, written out; it is not the Gauss-Newton diagonal, whose cross terms it drops."""
    model, x = made(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)), inputs(10, 4)
    y = inputs(10, 2)
    w1, w2, w3 = (model[i].weight.detach() for i in (0, 2, 4))  # type: ignore[index]
    with torch.no_grad():
        x1 = model[0](x).sigmoid()  # type: ignore[index]
        x2 = model[2](x1).tanh()  # type: ignore[index]
    at_outputs = torch.ones(10, 2, dtype=torch.float64) / 10
    at_second = (at_outputs @ w3.square()) * (1 - x2.square()).square()
    at_first = (at_second @ w2.square()) * (x1 * (1 - x1)).square()
    found = measured(model, x, y, half_square)
    close(found["4.weight"], at_outputs.T @ x2.square())
    close(found["2.weight"], at_second.T @ x1.square())
    close(found["0.weight"], at_first.T @ x.square())
    close(found["0.bias"], at_first.sum(0))
    truth = gauss_newton(model, "0.weight", x, y, half_square)
    assert float((found["0.weight"] - truth).abs().max()) > 0.05 * float(truth.max())
    assert float(torch.corrcoef(torch.stack([found["0.weight"].flatten(), truth.flatten()]))[0, 1]) > 0.5


def test_a_shared_weight_sums_over_its_uses() -> None:
    """One convolution whose positions are averaged by windows of four: each output depends on one position a window."""
    model = made(nn.Conv2d(2, 3, 3, stride=3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    x = inputs(5, 2, 6, 6)
    y = inputs(5, 3)
    for parameter, found in measured(model, x, y, half_square).items():
        close(found, gauss_newton(model, parameter, x, y, half_square))


def test_means_over_positions() -> None:
    model = made(nn.Conv2d(2, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, y = inputs(5, 2, 4, 4), inputs(5, 3)
    found = measured(model, x, y, half_square)["0.weight"][:, :, 0, 0]
    close(found, (x.square().sum((2, 3)).mean(0) / 16**2).expand(3, 2))


def test_windows_that_overlap_are_refused() -> None:
    model = made(nn.AvgPool2d(3, 1), nn.Flatten(), nn.Linear(8, 2))
    model = made(nn.Conv2d(2, 2, 1), *model)  # type: ignore[misc]
    with pytest.raises(TaskError, match="overlap"):
        measured(model, inputs(3, 2, 4, 4), inputs(3, 2), half_square)


def test_operations_without_a_rule_are_named() -> None:
    model = made(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 2))
    with pytest.raises(TaskError, match="softmax"):
        measured(model, inputs(3, 4), inputs(3, 2), half_square)


def test_a_loss_is_needed() -> None:
    model = made(nn.Linear(4, 2))
    with pytest.raises(TaskError, match="squared_error"):
        BackpropagatedCurvature().measure(
            Compressed(model), ["0.weight"], task(model, inputs(3, 4), inputs(3, 2), None)
        )


@pytest.mark.parametrize("outputs", [1, 4])
def test_saliency_is_the_rise_of_the_loss_for_small_changes(outputs: int) -> None:
    """At a minimum of a network of one hidden layer: ``δE = ½ h δw²`` for one weight."""
    model, x = made(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, outputs)), inputs(20, 5)
    y = model(x).detach()
    h = measured(model, x, y, half_square)["0.weight"]
    for row, column in ((0, 0), (3, 4), (5, 2)):
        w = model[0].weight.detach().clone()  # type: ignore[index]
        w[row, column] += 1e-3
        rise = half_square(functional(model, "0.weight", x)(w), (x, y)).detach()
        assert float(rise) == pytest.approx(0.5e-6 * float(h[row, column]), rel=1e-2)


def test_the_squared_error_asks_for_no_labels_and_no_loss() -> None:
    model, x = ONE_PATH["tanh"]()
    y = inputs(8, 3)
    rule = BackpropagatedCurvature(squared_error)
    found = rule.measure(Compressed(model), ["0.weight"], task(model, x, y, None))["0.weight"]
    close(found.weights(torch.zeros(7, 5)), measured(model, x, y, half_square)["0.weight"])  # type: ignore[arg-type]
