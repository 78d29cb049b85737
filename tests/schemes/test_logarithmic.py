"""Powers of two: levels, the exact projection against brute force, and the published rules against formulas."""

from itertools import product
from math import floor, log2

import pytest
import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Diagonal
from featherweight.core.rate import Rate, bits_of
from featherweight.schemes.logarithmic import Base, Logarithmic, LogCode, Rounding, ShiftSum, incremental
from featherweight.schemes.plus import PlusCode
from featherweight.schemes.uniform import PerChannel


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2.0 ** (seed % 5 - 2)


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("base", Base)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_the_searched_projection_is_the_best_of_all(seed: int, weighted: bool, base: Base, zero: bool) -> None:
    """Of all top exponents over twenty octaves, and of all assignments of levels to entries."""
    w = draw(seed, 7)
    w[2] *= 5 if seed % 2 else 0
    d = draw(seed + 50, 7).square() if weighted else torch.ones(7)
    count, step = 2, 1 / base.value
    best = float("inf")
    for top in range(-12 * base.value, 8 * base.value):
        levels = [s * 2 ** (step * (top - k)) for k in range(count) for s in (1, -1)] + [0.0] * zero
        least = torch.stack([d.double() * (w.double() - level).square() for level in levels]).amin(0).sum()
        best = min(best, float(least))
    code = Logarithmic(count, base, zero, search=True).project(w, Diagonal(d) if weighted else EUCLIDEAN)
    assert float((d.double() * (w - code.decode()).double().square()).sum()) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_of_all_codes_none_is_nearer(seed: int) -> None:
    """Every level for every entry: no rounding to nearest is taken for granted."""
    w = draw(seed, 3).double()
    code = Logarithmic(2, search=True).project(w)
    errors = [
        float((w - torch.tensor(levels, dtype=torch.float64) * 2.0**top).square().sum())
        for top in range(-10, 8)
        for levels in product((-1, -0.5, 0, 0.5, 1), repeat=3)
    ]
    assert float((w - code.decode()).square().sum()) == pytest.approx(min(errors), abs=1e-12)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(4))
def test_incremental_levels_and_boundaries(seed: int, bits: int) -> None:
    """Zhou et al. 2017, equations 2 to 4, entry by entry."""
    w = draw(seed, 60)
    first = floor(log2(4 * float(w.abs().max()) / 3))
    last = first + 1 - 2 ** (bits - 1) // 2
    levels = [0.0, *(2.0**n for n in range(last, first + 1))]

    def rounded(value: float) -> float:
        for alpha, beta in zip(levels, levels[1:], strict=False):
            if (alpha + beta) / 2 <= abs(value) < 3 * beta / 2:
                return beta if value > 0 else -beta
        return 0.0

    code = incremental(bits).project(w)
    assert code.decode().tolist() == [rounded(value) for value in w.tolist()]
    assert code.bits == bits and code.powers.alphabet == 2 ** (bits - 1) + 1


@pytest.mark.parametrize("base", Base)
def test_exponents_are_rounded_in_the_log_domain(base: Base) -> None:
    w = draw(3, 200)
    code = Logarithmic(8, base, rounding=Rounding.LOGARITHMIC).project(w)
    exponents = (base.value * torch.log2(w.abs().double())).round()
    top = exponents.max()
    expected = torch.where(exponents > top - 8, w.sign() * 2 ** (exponents / base.value), 0)
    assert 0 < int((code.levels == 0).sum()) < 60
    torch.testing.assert_close(code.decode(), expected.float())


def test_products_with_a_code_are_shifts() -> None:
    """Integer activations shifted and added give the float product to the last bit."""
    code = Logarithmic(6, granularity=PerChannel(), search=True).project(draw(1, 4, 16))
    x = torch.randint(-128, 128, (16,), generator=torch.Generator().manual_seed(1))
    under = int(code.tops.min()) - 6
    for row in range(4):
        total = 0
        for level, value in zip(code.levels[row].tolist(), x.tolist(), strict=True):
            if level:
                total += (1 if level > 0 else -1) * (value << (int(code.tops[row]) - 6 + abs(level) - under))
        assert total * 2.0**under == float(code.decode()[row].double() @ x.double())


