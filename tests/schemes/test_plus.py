"""Sums of codes: the greedy residual, its gradients, and that residual binarization trains."""

import torch
from torch import Tensor, nn

from featherweight.core.metric import EUCLIDEAN
from featherweight.core.stage import Learn, Recipe, Training, everywhere
from featherweight.core.task import call
from featherweight.run import run
from featherweight.schemes.plus import Plus, PlusCode
from featherweight.schemes.uniform import PerChannel, Uniform, UniformCode
from featherweight.tasks import find

SIGNS = Plus(Uniform(1), Plus(Uniform(1), Uniform(1)))


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scales_of(code: PlusCode) -> list[str]:
    return [path for path, tensor in code.tensors().items() if tensor.is_floating_point()]


def test_residual_signs_are_signs_and_means_of_what_is_left() -> None:
    """Guo et al. 2017, equation 4, term by term; each is nearer than the last."""
    w = draw(1, 12, 20)
    left, errors = w.clone(), []
    for scheme in (Uniform(1), Plus(Uniform(1), Uniform(1)), SIGNS):
        left = left - torch.where(left >= 0, 1.0, -1.0) * left.abs().mean().half().float()
        code = scheme.project(w)
        torch.testing.assert_close(code.decode(), w - left)
        errors.append(float(EUCLIDEAN.distance(w, code.decode())))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_every_scale_gets_the_sum_over_its_signs_and_the_weight_all() -> None:
    w, upstream = draw(2, 30), draw(3, 30)
    code = SIGNS.project(w)
    scales = {path: code.tensors()[path].clone().requires_grad_() for path in scales_of(code)}
    latent = (w + 0.1).requires_grad_()
    seen = SIGNS.through(latent, code.with_tensors(dict(scales)))
    (seen * upstream).sum().backward()
    assert latent.grad is not None and torch.equal(latent.grad, upstream)
    left = latent.detach().clone()
    for scale in scales.values():
        signs = torch.where(left >= 0, 1.0, -1.0)
        torch.testing.assert_close(scale.grad, (signs * upstream).sum().reshape(1))
        left = left - signs * scale.detach()
    torch.testing.assert_close(seen.detach(), latent.detach() - left)


def test_residual_binarization_trains(digits_model: nn.Module) -> None:
    """Two signs a weight, a scale a channel each, learned with the weights behind them."""
    task = find("digits")
    signs = Uniform(1, granularity=PerChannel())

    def student(epochs: int) -> nn.Module:
        training = Training(epochs, 1e-3) if epochs else None
        stage = everywhere("signs", Plus(signs, signs), learn=Learn.BOTH, training=training)
        trained, _ = run(digits_model, task, Recipe("residual binarization", (stage,)))
        for name, code in trained.codes.items():
            assert isinstance(code, PlusCode) and isinstance(code.first, UniformCode)
            start = Plus(signs, signs).project(digits_model.get_parameter(name).detach())
            assert isinstance(start.first, UniformCode)
            moved = not torch.equal(code.first.scales.decode(), start.first.scales.decode())
            assert code.first.bits == 1 and moved is bool(epochs)
        return trained

    @torch.no_grad()
    def loss(model: nn.Module) -> float:
        assert task.selection is not None and task.loss is not None
        return sum(float(task.loss(call(model, batch), batch)) for batch in task.selection())

    assert loss(student(4)) < loss(student(0)) / 2
