"""Optimal brain surgeon: exact where the error is quadratic, and better than deleting where it is not."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.metric import Full
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import Example, Task
from featherweight.metrics.inverse import InverseHessian, JointInverse, inverted
from featherweight.run import run
from featherweight.schemes.sparse import Fraction, Scope, Sparse
from featherweight.solvers.surgeon import LAZY, Surgeon, operate


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def least_squares(x: Tensor, y: Tensor, kept: Tensor) -> Tensor:
    """The best weights of a linear model that has only these."""
    w = torch.zeros(x.shape[1], dtype=x.dtype)
    w[kept] = torch.linalg.lstsq(x[:, kept], y).solution
    return w


@pytest.mark.parametrize("seed", range(5))
def test_each_deletion_leaves_the_constrained_optimum(seed: int) -> None:
    """A linear model at its minimum: after every deletion the others are what least squares makes of them."""
    x = draw(60, 8, seed=seed) @ draw(8, 8, seed=seed + 50)
    y = draw(60, seed=seed + 100)
    w = least_squares(x, y, torch.ones(8, dtype=torch.bool))
    inverse = torch.linalg.inv(x.T @ x / 60)
    for deletions in range(1, 8):
        left, kept = operate(w, inverse, deletions)
        assert int(kept.sum()) == 8 - deletions
        torch.testing.assert_close(left, least_squares(x, y, kept), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_the_first_deletion_is_the_best_of_all(seed: int) -> None:
    x, y = draw(40, 6, seed=seed) @ draw(6, 6, seed=seed + 50), draw(40, seed=seed + 100)
    w = least_squares(x, y, torch.ones(6, dtype=torch.bool))
    _, kept = operate(w, torch.linalg.inv(x.T @ x / 40), 1)
    errors = []
    for q in range(6):
        others = torch.arange(6) != q
        errors.append(float((x @ least_squares(x, y, others) - y).square().sum()))
    assert not bool(kept[min(range(6), key=errors.__getitem__)])


def test_the_rise_of_the_error_is_the_saliency() -> None:
    x, y = draw(50, 6), draw(50, seed=1)
    w = least_squares(x, y, torch.ones(6, dtype=torch.bool))
    inverse = torch.linalg.inv(x.T @ x / 50)
    left, kept = operate(w, inverse, 1)
    q = int((~kept).nonzero())
    rise = ((x @ left - y).square().sum() - (x @ w - y).square().sum()) / 100
    torch.testing.assert_close(rise, w[q].square() / (2 * inverse[q, q]))


def test_many_deletions_are_as_one_by_one() -> None:
    """Past the point where pending updates are worked in."""
    n = 3 * LAZY
    x = draw(2 * n, n)
    w, inverse = draw(n, seed=1), torch.linalg.inv(x.T @ x / n)
    left, kept = operate(w, inverse, 2 * LAZY + 7)
    slow, alive = w.clone(), torch.ones(n, dtype=torch.bool)
    for _ in range(2 * LAZY + 7):
        cost = torch.where(alive, slow.square() / inverse.diagonal(), torch.inf)
        q = int(cost.argmin())
        slow = slow - slow[q] / inverse[q, q] * inverse[:, q]
        alive[q] = False
        inverse = inverse - torch.outer(inverse[:, q], inverse[q]) / inverse[q, q]
        inverse[q, q] = 1.0
    assert torch.equal(kept, alive)
    torch.testing.assert_close(left[kept], slow[kept], rtol=1e-6, atol=1e-9)


def test_the_inverse_one_sample_after_the_other() -> None:
    x = draw(30, 7)
    direct = torch.linalg.inv(0.1 * torch.eye(7, dtype=torch.float64) + x.T @ x / 30)
    recursive = torch.eye(7, dtype=torch.float64) / 0.1
    for each in x:
        seen = recursive @ each
        recursive = recursive - torch.outer(seen, seen) / (30 + each @ seen)
    torch.testing.assert_close(recursive, direct)
    torch.testing.assert_close(inverted(x.split(1), 30, 0.1, 7), direct)
    torch.testing.assert_close(inverted(x.split(8), 30, 0.1, 7), direct)


class Net(nn.Module):
    def __init__(self, inputs: int = 17, hidden: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).tanh())
        return y


SIZES = (3, 3, 2, 3, 4, 2)


def monk() -> tuple[Tensor, Tensor]:
    """The first of the MONK's problems (Thrun et al. 1991): six attributes, true where a = b or e is 1."""
    rows = torch.tensor(list(itertools.product(*map(range, SIZES))))
    x = torch.cat([nn.functional.one_hot(rows[:, k], size) for k, size in enumerate(SIZES)], 1).float()
    return x, ((rows[:, 0] == rows[:, 1]) | (rows[:, 4] == 0)).float()[:, None] * 2 - 1


