"""Laws 1 and 2: a code decodes to the weight's shape and type, projecting is idempotent, and as near as it promises."""

import pytest
import torch

from featherweight.core.metric import EUCLIDEAN
from featherweight.core.scheme import Promise

from .codes import changed, nudged, reread, slack, stored_numbers, swapped, symbols
from .table import CASES, TABLE, WEIGHTS


@pytest.mark.parametrize("name, weight", CASES)
def test_decodes_to_the_shape_and_type_of_the_weight(name: str, weight: str) -> None:
    w, entry = WEIGHTS[weight], TABLE[name]
    before = w.clone()
    for metric in entry.metrics(w):
        code = entry.scheme.project(w, metric)
        decoded = code.decode()
        assert (decoded.shape, decoded.dtype) == (w.shape, w.dtype) == (torch.Size(code.shape), code.dtype)
        assert bool(torch.isfinite(decoded).all())
        assert torch.equal(w, before)


IDEMPOTENT = [
    (name, weight)
    for name, weight in CASES
    if TABLE[name].scheme.promise is not Promise.RULE and WEIGHTS[weight].dtype.itemsize >= 4
]


@pytest.mark.parametrize("name, weight", IDEMPOTENT)
def test_projecting_again_changes_nothing(name: str, weight: str) -> None:
    w, entry = WEIGHTS[weight], TABLE[name]
    for metric in entry.metrics(w):
        code = entry.scheme.project(w, metric)
        again = entry.scheme.project(code.decode(), metric)
        assert again.layout() == code.layout()
        for path, values in symbols(code).items():
            assert torch.equal(symbols(again)[path], values), path
        torch.testing.assert_close(again.decode(), code.decode(), rtol=1e-6, atol=1e-6 * float(w.abs().max()))


EXACT = [(name, weight) for name, weight in CASES if TABLE[name].scheme.promise is Promise.EXACT]
LOCAL = [(name, weight) for name, weight in CASES if TABLE[name].scheme.promise is Promise.LOCAL]


@pytest.mark.parametrize("name, weight", EXACT)
def test_nothing_in_the_set_is_nearer_than_an_exact_projection(name: str, weight: str) -> None:
    w, entry = WEIGHTS[weight], TABLE[name]
    generator = torch.Generator().manual_seed(7)
    for metric in entry.metrics(w):
        code = entry.scheme.project(w, metric)
        least = float(metric.distance(w, code.decode()).sqrt()) - slack(code, metric)
        spread = float(w.double().std(correction=0)) + 0.1 * float(w.abs().max())
        perturbed = [
            entry.scheme.project((w.double() + size * spread * torch.randn(w.shape, generator=generator)).to(w.dtype))
            for size in (1e-3, 1e-2, 0.1, 0.1, 1)
        ]
        others = [*perturbed, *changed(code, generator, 40), *swapped(code, generator, 20), *nudged(code, generator, 5)]
        for other in others:
            if stored_numbers(other) <= stored_numbers(code):
                assert float(metric.distance(w, other.decode()).sqrt()) >= least


@pytest.mark.parametrize("name, weight", LOCAL)
def test_no_single_symbol_improves_a_local_projection(name: str, weight: str) -> None:
    w, entry = WEIGHTS[weight], TABLE[name]
    generator = torch.Generator().manual_seed(8)
    for metric in entry.metrics(w):
        code = entry.scheme.project(w, metric)
        least = float(metric.distance(w, code.decode()))
        margin = 1e-6 * float(metric.distance(w, 0 * w)) * (1 if w.dtype.itemsize >= 4 else 1e4)
        for other in changed(code, generator, 60):
            assert float(metric.distance(w, other.decode())) >= least - margin


@pytest.mark.parametrize("name, weight", [(name, weight) for name, weight in LOCAL if TABLE[name].start])
def test_a_local_projection_is_no_worse_than_its_start(name: str, weight: str) -> None:
    w, entry = WEIGHTS[weight], TABLE[name]
    assert entry.start is not None
    for metric in entry.metrics(w):
        code = entry.scheme.project(w, metric)
        start = float(metric.distance(w, entry.start(w, metric)).sqrt())
        assert float(metric.distance(w, code.decode()).sqrt()) <= start + slack(code, metric)


@pytest.mark.parametrize("name, weight", CASES)
def test_a_warm_projection_keeps_the_numbers_and_chooses_the_symbols(name: str, weight: str) -> None:
    """Projecting the very same weight from its own code gives that code; so does training's last projection."""
    w, entry = WEIGHTS[weight], TABLE[name]
    for metric in entry.metrics(w):
        code = entry.scheme.project(w, metric)
        warm = entry.scheme.project(w, metric, warm=code)
        assert warm.layout() == code.layout()
        assert torch.equal(warm.decode(), code.decode())


@pytest.mark.parametrize("name", TABLE)
def test_several_tensors_at_once(name: str) -> None:
    """``project_all`` gives every tensor a code of its shape; where the scheme has no shared budget, its own."""
    entry = TABLE[name]
    weights = {weight: WEIGHTS[weight] for weight in ("normal", "heavy-tailed", "constant")}
    together = entry.scheme.project_all(weights, dict.fromkeys(weights, EUCLIDEAN))
    assert list(together) == list(weights)
    for weight, w in weights.items():
        assert together[weight].shape == tuple(w.shape)
        warm = entry.scheme.project_all({weight: w}, {weight: EUCLIDEAN}, {weight: together[weight]})
        assert torch.equal(warm[weight].decode(), together[weight].decode())


@pytest.mark.parametrize("name, weight", CASES)
def test_a_code_that_survives_a_cut_is_the_code_of_what_stays(name: str, weight: str) -> None:
    w, entry = WEIGHTS[weight], TABLE[name]
    code = entry.scheme.project(w, entry.metrics(w)[0])
    for dim, size in enumerate(w.shape):
        indices = torch.arange(0, size, 2)
        left = code.select(dim, indices) if size else None
        if left is not None:
            wanted = code.decode().index_select(dim, indices)
            assert torch.equal(left.decode(), wanted) and left.shape == tuple(wanted.shape) and left.dtype == w.dtype
            assert torch.equal(reread(left, list(left.streams())).decode(), wanted)
