"""The fewest bits within a drop, by bisection."""

from collections.abc import Callable

from torch import nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import BudgetError
from featherweight.core.stage import Recipe
from featherweight.core.task import Task
from featherweight.run import run
from featherweight.search.budget import standing, unit


def least_bits(
    model: nn.Module, task: Task, recipe_of: Callable[[int], Recipe], drop: float, *, least: int = 2, most: int = 8
) -> int:
    """The fewest bits whose recipe loses at most ``drop`` on the selection data; that more bits lose less is assumed.

    The search for one group of numbers, all others left as they are, of Gysel, Motamedi and Ghiasi 2016, arXiv
    1604.03168. Raises ``BudgetError`` where even ``most`` bits lose more.
    """
    original = Compressed(model).eval()
    before = standing(original, original, task)

    def lost(bits: int) -> float:
        student, _ = run(model, task, recipe_of(bits))
        return before - standing(student, original, task)

    worst = lost(most)
    if worst > drop:
        raise BudgetError(f"even {most} bits lose {worst:.3g} {unit(task)}, over the limit of {drop:g}; loosen it")
    low, high = least, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if lost(middle) <= drop else (middle + 1, high)
    return high
