"""The fewest bits within a drop: those of trying them all."""

import pytest

from featherweight.core.errors import BudgetError
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import measure
from featherweight.run import run
from featherweight.schemes.uniform import Fit, Uniform
from featherweight.search.widths import least_bits

from .test_sensitivity import net, task


def recipe(bits: int) -> Recipe:
    return Recipe("w", (Stage("w", {WEIGHTS: Uniform(bits, fit=Fit.POWER_OF_TWO)}),))


@pytest.mark.parametrize("drop", [0.5, 2.0, 10.0])
def test_bisection_finds_what_trying_all_finds(drop: float) -> None:
    model = net()
    given = task(model)
    assert given.selection is not None
    drops = {}
    for bits in range(2, 9):
        student, _ = run(model, given, recipe(bits))
        drops[bits] = 100 - measure(student, given.selection(), given.quality)
    assert least_bits(model, given, recipe, drop) == min(bits for bits, lost in drops.items() if lost <= drop)


def test_a_limit_that_no_width_keeps_to() -> None:
    model = net()
    with pytest.raises(BudgetError, match="even 3 bits lose"):
        least_bits(model, task(model), recipe, -1.0, most=3)