@pytest.mark.parametrize("scheme", [Logarithmic(3), Logarithmic(2, zero=False), Logarithmic(3, scaled=True)], ids=str)
def test_a_rate_minimises_error_and_bits(scheme: Logarithmic) -> None:
    w = draw(2, 40)
    code = scheme.project(w)
    stream = next(iter(code.streams()))
    rate = Rate(0.3, bits_of(stream.values, stream.alphabet))
    rated = scheme.project(w, warm=code, rate=rate)
    count = scheme.magnitudes
    levels = torch.tensor([level for level in range(-count, count + 1) if level or scheme.zero])
    top = 2.0 ** float(code.tops) * (1.0 if code.scales is None else float(code.scales.decode()))
    values = levels.sign() * top * 2.0 ** (levels.abs() - count)
    costs = (w[:, None] - values).square() + 0.3 * rate.bits
    torch.testing.assert_close(rated.decode(), values[costs.argmin(1)])
    assert not torch.equal(rated.levels, code.levels)


@pytest.mark.parametrize("factor", [0.9, 1.7])
@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_pass_inside_the_range(scaled: bool, factor: float) -> None:
    """Up to the boundary of one more level; the scale gets what an independent formula says."""
    w, scheme = draw(2, 30), Logarithmic(3, scaled=scaled)
    code = scheme.project(w)
    latent = (factor * w).requires_grad_()
    upstream = draw(9, 30)
    scale = torch.ones(1)
    if code.scales is not None:
        scale = code.scales.decode().clone().requires_grad_()
        code = code.with_tensors({"scales.values": scale})
    decoded = scheme.through(latent, code)
    (decoded * upstream).sum().backward()
    inside = latent.detach().abs() / scale.detach() < 1.5 * 2.0 ** float(code.tops)
    assert latent.grad is not None
    torch.testing.assert_close(latent.grad, upstream * inside)
    assert bool(inside.all()) is (factor < 1)
    if scaled:
        each = (decoded - torch.where(inside, latent, 0)).detach() / scale.detach()
        torch.testing.assert_close(scale.grad, (each * upstream).sum().reshape(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_a_sum_of_shifts_takes_the_nearest_power_of_what_is_left(terms: int) -> None:
    """Gudovskiy and Rigazio 2017: codebook n holds zero and ±2^(1−n) … ±2^(2−n−K)."""
    w = draw(4, 50)
    scale = w.abs().max().half().float()
    left, expected = w.clone(), torch.zeros_like(w)
    for n in range(1, terms + 1):
        book = torch.tensor([0.0, *(s * 2.0**e for e in range(3 - n - 4, 2 - n) for s in (1, -1))]) * scale
        nearest = book[(left[:, None] - book).abs().argmin(1)]
        left, expected = left - nearest, expected + nearest
    code = ShiftSum(terms, 3).project(w)
    torch.testing.assert_close(code.decode(), expected)
    parts = []
    while isinstance(code, PlusCode):
        parts.append(code.first)
        code = code.second
    parts.append(code)
    assert len(parts) == terms and all(isinstance(part, LogCode) for part in parts)
    assert all(part.scales.values is parts[0].scales.values for part in parts)  # type: ignore[attr-defined]


def test_each_term_halves_the_error_at_least() -> None:
    w = draw(6, 2000)
    errors = [float(EUCLIDEAN.distance(w, ShiftSum(n, 7).project(w).decode()).sqrt()) for n in (1, 2, 3)]
    assert errors[1] < errors[0] / 2 and errors[2] < errors[1] / 2


def test_settings_that_are_none() -> None:
    for make in (
        lambda: Logarithmic(0),
        lambda: Logarithmic(129),
        lambda: Logarithmic(3, rounding=Rounding.LOGARITHMIC, search=True),
        lambda: Logarithmic(3, scaled=True, search=True),
        lambda: incremental(1),
        lambda: ShiftSum(6),
    ):
        with pytest.raises(SchemeError):
            make()
    with pytest.raises(SchemeError, match="warm start"):
        Logarithmic().project(draw(1, 4), warm=ShiftSum(2).project(draw(1, 4)))
