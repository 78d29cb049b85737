"""One price of a bit for a whole model: found on the real bytes of files."""

import math
from collections.abc import Callable

from torch import nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import BudgetError
from featherweight.core.site import parameters
from featherweight.core.stage import Budget, Priced
from featherweight.core.task import Task
from featherweight.search.budget import Tell, Trial, carry_out, keeps_to, limits, standing, unit
from featherweight.training.loop import Watch

TRIALS = 12
FULL = 0.985
"""A file that fills so much of the limit is good enough."""


def within(
    model: nn.Module,
    task: Task,
    priced: Priced,
    budget: Budget,
    *,
    watch: Watch | None = None,
    tell: Tell | None = None,
) -> Trial:
    """The recipe at the price whose file fills ``budget.size``, or is the smallest within ``budget.drop``.

    Where errors add up, all tensors at one price λ are the best model of their size (Shoham and Gersho 1988, Efficient
    bit allocation for an arbitrary set of quantizers), so that λ is all there is to search. Prices are tried from the
    recipe's own until two of them straddle the limit; sizes are then interpolated in ``log λ``, drops
    bisected. Drops are measured on the selection data. Raises ``BudgetError`` with the nearest trial where none is
    good.
    """
    original = Compressed(model).eval()
    before = standing(original, original, task)
    trials: dict[float, Trial] = {}

    def attempt(price: float) -> Trial:
        trials[price] = carry_out(model, task, priced.at(price), original, before, watch=watch, tell=tell)
        return trials[price]

    entries = sum(p.numel() for _, _, p in parameters(model) if p.ndim > 1)
    _search(priced.price, attempt, budget, max(entries, 1))
    fitting = [trial for trial in trials.values() if keeps_to(trial, budget)]
    if not fitting:
        raise BudgetError(_missed(list(trials.values()), budget, task))
    if budget.size is None:
        return min(fitting, key=lambda trial: trial.size)
    return max(fitting, key=lambda trial: trial.size)


def _search(start: float, attempt: Callable[[float], Trial], budget: Budget, entries: int) -> None:
    """Try prices until two that straddle the limit are close; a higher price makes a smaller file and a larger drop."""

    def fits(trial: Trial) -> bool:
        if budget.size is not None:
            return trial.size <= budget.size
        assert budget.drop is not None
        return trial.drop > budget.drop

    price, low, high = start, None, None  # `low` does not fit, `high` does
    sizes: dict[float, int] = {}
    for _ in range(TRIALS):
        trial = attempt(price)
        sizes[price] = trial.size
        low, high = (low, price) if fits(trial) else (price, high)
        if budget.size is not None and FULL * budget.size <= trial.size <= budget.size:
            return
        if high is not None and low is not None and high / low < 1.05:
            return
        if low is None or high is None:
            price *= _step(trial.size, budget.size, entries, down=low is None)
        else:
            price = _between(low, high, sizes, budget.size)


def _step(size: int, limit: int | None, entries: int, *, down: bool) -> float:
    """The factor to the next price while all that were tried lie on one side of the limit.

    At high rates a doubling of the price doubles the square of the steps, which takes half a bit of every entry. A
    little further than that, and by a quarter at least, so that the limit is passed; by four where drops are limited.
    """
    if limit is None:
        return 0.25 if down else 4.0
    doublings = (size - _aim(limit)) / (entries / 16)
    factor = math.exp(1.1 * math.log(2) * doublings)
    return min(max(factor, 2.0**-16), 0.8) if down else max(min(factor, 2.0**16), 1.25)


def _aim(limit: int) -> float:
    """In the middle of what is good enough."""
    return limit * (1 + FULL) / 2


def _between(low: float, high: float, sizes: dict[float, int], size: int | None) -> float:
    """A price between two, in logarithms: where a straight line of sizes meets the limit, or halfway."""
    share = 0.5
    if size is not None and sizes[low] > sizes[high]:
        share = min(max((sizes[low] - _aim(size)) / (sizes[low] - sizes[high]), 0.1), 0.9)
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))


def _missed(trials: list[Trial], budget: Budget, task: Task) -> str:
    near = min(trials, key=lambda trial: trial.drop if budget.size is None else trial.size)
    return (
        f"recipe {near.recipe.name!r} does not keep to {limits(budget, task)} at any price; the nearest "
        f"of {len(trials)} trials has {near.size} bytes and a drop of {near.drop:.3g} {unit(task)}: loosen a limit"
    )
