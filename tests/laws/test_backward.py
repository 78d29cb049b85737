"""Law 5: backward rules are part of a scheme's definition, and equal formulas written down here a second time."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from featherweight.core.code import Code, Role
from featherweight.core.scheme import Scheme
from featherweight.schemes.balanced import Balanced
from featherweight.schemes.binary import Binary
from featherweight.schemes.codebook import Codebook, CodebookCode
from featherweight.schemes.fixed_point import FixedPoint
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.incremental import Incremental
from featherweight.schemes.shifted import Shifted
from featherweight.schemes.sparse import Fraction, Gradient, Sparse, Surgery
from featherweight.schemes.split import Split, SplitCode
from featherweight.schemes.uniform import PerChannel, PerGroup, Uniform, UniformCode

from .table import CASES, TABLE, WEIGHTS
from .test_files import same


@pytest.mark.parametrize("name", [name for name, entry in TABLE.items() if not entry.drawn])
def test_forward_is_the_warm_projection(name: str) -> None:
    """To the last bit, at the code's own weight and at one that has learned."""
    scheme = TABLE[name].scheme
    for weight in [weight for case, weight in CASES if case == name]:
        w = WEIGHTS[weight]
        code = scheme.project(w)
        noise = torch.randn(w.shape, generator=torch.Generator().manual_seed(2)).to(w.dtype)
        for latent in (w, w + 0.05 * w.abs().mean() * noise):
            seen = scheme.through(latent.clone().requires_grad_(), code)
            assert same(seen + 0, scheme.project(latent, warm=code).decode() + 0), weight
            assert seen.requires_grad, weight


def gradient(scheme: Scheme, w: Tensor, code: Code, upstream: Tensor) -> Tensor:
    latent = w.clone().requires_grad_()
    (scheme.through(latent, code) * upstream).sum().backward()
    assert latent.grad is not None
    return latent.grad


def straight(w: Tensor, code: Code, upstream: Tensor) -> Tensor:
    return upstream


def masked(w: Tensor, code: Code, upstream: Tensor) -> Tensor:
    return upstream * (code.decode() != 0)


def inside_range(w: Tensor, code: Code, upstream: Tensor) -> Tensor:
    assert isinstance(code, UniformCode)
    x, grid = _in_steps(w, code), code.grid
    return upstream * ((x > grid.low) & (x < grid.high))


def _in_steps(w: Tensor, code: UniformCode) -> Tensor:
    """The weight in units of its own scale, plus its zero point."""
    scales = _each(w, code, code.scales.decode())
    zeros = 0 if code.zeros is None else _each(w, code, code.zeros)
    return w / scales + zeros


def _each(w: Tensor, code: UniformCode, values: Tensor) -> Tensor:
    """The value of every entry's block."""
    match code.granularity:
        case PerChannel(axis):
            return values.reshape([-1 if i == axis else 1 for i in range(w.ndim)]).expand(w.shape)
        case PerGroup(size):
            return values.repeat_interleave(size).reshape(w.shape)
        case _:
            return values.expand(w.shape)


def inside_unit(w: Tensor, code: Code, upstream: Tensor) -> Tensor:
    return upstream * ((w > -1) & (w < 1 - 2**-4))


def not_frozen(w: Tensor, code: Code, upstream: Tensor) -> Tensor:
    assert isinstance(code, SplitCode)
    return upstream * ~code.mask


def frozen(w: Tensor, code: Code, upstream: Tensor) -> Tensor:
    return 0 * upstream


def split_rules(w: Tensor, code: Code, upstream: Tensor) -> Tensor:
    """Signs pass straight inside their magnitude; what is sparse, where it survives."""
    assert isinstance(code, SplitCode) and isinstance(code.inside, UniformCode)
    inside = w.abs() < code.inside.scales.decode()
    return upstream * torch.where(code.mask, inside, code.decode() != 0)


