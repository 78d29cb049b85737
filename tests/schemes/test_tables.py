"""Tables of eight bits, bit by bit, and the nearest values in them."""

import pytest
import torch
from torch import Tensor

from featherweight.core.rate import Rate, bits_of
from featherweight.schemes.tables import Table, Tabled
from featherweight.schemes.uniform import PerChannel, Uniform


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dynamic_tree(pattern: int) -> float:
    """The value of a byte: a sign, zeros, a one, and a part of [0.1, 1]."""
    digits = f"{pattern:08b}"
    zeros = len(digits[1:]) - len(digits[1:].lstrip("0"))
    if zeros == 7:
        return 1.0 if digits[0] == "1" else 0.0
    rest = digits[zeros + 2 :]
    low, high = 0.1, 1.0
    for digit in rest:
        low, high = ((low + high) / 2, high) if digit == "1" else (low, (low + high) / 2)
    return (-1 if digits[0] == "1" else 1) * (low + high) / 2 / 10**zeros


def minifloat(pattern: int) -> float:
    sign, exponent, mantissa = -1 if pattern >> 7 else 1, pattern >> 4 & 7, pattern & 15
    return sign * (mantissa if exponent == 0 else (16 + mantissa) * 2 ** (exponent - 1)) / (31 * 64)


@pytest.mark.parametrize("table, value", [(Table.DYNAMIC_TREE, dynamic_tree), (Table.MINIFLOAT, minifloat)])
def test_tables_are_the_values_of_all_bytes(table: Table, value: object) -> None:
    assert callable(value)
    expected = sorted({float(value(pattern)) for pattern in range(256)})
    assert table.numbers == pytest.approx(expected, rel=1e-12)
    assert len(table.numbers) == {Table.DYNAMIC_TREE: 256, Table.MINIFLOAT: 255}[table]
    assert 0.0 in table.numbers and max(table.numbers) == 1.0


@pytest.mark.parametrize("table", Table)
def test_every_entry_is_the_nearest_value(table: Table) -> None:
    w = draw(1, 5, 60) ** 3
    code = Tabled(table, PerChannel()).project(w)
    values = torch.tensor(table.numbers)
    for row, scale, decoded in zip(w, code.scales.decode(), code.decode(), strict=True):
        assert float((row.abs().max() / scale - 1).abs()) < 0.01
        nearest = (values * scale)[(row[:, None] - values * scale).abs().argmin(1)]
        torch.testing.assert_close(decoded, nearest)


def test_the_dynamic_tree_is_nearer_than_a_uniform_grid_where_magnitudes_differ_much() -> None:
    """Relative error of the median entry, over four decades: what it was made for."""
    w = draw(2, 4000).sign() * 10 ** (-4 * torch.rand(4000, generator=torch.Generator().manual_seed(3)))
    errors = [((scheme.project(w).decode() - w) / w).abs().median() for scheme in (Tabled(), Uniform(8))]
    assert errors[0] < errors[1] / 5


def test_a_rate_minimises_error_and_bits() -> None:
    w, scheme = draw(3, 300), Tabled()
    code = scheme.project(w)
    stream = next(iter(code.streams()))
    rate = Rate(1e-4, bits_of(stream.values, stream.alphabet))
    rated = scheme.project(w, warm=code, rate=rate)
    values = torch.tensor(Table.DYNAMIC_TREE.numbers) * code.scales.decode()
    costs = (w[:, None] - values).square() + 1e-4 * rate.bits
    torch.testing.assert_close(rated.decode(), values[costs.argmin(1)])
    assert not torch.equal(rated.indices, code.indices)


def test_gradients_pass_inside_the_range() -> None:
    w, scheme = draw(4, 50), Tabled()
    code = scheme.project(w)
    scale = code.scales.decode().clone().requires_grad_()
    latent, upstream = (1.4 * w).requires_grad_(), draw(5, 50)
    decoded = scheme.through(latent, code.with_tensors({"scales.values": scale}))
    (decoded * upstream).sum().backward()
    x = (latent / scale).detach()
    inside = (x > min(Table.DYNAMIC_TREE.numbers)) & (x < 1)
    assert latent.grad is not None and torch.equal(latent.grad != 0, inside)
    torch.testing.assert_close(latent.grad, upstream * inside)
    each = decoded.detach() / scale.detach() - torch.where(inside, x, 0)
    torch.testing.assert_close(scale.grad, (each * upstream).sum().reshape(1), rtol=1e-4, atol=1e-4)
