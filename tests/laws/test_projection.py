"""Laws 1 and 2: a code decodes to the weight's shape and type, projecting is idempotent, and as near as it promises."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.scheme import Promise

from .codes import changed, nudged, reread, slack, stored_numbers, swapped, symbols
from .table import CASES, TABLE, WEIGHTS, Entry


@dataclass(frozen=True)
class Projection:
    """A scheme's code for a weight in a metric, and what the weight was before."""

    entry: Entry
    weight: str
    metric: Metric
    before: Tensor
    code: Code

    @property
    def w(self) -> Tensor:
        return WEIGHTS[self.weight]

    @property
    def of(self) -> str:
        """What a law that fails was asked of."""
        return f"{self.weight}, {self.metric}"

    def distance(self, decoded: Tensor) -> float:
        return float(self.metric.distance(self.w, decoded))


@pytest.fixture(scope="module")
def projections(request: pytest.FixtureRequest) -> list[Projection]:
    """What the scheme of this name makes of every weight that it takes, in every metric: made once for all laws."""
    entry = TABLE[request.param]
    weights = [weight for name, weight in CASES if name == request.param]
    return [
        Projection(entry, weight, metric, WEIGHTS[weight].clone(), entry.scheme.project(WEIGHTS[weight], metric))
        for weight in weights
        for metric in entry.metrics(WEIGHTS[weight])
    ]


def law_of(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("projections", names, indirect=True)


ALL = list(TABLE)
OPTIMAL = [name for name in TABLE if TABLE[name].scheme.promise is not Promise.RULE]
EXACT = [name for name in TABLE if TABLE[name].scheme.promise is Promise.EXACT]
LOCAL = [name for name in TABLE if TABLE[name].scheme.promise is Promise.LOCAL]


@law_of(ALL)
def test_decodes_to_the_shape_and_type_of_the_weight(projections: list[Projection]) -> None:
    for each in projections:
        w, code = each.w, each.code
        decoded = code.decode()
        assert (decoded.shape, decoded.dtype) == (w.shape, w.dtype) == (torch.Size(code.shape), code.dtype), each.of
        assert bool(torch.isfinite(decoded).all()), each.of
        assert torch.equal(w, each.before), each.of


@law_of(OPTIMAL)
def test_projecting_again_changes_nothing(projections: list[Projection]) -> None:
    for each in projections:
        w, code = each.w, each.code
        if w.dtype.itemsize < 4:
            continue
        again = each.entry.scheme.project(code.decode(), each.metric)
        assert again.layout() == code.layout(), each.of
        for path, values in symbols(code).items():
            assert torch.equal(symbols(again)[path], values), (each.of, path)
        nearby = 1e-6 * float(w.abs().max())
        assert torch.allclose(again.decode(), code.decode(), rtol=1e-6, atol=nearby), each.of


@law_of(EXACT)
def test_nothing_in_the_set_is_nearer_than_an_exact_projection(projections: list[Projection]) -> None:
    generator = torch.Generator().manual_seed(7)
    for each in projections:
        w, code = each.w, each.code
        least = each.distance(code.decode()) ** 0.5 - slack(code, each.metric)
        spread = float(w.double().std(correction=0)) + 0.1 * float(w.abs().max())
        perturbed = [
            each.entry.scheme.project(
                (w.double() + size * spread * torch.randn(w.shape, generator=generator)).to(w.dtype)
            )
            for size in (1e-3, 1e-2, 0.1, 0.1, 1)
        ]
        others = [*perturbed, *changed(code, generator, 12), *swapped(code, generator, 6), *nudged(code, generator, 3)]
        for other in others:
            if stored_numbers(other) <= stored_numbers(code):
                assert each.distance(other.decode()) ** 0.5 >= least, each.of


@law_of(LOCAL)
def test_no_single_symbol_improves_a_local_projection(projections: list[Projection]) -> None:
    generator = torch.Generator().manual_seed(8)
    for each in projections:
        w = each.w
        margin = 1e-6 * each.distance(0 * w) * (1 if w.dtype.itemsize >= 4 else 1e4)
        least = each.distance(each.code.decode()) - margin
        for other in changed(each.code, generator, 20):
            assert each.distance(other.decode()) >= least, each.of


@law_of([name for name in LOCAL if TABLE[name].start])
def test_a_local_projection_is_no_worse_than_its_start(projections: list[Projection]) -> None:
    for each in projections:
        assert each.entry.start is not None
        start = each.distance(each.entry.start(each.w, each.metric)) ** 0.5
        assert each.distance(each.code.decode()) ** 0.5 <= start + slack(each.code, each.metric), each.of


@law_of(ALL)
def test_a_warm_projection_keeps_the_numbers_and_chooses_the_symbols(projections: list[Projection]) -> None:
    """Projecting the very same weight from its own code gives that code; so does training's last projection."""
    for each in projections:
        warm = each.entry.scheme.project(each.w, each.metric, warm=each.code)
        assert warm.layout() == each.code.layout(), each.of
        assert torch.equal(warm.decode(), each.code.decode()), each.of


@law_of(ALL)
def test_a_code_that_survives_a_cut_is_the_code_of_what_stays(projections: list[Projection]) -> None:
    for each in projections:
        w, code = each.w, each.code
        for dim, size in enumerate(w.shape):
            indices = torch.arange(0, size, 2)
            left = code.select(dim, indices) if size else None
            if left is not None:
                wanted = code.decode().index_select(dim, indices)
                assert torch.equal(left.decode(), wanted), each.of
                assert left.shape == tuple(wanted.shape) and left.dtype == w.dtype, each.of
                assert torch.equal(reread(left, list(left.streams())).decode(), wanted), each.of


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