def learned() -> tuple[Net, Task]:
    x, y = monk()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=400, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        decay = sum((p.square().sum() for p in model.parameters()), torch.zeros(()))
        loss = (model(x) - y).square().mean() + 1e-4 * decay
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return model, Task("monk", Net, lambda: model, lambda: Example((x[:1],)), calibration=lambda: [x[:200], x[200:]])


def right(model: nn.Module) -> float:
    x, y = monk()
    with torch.no_grad():
        return float((model(x).sign() == y).float().mean())


def pruned(scheme: Surgeon | Sparse, rounds: int = 1) -> Compressed:
    model, task = learned()
    rule = InverseHessian() if isinstance(scheme, Surgeon) else None
    stages = tuple(
        Stage(f"{k}", {"*.weight": scheme.at((k + 1) / rounds)}, **({"metric": rule} if rule else {}))
        for k in range(rounds)
    )
    student, _ = run(model, task, Recipe("prune", stages))
    return student


def test_a_monks_problem_needs_a_quarter_of_its_weights() -> None:
    """Where magnitude has long failed; all tensors are one problem."""
    assert right(learned()[0]) == 1.0
    student = pruned(Surgeon(0.7), rounds=10)
    assert sum(int((student.weight(name) != 0).sum()) for name in student.codes) == 72 - round(0.7 * 72)
    assert right(student) == 1.0
    assert right(pruned(Sparse(Fraction(0.7), scope=Scope.GLOBAL))) < 0.9


def test_the_metric_is_the_second_order_of_the_outputs() -> None:
    model, task = learned()
    names = ["first.weight", "second.weight"]
    found = InverseHessian(damping=1e-9).measure(Compressed(model).eval(), names, task)
    metric = found["second.weight"]
    assert isinstance(metric, JointInverse)
    moved = model.second.weight.detach() + torch.linspace(-1, 1, 4)
    with torch.no_grad():
        hidden = model.first(monk()[0]).tanh()
    expected = (hidden @ torch.linspace(-1, 1, 4)).square().mean()
    distance = float(metric.distance(moved, model.second.weight.detach()))
    assert distance == pytest.approx(float(expected), rel=1e-4)
    assert metric.weights(moved).shape == moved.shape  # type: ignore[union-attr]
    both = found["first.weight"]
    assert isinstance(both, JointInverse) and both.inverse is metric.inverse and both.first == 0 and metric.first == 68


def test_what_is_zero_stays_and_costs_no_deletion() -> None:
    model, task = learned()
    with torch.no_grad():
        model.first.weight[:, ::2] = 0
    zeros = int((model.first.weight == 0).sum())
    student, _ = run(model, task, Recipe("x", (Stage("x", {"*.weight": Surgeon(0.6)}, metric=InverseHessian()),)))
    assert bool((student.weight("first.weight")[:, ::2] == 0).all())
    left = sum(int((student.weight(name) != 0).sum()) for name in student.codes)
    assert left == 72 - round(0.6 * 72) < 72 - zeros


def test_refusals() -> None:
    model, task = learned()
    w = {"first.weight": model.first.weight.detach(), "second.weight": model.second.weight.detach()}
    with pytest.raises(SchemeError, match="prune before"):
        InverseHessian(largest=50).measure(Compressed(model), list(w), task)
    found = InverseHessian().measure(Compressed(model), list(w), task)
    with pytest.raises(SchemeError, match="give all it is of"):
        Surgeon(0.5).project(w["first.weight"], found["first.weight"])
    again = InverseHessian().measure(Compressed(model), list(w), task)
    with pytest.raises(SchemeError, match="one inverse Hessian"):
        Surgeon(0.5).project_all(w, {"first.weight": found["first.weight"], "second.weight": again["second.weight"]})
    with pytest.raises(SchemeError, match="InverseHessian"):
        Surgeon(0.5).project(w["second.weight"], Full(torch.eye(4, dtype=torch.float64)))
