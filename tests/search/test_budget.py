"""Allocation against brute force, and searches that end within their limits."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import featherweight as fw
from featherweight import file
from featherweight.core.errors import BudgetError
from featherweight.core.metric import EUCLIDEAN
from featherweight.core.stage import Budget
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float
from featherweight.search.allocation import Point, allocate, hull, measure_points, order_zero_bits, prices
from featherweight.search.budget import Effort

DICE = torch.Generator().manual_seed(0)
CURVES = {
    name: [Point(Float(), *pair) for pair in torch.rand(12, 2, generator=DICE, dtype=torch.float64).tolist()]
    for name in ("a", "b", "c")
}


@pytest.mark.parametrize("price", [0.0, 0.01, 0.3, 1.0, 3.0, 100.0])
def test_an_allocation_is_the_best_of_all(price: float) -> None:
    """``min Σ D + λ Σ R``; the hull leaves out only what no price chooses."""
    best = min(sum(p.distortion + price * p.bits for p in points) for points in product(*CURVES.values()))
    chosen = allocate({name: hull(points) for name, points in CURVES.items()}, price)
    assert sum(p.distortion + price * p.bits for p in chosen.values()) == pytest.approx(best)


def test_a_hull_is_convex_and_falls() -> None:
    for points in CURVES.values():
        kept = hull(points)
        assert min(points, key=lambda p: p.bits) in kept and min(points, key=lambda p: p.distortion) in kept
        pairs = zip(kept, kept[1:], strict=False)
        slopes = [(b.distortion - a.distortion) / (a.bits - b.bits) for a, b in pairs]
        assert all(slope > 0 for slope in slopes) and slopes == sorted(slopes)


def test_the_allocation_changes_at_its_prices_and_nowhere_else() -> None:
    hulls = {name: hull(points) for name, points in CURVES.items()}
    edges = prices(hulls)
    assert edges == sorted(edges)
    for low, high in zip(edges, edges[1:], strict=False):
        near, far = low + 0.01 * (high - low), high - 0.01 * (high - low)
        assert allocate(hulls, near) == allocate(hulls, far) != allocate(hulls, high + 1e-9 * high)


def test_points_are_what_projection_gives() -> None:
    w = torch.randn(20, 20, generator=DICE)
    points = measure_points({"w": w}, {"w": EUCLIDEAN}, [Float(), Codebook(4), Codebook(16)])["w"]
    assert [point.scheme for point in points] == [Float(), Codebook(16), Codebook(4)]
    for point in points:
        code = point.scheme.project(w)
        assert point.bits == order_zero_bits(code)
        assert point.distortion == float(EUCLIDEAN.distance(w, code.decode()))


X = torch.randn(60, 10, generator=DICE)
Y = X[:, :3].argmax(1)


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 3)).eval()


def task(**more: object) -> fw.Task:
    return fw.Task(
        name="a name that takes many bytes of a small file" * 2,
        architecture=net,
        model=net,
        example=lambda: fw.Example((X[:1],)),
        evaluation=lambda: [(X, Y)],
        calibration=lambda: [(X, Y)],
        **more,
    )


CONFIDENCE = fw.Quality(
    "confidence", "", True, lambda outputs, batch: F.softmax(outputs, 1).gather(1, batch[1][:, None])[:, 0]
)


@pytest.mark.parametrize(
    "more", [{}, {"number": 77}, {"quality": CONFIDENCE}, {"source": "my_task.py:task"}], ids=", ".join
)
@pytest.mark.parametrize("size", [620, 700, 800, 900])
def test_the_file_itself_fits(size: int, more: dict[str, object]) -> None:
    """With its names and with its claims, which are measured after the search."""
    result = fw.compress(task(**more), budget=Budget(size=size), effort=Effort(trials=8))
    assert result.claims is not None
    assert 0.85 * size <= result.size <= size
    assert file.decode(result.encode(), net()).header.claims is not None


def test_evaluation_data_decides_nothing() -> None:
    """Selection and calibration data choose; the report's data are read once, at the end."""
    read: list[str] = []

    def data(part: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        read.append(part)
        return [(X, Y)]

    given = fw.Task(
        "watched",
        net,
        net,
        lambda: fw.Example((X[:1],)),
        evaluation=lambda: data("evaluation"),
        selection=lambda: data("selection"),
        calibration=lambda: data("calibration"),
    )
    fw.compress(given, budget=Budget(drop=50.0), effort=Effort(trials=3))
    assert set(read[read.index("evaluation") :]) == {"evaluation"}
    assert read.count("selection") == 4


def test_the_error_names_the_nearest_trial() -> None:
    with pytest.raises(BudgetError, match=r"no trial met 700 bytes and a drop of -100.0 %; the nearest has \d+ bytes"):
        fw.compress(task(selection=lambda: [(X, Y)]), budget=Budget(size=700, drop=-100.0), effort=Effort(trials=2))


def test_a_model_without_weights_cannot_be_searched() -> None:
    with pytest.raises(fw.SelectionError, match="the model has no parameters"):
        fw.compress(nn.ReLU(), budget=Budget(size=10), example=X)
