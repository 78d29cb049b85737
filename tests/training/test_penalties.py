"""The group lasso against sums that are written out, and what its gradient draws."""

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.site import Sites
from featherweight.core.stage import Tap
from featherweight.schemes.structures import Blocks, Columns, Filters, Kernels
from featherweight.training.penalties import GroupLasso


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))


def tapped(student: nn.Module) -> Tap:
    return Tap(torch.zeros(2, 5), None, None, student, lambda outputs, batch: torch.zeros(()))


def test_sums_of_norms() -> None:
    model = net()
    conv, linear = (p.detach() for name, p in model.named_parameters() if name.endswith("weight"))
    tap = tapped(Compressed(model))
    expected = sum(float(row.norm()) for w in (conv, linear) for row in w.flatten(1))
    assert float(GroupLasso(structure=Filters())(tap)) == pytest.approx(expected, rel=1e-5)
    expected = sum(float(conv[:, c, i, j].norm()) for c in range(3) for i in range(3) for j in range(3))
    assert float(GroupLasso(structure=Columns(), sites=Sites(min_dims=4))(tap)) == pytest.approx(expected, rel=1e-5)
    assert float(GroupLasso(structure=Filters(), sites=Sites(("no",), optional=True))(tap)) == 0


@pytest.mark.parametrize("smallest", [1.0, 0.5])
def test_the_gradient_is_a_unit_vector_in_every_group_that_is_drawn(smallest: float) -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[1, 2] = 0  # a group that is zero has none
    student = Compressed(model)
    student.learn({})
    weight = student.parameter("0.weight")
    term = GroupLasso(structure=Kernels(), sites=Sites(("0.weight",)), smallest=smallest)
    term(tapped(student)).backward()
    norms = weight.detach().flatten(2).norm(dim=2)
    drawn = norms <= norms.flatten().sort().values[round(smallest * 12) - 1]
    unit = weight.detach() / norms.clamp(min=1e-30)[..., None, None]
    assert weight.grad is not None and int(drawn.sum()) == round(smallest * 12)
    torch.testing.assert_close(weight.grad, unit * drawn[..., None, None])


def test_small_groups_reach_zero_and_large_ones_stay() -> None:
    """Under ``½ ‖w − v‖² + λ Σ ‖w_g‖`` groups shrink to ``v_g max(1 − λ/‖v_g‖, 0)``: the closed form of the minimum."""
    v = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.1, 0.2, 0.4, 1, 2, 3])[:, None]
    layer = nn.Linear(8, 6)
    with torch.no_grad():
        layer.weight.copy_(v)
    student = Compressed(layer)
    student.learn({})
    term, weight = GroupLasso(structure=Blocks(1, 0)), student.parameter("weight")
    for step in range(600):
        loss = 0.5 * (weight - v).square().sum() + term(tapped(student))
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            weight.sub_(gradient, alpha=0.2 / (1 + 0.1 * step))
    norms: Tensor = v.norm(dim=1, keepdim=True)
    torch.testing.assert_close(weight.detach(), v * (1 - 1 / norms).clamp(min=0), atol=5e-3, rtol=0)


def test_a_share_of_no_groups() -> None:
    with pytest.raises(SchemeError, match="draws all"):
        GroupLasso(structure=Filters(), smallest=0.0)
