"""Gradients compressed before the step: what the optimizer sees, and that training with them learns."""

import torch
from torch import nn

from featherweight.core.stage import adam, sgd
from featherweight.schemes.tables import Table, Tabled
from featherweight.schemes.uniform import Uniform
from featherweight.training.gradients import CompressedGradients


def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(10, 3), torch.randn(64, 10), torch.randn(64, 3)


def test_steps_take_the_decoded_gradient() -> None:
    model, x, y = problem()
    plain, _, _ = problem()
    for each, optimizer in ((model, CompressedGradients(Tabled(), sgd)), (plain, sgd)):
        made = optimizer([{"params": list(each.parameters())}], 0.1)
        nn.functional.mse_loss(each(x), y).backward()
        if each is plain:
            for p in each.parameters():
                p.grad = Tabled().project(p.grad).decode()
        made.step()
    assert torch.equal(model.weight, plain.weight) and torch.equal(model.bias, plain.bias)
    assert model.weight.grad is not None
    scale = Tabled().project(model.weight.grad).scales.decode()
    values = torch.tensor(Table.DYNAMIC_TREE.numbers) * scale
    assert float((model.weight.grad.flatten()[:, None] - values).abs().amin(1).max()) < 1e-7


def test_training_with_eight_bits_ends_where_training_without_does() -> None:
    """Of a convex problem, whose least loss is known; two levels of the gradient do not get as near."""
    model, x, y = problem()
    exact = torch.linalg.lstsq(torch.cat([x, torch.ones(64, 1)], 1), y).solution
    least = float((torch.cat([x, torch.ones(64, 1)], 1) @ exact - y).square().mean())
    ends = []
    for scheme in (Tabled(), Tabled(Table.MINIFLOAT), Uniform(1)):
        model, x, y = problem()
        made = CompressedGradients(scheme, adam)(model.parameters(), 0.02)
        for _ in range(400):
            made.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            made.step()
        ends.append(float(loss.detach()) - least)
    assert ends[0] < 1e-3 and ends[1] < 1e-3 < ends[2]


def test_no_gradient_and_zero_gradient() -> None:
    frozen, still = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    made = CompressedGradients(Tabled(), sgd)([frozen, still], 0.1)
    still.grad = torch.zeros(3)
    made.step()
    assert torch.equal(still, torch.ones(3)) and torch.equal(frozen, torch.ones(3))
