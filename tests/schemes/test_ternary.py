"""Ternary codes: the exact optimum against brute force, and the published rules and gradients against formulas."""

from itertools import product

import pytest
import torch
from torch import Tensor

from featherweight.core.metric import EUCLIDEAN, Diagonal
from featherweight.schemes.ternary import Ternary, ThresholdTernary, TrainedTernary
from featherweight.schemes.uniform import PerChannel


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_the_optimum_is_the_best_of_all_ternary_tensors(seed: int, weighted: bool) -> None:
    """Each of the 3⁷ tensors with its own best scale."""
    w = draw(seed, 7).double() ** (3 if seed % 2 else 1)
    d = draw(seed + 30, 7).double().square() if weighted else torch.ones(7, dtype=torch.float64)
    best = float("inf")
    for levels in product((-1.0, 0.0, 1.0), repeat=7):
        t = torch.tensor(levels, dtype=torch.float64)
        mass = float((d * t * t).sum())
        scale = float((d * t * w).sum()) / mass if mass else 0.0
        best = min(best, float((d * (w - scale * t).square()).sum()))
    code = Ternary().project(w, Diagonal(d) if weighted else EUCLIDEAN)
    assert float((d * (w - code.decode()).square()).sum()) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_optimum_is_no_worse_than_the_threshold(seed: int) -> None:
    w = draw(seed, 5, 400) * draw(seed + 9, 5, 1)
    for granularity in (Ternary().granularity, PerChannel()):
        rule, best = (
            float(EUCLIDEAN.distance(w, scheme.project(w).decode()))
            for scheme in (ThresholdTernary(granularity=granularity), Ternary(granularity))
        )
        assert best < rule * (1 + 1e-6)
        assert granularity != PerChannel() or rule < 1.02 * best  # 0.7 is near the optimum of normal weights


def test_the_threshold_rule_channel_by_channel() -> None:
    """Li, Zhang and Liu 2016, equations 5 and 6."""
    w = draw(1, 6, 50)
    decoded = ThresholdTernary(0.7, PerChannel()).project(w).decode()
    for row, channel in zip(decoded, w, strict=True):
        over = channel.abs() > 0.7 * channel.abs().mean()
        scale = channel[over].abs().mean().half().float()
        torch.testing.assert_close(row, torch.where(over, channel.sign() * scale, 0))


def test_the_threshold_follows_a_latent_weight() -> None:
    """Threshold and scale are those of the weight as it is, whatever its code was."""
    w = draw(2, 40)
    scheme = ThresholdTernary()
    latent = (3 * w + 0.5).requires_grad_()
    seen = scheme.through(latent, scheme.project(w))
    assert torch.equal(seen, scheme.project(latent).decode())
    upstream = draw(3, 40)
    (seen * upstream).sum().backward()
    assert latent.grad is not None and torch.equal(latent.grad, upstream)


def test_trained_ternary_starts_from_means_over_the_threshold() -> None:
    w = draw(4, 80)
    code = TrainedTernary(0.3).project(w)
    over = 0.3 * w.abs().max()
    torch.testing.assert_close(code.plus.decode()[0], w[w > over].mean(), rtol=1e-3, atol=0)
    torch.testing.assert_close(code.minus.decode()[0], -w[w < -over].mean(), rtol=1e-3, atol=0)
    assert torch.equal(code.levels, ((w > over).int() - (w < -over).int()).to(torch.int16))


def test_gradients_of_trained_ternary_are_the_published_ones() -> None:
    """Zhu et al. 2016, equations 7 and 8, with learned scales that are not the means any more."""
    w, scheme = draw(5, 6, 10), TrainedTernary(0.25, PerChannel())
    code = scheme.project(w)
    plus, minus = (torch.rand(6, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (1, 2))
    learned = code.with_tensors({"plus.values": plus, "minus.values": minus})
    latent = w.clone().requires_grad_()
    g = draw(6, 6, 10)
    (scheme.through(latent, learned) * g).sum().backward()
    for row in range(6):
        over = 0.25 * w[row].abs().max()
        positive, negative = w[row] > over, w[row] < -over
        assert plus.grad is not None and minus.grad is not None and latent.grad is not None
        torch.testing.assert_close(plus.grad[row], g[row][positive].sum())
        torch.testing.assert_close(minus.grad[row], -g[row][negative].sum())
        factor = torch.where(positive, plus[row].detach(), torch.where(negative, minus[row].detach(), 1.0))
        torch.testing.assert_close(latent.grad[row], factor * g[row])


def test_two_bits_a_weight() -> None:
    w = draw(7, 30)
    assert [scheme.project(w).bits for scheme in (Ternary(), ThresholdTernary(), TrainedTernary())] == [2, 2, 2]
