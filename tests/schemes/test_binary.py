"""Signs of a given magnitude: the nearest ones, and what a draw is on average."""

import pytest
import torch

from featherweight.core.errors import SchemeError
from featherweight.schemes.binary import Binary, glorot, mean_magnitude
from featherweight.schemes.uniform import Uniform


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_given_the_magnitude_no_signs_are_nearer() -> None:
    w = draw(10)
    found = (w - Binary(0.75).project(w).decode()).square().sum()
    signs = 0.75 * (2.0 * (torch.arange(1024)[:, None] >> torch.arange(10) & 1) - 1)
    assert float(found) == pytest.approx(float((w - signs).square().sum(1).min()))


def test_a_draw_is_on_average_the_weight_clipped_to_the_magnitude() -> None:
    """BinaryConnect, equation 2: +H with probability clip((w/H + 1)/2, 0, 1)."""
    scheme = Binary(0.5, stochastic=True)
    w = torch.tensor([-3.0, -0.5, -0.2, 0.0, 0.1, 0.45, 0.5, 2.0])
    code = scheme.project(w)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.stack([scheme.through(w, code) for _ in range(20_000)])
    assert drawn.abs().eq(0.5).all()
    torch.testing.assert_close(drawn.mean(0), w.clamp(-0.5, 0.5), rtol=0, atol=0.5 * 4 / 20_000**0.5)
    assert drawn[:, 0].eq(-0.5).all() and drawn[:, -1].eq(0.5).all()
    assert torch.equal(code.decode(), torch.where(w >= 0, 0.5, -0.5))  # what is stored is never drawn


def test_magnitudes() -> None:
    linear, kernel = draw(300, 784), draw(50, 20, 5, 5)
    assert glorot(linear) == pytest.approx((1.5 / 1084) ** 0.5)
    assert glorot(kernel) == pytest.approx((1.5 / (20 * 25 + 50 * 25)) ** 0.5)
    initial = torch.nn.init.xavier_uniform_(torch.empty(300, 784))
    assert float(initial.std()) / glorot(linear) == pytest.approx((4 / 3) ** 0.5, rel=0.01)
    assert torch.equal(Binary(mean_magnitude).project(linear).decode(), Uniform(1).project(linear).decode())
    with pytest.raises(SchemeError, match="no fan in"):
        Binary(glorot).project(draw(5))
    with pytest.raises(SchemeError, match="magnitude of 0"):
        Binary(0.0)
