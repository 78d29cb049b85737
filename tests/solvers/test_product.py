"""The descent over sub-spaces: never worse than k-means in its metric, and exact where that can be checked."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Full
from featherweight.metrics.responses import Responses
from featherweight.schemes.product import Product
from featherweight.schemes.uniform import Uniform
from featherweight.solvers.product import ResponseDescent, _Descent, completed

SHAPES = [((40, 14), 4), ((30, 6, 3, 3), 4), ((20, 1, 5, 5), 1), ((12, 8), 8)]


def responses(w: Tensor, noise: float = 0.0, samples: int = 200) -> Responses:
    """Correlated inputs, disturbed by noise, and what the weight makes of the undisturbed ones."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, w[0].numel(), generator=generator, dtype=torch.float64)
    x = x + 2 * x[:, :1]
    seen = x + noise * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    outputs = x @ w.flatten(1).double().T
    return Responses(seen.T @ seen / samples, inputs=seen, outputs=outputs, bias=torch.zeros(len(w)))


def weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("shape, length", SHAPES)
def test_every_step_lowers_the_error(shape: tuple[int, ...], length: int) -> None:
    w = weight(*shape)
    h, target = completed(w.flatten(1).double(), responses(w, 0.3), 1e-3)
    descent = _Descent(Product(length, 5).project(w), w, target, h)
    errors = [descent.error()]
    for _, subspace in itertools.product(range(2), range(descent.subspaces)):
        descent.assign(subspace)
        errors.append(descent.error())
        descent.refit(subspace)
        errors.append(descent.error())
    assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]


@pytest.mark.parametrize("shape, length", SHAPES)
@pytest.mark.parametrize("size", [1, 5, 200])
def test_never_worse_than_k_means_in_the_outputs(shape: tuple[int, ...], length: int, size: int) -> None:
    w, scheme = weight(*shape), Product(length, size)
    metric = responses(w)
    code = ResponseDescent(damping=1e-6).project(scheme, w, metric)
    plain = scheme.project(w).decode()
    assert code.shape == tuple(w.shape) and code.decode().dtype == w.dtype
    assert metric.distance(w, code.decode()) <= metric.distance(w, plain) * (1 + 1e-6)


def test_the_target_is_the_least_squares_weight() -> None:
    """With disturbed inputs it is not the weight itself; no other has a smaller error."""
    w = weight(6, 10)
    metric = responses(w, 0.5)
    _, target = completed(w.double(), metric, 1e-12)
    solved = torch.linalg.lstsq(metric.inputs, metric.outputs).solution.T
    torch.testing.assert_close(target, solved)
    assert metric.error(target) < 0.99 * metric.error(w)


def test_error_correction_lowers_the_error_of_the_outputs() -> None:
    w = weight(40, 12)
    metric = responses(w, 0.5)
    own = replace(metric, outputs=metric.inputs @ w.double().T)  # what the weight makes of the disturbed inputs
    corrected, plain = (ResponseDescent().project(Product(4, 6), w, each).decode() for each in (metric, own))
    assert metric.error(corrected) < 0.97 * metric.error(plain)


def test_a_codebook_is_the_least_squares_one() -> None:
    """All positions share it: the derivative of the error in every entry is zero."""
    w = weight(30, 4, 3, 3)
    h, target = completed(w.flatten(1).double(), responses(w), 1e-3)
    descent = _Descent(Product(2, 4).project(w), w, target, h)
    descent.refit(1)
    books = descent.books.clone().requires_grad_()
    descent.books = books
    left = (descent.target - descent.decoded()).flatten(1)
    (gradient,) = torch.autograd.grad(((left @ descent.h) * left).sum(), books)
    assert float(gradient[1].abs().max()) < 1e-6 * float(gradient[0].abs().max())


@pytest.mark.parametrize("scheme", [Uniform(4), Product(4, 4, dimension=0), Product(4, 4, shared=True)], ids=str)
def test_other_schemes_are_refused(scheme: Product) -> None:
    w = weight(8, 8)
    with pytest.raises(SchemeError, match="along dimension 1"):
        ResponseDescent().project(scheme, w, responses(w))


def test_another_metric_is_refused() -> None:
    for metric in (EUCLIDEAN, Full(torch.eye(8, dtype=torch.float64))):
        with pytest.raises(SchemeError, match="LayerResponses"):
            ResponseDescent().project(Product(2, 4), weight(8, 8), metric)
