"""One price of a bit, searched on real bytes: files that fill a limit, and drops that keep to one."""

import math
from dataclasses import dataclass, replace

import pytest
from torch import nn

import featherweight as fw
from featherweight.core.errors import BudgetError, SelectionError
from featherweight.core.stage import Budget, Priced, Recipe, Stage
from featherweight.papers import watersic
from featherweight.schemes.waterfilling import Waterfilling
from featherweight.search.waterline import FULL, _search
from featherweight.solvers.sweep import ColumnSweep
from featherweight.tasks import find

DIGITS = find("digits")


def dense(price: float) -> Recipe:
    """The dense layers alone, which are swept in a moment."""
    return Recipe(
        "dense", (Stage("sweep", {"fc*.weight": Waterfilling(price)}, projector=ColumnSweep(required=False)),)
    )


DENSE = Priced(dense, 1e-7)


@dataclass
class Made:
    """What a search sees of a trial."""

    size: int
    drop: float


@pytest.mark.parametrize("start", [1e-12, 1e-6, 1.0])
@pytest.mark.parametrize("limit", [20_000, 60_000])
def test_prices_are_found_from_anywhere(start: float, limit: int) -> None:
    """On a model that saves 8,000 bytes whenever the price doubles a file fills the limit after a few trials."""
    tried: list[Made] = []

    def attempt(price: float) -> Made:
        tried.append(Made(int(100_000 - 8_000 * math.log2(price / 1e-8)), 0.0))
        return tried[-1]

    _search(start, attempt, Budget(size=limit), 16 * 6_000)  # type: ignore[arg-type]
    assert any(FULL * limit <= made.size <= limit for made in tried)
    assert len(tried) <= 12


@pytest.mark.long
def test_a_file_fills_its_limit(digits_model: nn.Module) -> None:
    task = replace(DIGITS, model=lambda: digits_model)
    result = fw.compress(task, watersic.priced("digits"), Budget(size=9_000))
    assert FULL * 9_000 - 40 <= result.size <= 9_000
    other = fw.compress(task, result.recipe)
    assert other.encode() == result.encode()


@pytest.mark.long
def test_a_drop_is_kept_to_and_a_larger_one_gives_a_smaller_file(digits_model: nn.Module) -> None:
    task = replace(DIGITS, model=lambda: digits_model)
    near, far = (fw.compress(task, DENSE, Budget(drop=drop)) for drop in (0.5, 5.0))
    assert far.size < near.size


def test_what_cannot_be_reached_is_an_error(digits_model: nn.Module) -> None:
    task = replace(DIGITS, model=lambda: digits_model)
    with pytest.raises(BudgetError, match="nearest"):
        fw.compress(task, DENSE, Budget(size=50))


def test_a_price_is_above_zero() -> None:
    with pytest.raises(SelectionError, match="above 0"):
        Priced(lambda price: watersic.recipe(price=price), 0.0)