RULES: list[tuple[Scheme, Callable[[Tensor, Code, Tensor], Tensor]]] = [
    (Float(), straight),
    (Float(Width.BFLOAT16), straight),
    (Codebook(4), straight),
    (Sparse(Fraction(0.5)), masked),
    (Sparse(Fraction(0.5), gradient=Gradient.DENSE), straight),
    (Sparse(Surgery(0.5), gradient=Gradient.DENSE), straight),
    (Sparse(Fraction(0.5), gradient=Gradient.DENSE).then(Codebook(3)), straight),
    (Sparse(Fraction(0.5), gradient=Gradient.RESTING), masked),
    (Sparse(Fraction(0.5)).then(Codebook(3)), masked),
    (Sparse(Fraction(0.5)).then(Float(Width.FLOAT16)), masked),
    (Uniform(4), inside_range),
    (Uniform(3, False, PerChannel(1)), inside_range),
    (Uniform(2, True, PerGroup(4)), inside_range),
    (Uniform(1), inside_range),
    (Binary(0.5), straight),
    (Binary(0.5, stochastic=True), straight),
    (FixedPoint(1, 4), inside_unit),
    (Balanced(2), straight),
    (Shifted(2), straight),
    (Incremental(Codebook(4), share=0.5), not_frozen),
    (Incremental(Codebook(4)), frozen),
    (Split(Uniform(1), Sparse(Fraction(0.5)), 0.2), split_rules),
]


@pytest.mark.parametrize(
    "scheme, rule", RULES, ids=lambda each: str(each) if isinstance(each, Scheme) else each.__name__
)
def test_gradient_of_a_latent_weight(scheme: Scheme, rule: Callable[[Tensor, Code, Tensor], Tensor]) -> None:
    w = WEIGHTS["normal"]
    code = scheme.project(w)
    # A larger weight under the same code: some entries are outside the range.
    upstream = torch.randn(w.shape, generator=torch.Generator().manual_seed(4))
    for latent in (0.97 * w, 1.3 * w):
        torch.testing.assert_close(gradient(scheme, latent, code, upstream), rule(latent, code, upstream))


@pytest.mark.parametrize(
    "scheme", [Uniform(4), Uniform(3, False), Uniform(4, True, PerChannel()), Uniform(2, True, PerGroup(4))], ids=str
)
def test_gradient_of_a_learned_step(scheme: Uniform) -> None:
    """Esser et al. 2019, equation 3: ``round(w/s) − w/s`` inside, the bound outside, times ``1/√(n · high)``."""
    w = 1.2 * WEIGHTS["normal"]
    code = scheme.project(WEIGHTS["normal"])
    scales = code.scales.decode().clone().requires_grad_()
    learned = code.with_tensors({"scales.values": scales})
    upstream = torch.randn(w.shape, generator=torch.Generator().manual_seed(5))
    (scheme.through(w, learned) * upstream).sum().backward()
    x, grid = _in_steps(w, code), scheme.grid
    zeros = 0 if code.zeros is None else _each(w, code, code.zeros)
    inside = (x > grid.low) & (x < grid.high)
    each = torch.where(inside, x.round() - x, x.clamp(grid.low, grid.high) - zeros) * upstream
    count = w.numel() / len(scales)
    expected = torch.stack(
        [each[_each(w, code, torch.arange(len(scales))) == block].sum() for block in range(len(scales))]
    )
    assert not bool(inside.all())
    torch.testing.assert_close(scales.grad, expected / (count * grid.high) ** 0.5, rtol=1e-4, atol=1e-5)


def test_a_centroid_receives_the_sum_of_its_members_gradients() -> None:
    """Han et al. 2015, section 3.3."""
    code = Codebook(5).project(WEIGHTS["heavy-tailed"])
    assert isinstance(code, CodebookCode)
    centroids = code.centroids.decode().clone().requires_grad_()
    upstream = torch.randn(code.shape, generator=torch.Generator().manual_seed(6))
    (code.with_tensors({"centroids.values": centroids}).decode() * upstream).sum().backward()
    expected = torch.stack([upstream[code.indices == k].sum() for k in range(code.size)])
    torch.testing.assert_close(centroids.grad, expected)


DIRECT = [
    name
    for name, entry in TABLE.items()
    if entry.takes(WEIGHTS["float64"]) and entry.scheme.project(WEIGHTS["float64"]).tensors(Role.DIRECT)
]


@pytest.mark.parametrize("name", DIRECT)
def test_gradients_of_direct_fields_are_those_of_decoding(name: str) -> None:
    """Finite differences in float64."""
    code = TABLE[name].scheme.project(WEIGHTS["float64"])
    fields = code.tensors(Role.DIRECT)
    upstream = torch.randn(code.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)

    def loss(*values: Tensor) -> Tensor:
        return (code.with_tensors(dict(zip(fields, values, strict=True))).decode() * upstream).sum()

    inputs = [value.double().clone().requires_grad_() for value in fields.values()]
    assert inputs
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-5)
