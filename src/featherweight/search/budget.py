"""Compression without a recipe: the smallest file within a drop, or the best model within a size."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import nn

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.errors import BudgetError
from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, Sites, parameters, select
from featherweight.core.stage import Budget, Cubic, Learn, MagnitudeRule, MetricRule, Objective, Recipe, Stage, Training
from featherweight.core.task import ACCURACY, Data, Task, call, device_of, evaluating, measure, moved, tensors_of
from featherweight.metrics.diagonal import Curvature
from featherweight.result import encode
from featherweight.run import Coverage, run
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.sparse import Magnitude, Sparse
from featherweight.search.allocation import Point, allocate, candidates, measure_points, prices
from featherweight.training.loop import Watch, batches
from featherweight.training.objectives import TASK_LOSS, distillation

NAME = "budget"


@dataclass(frozen=True, eq=False)
class Trial:
    """One recipe carried out: the size of its file in bytes, and its drop on the selection data."""

    recipe: Recipe
    student: Compressed
    coverage: tuple[Coverage, ...]
    size: int
    drop: float


@dataclass(frozen=True)
class Effort:
    """How long a search may try: ``trials`` recipes, each learning where the task can train.

    ``epochs`` of pruning and half as many of sharing; ``None`` takes 5, or as many as make 500 steps.
    """

    trials: int = 6
    epochs: int | None = None
    lr: float = 1e-3

    def learning(self, data: Data) -> Training:
        return Training(self.epochs or max(5, ceil(500 / batches(data))), self.lr)


Tell = Callable[[Trial], None]


def search(
    model: nn.Module,
    task: Task,
    budget: Budget,
    effort: Effort,
    *,
    objective: Objective | None = None,
    watch: Watch | None = None,
    tell: Tell | None = None,
) -> Trial:
    """Choose a scheme for every weight by the rate-distortion rule and carry the choice out, a few times.

    The trade λ is the one whose estimated size is wanted: order-0 entropies, before any learning. With ``budget.size``,
    the estimate is corrected by the sizes of the files until one fills nine tenths of the limit; of those that fit the
    one with the least drop is taken, of equals the largest, and ``budget.drop`` is a condition on it. With
    ``budget.drop`` alone, the wanted size is bisected in its logarithm for the smallest file whose drop on the
    selection data is within the limit. Raises ``BudgetError`` with the nearest trial where none is good.
    """
    if budget.size is None and budget.drop is None:
        raise BudgetError("give a limit: a size in bytes (--max-size), a drop in quality (--max-drop), or both")
    tries = _Tries(model, task, effort, objective or default_objective(task), watch, tell)
    trials = _within_size(tries, budget.size) if budget.size is not None else _within_drop(tries, budget)
    good = [trial for trial in trials if keeps_to(trial, budget)]
    if not good:
        near = min(trials, key=lambda t: (max(0, t.size - (budget.size or t.size)), t.drop))
        raise BudgetError(
            f"no trial met {limits(budget, task)}; the nearest has {near.size} bytes and a drop of "
            f"{near.drop:.3g} {unit(task)}. Loosen a limit, or allow more trials and epochs"
        )
    return min(good, key=lambda t: (t.drop, -t.size) if budget.size is not None else (t.size, t.drop))


def _within_size(tries: "_Tries", size: int) -> list[Trial]:
    trials: list[Trial] = []
    wanted, tried = float(size), set[float]()
    for _ in range(tries.effort.trials):
        price = tries.price(wanted)
        if price in tried:
            break
        tried.add(price)
        trials.append(tries.run(price))
        if 0.9 * size <= trials[-1].size <= size:
            break
        wanted = tries.estimate(price) + 0.97 * size - trials[-1].size
    return trials


def _within_drop(tries: "_Tries", budget: Budget) -> list[Trial]:
    trials: list[Trial] = []
    low, high = tries.sizes
    for _ in range(tries.effort.trials):
        wanted = (low * high) ** 0.5
        trials.append(tries.run(tries.price(wanted)))
        low, high = (low, wanted) if keeps_to(trials[-1], budget) else (wanted, high)
    return trials


def carry_out(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    original: Compressed,
    before: float,
    *,
    watch: Watch | None = None,
    tell: Tell | None = None,
) -> Trial:
    """One trial; ``before`` is the standing of the original."""
    student, coverage = run(model, task, recipe, watch=watch)
    size = len(encode(student, task, recipe, widest_claims(task)))
    trial = Trial(recipe, student, coverage, size, before - standing(student, original, task))
    if tell is not None:
        tell(trial)
    return trial


def default_objective(task: Task) -> Objective:
    """Soft targets for classifiers, whose outputs are logits; the task's own loss for all others.

    A bare model comes without evaluation data: nobody says that it is a classifier.
    """
    judged = task.evaluation is not None or task.selection is not None
    return distillation() if judged and task.quality is ACCURACY else TASK_LOSS


def keeps_to(trial: Trial, budget: Budget) -> bool:
    """Whether a trial is within all limits."""
    small = budget.size is None or trial.size <= budget.size
    return small and (budget.drop is None or trial.drop <= budget.drop)


def unit(task: Task) -> str:
    """What drops are counted in, see :func:`standing`."""
    if task.selection is not None:
        return task.quality.unit
    return "(as `evaluate` counts)" if task.evaluate is not None else "% of the outputs' norm"


def limits(budget: Budget, task: Task) -> str:
    """The limits in words."""
    parts = [f"{budget.size} bytes"] if budget.size is not None else []
    parts += [f"a drop of {budget.drop} {unit(task)}"] if budget.drop is not None else []
    return " and ".join(parts)


class _Tries:
    """What all trials of a search share: the metric, the points of every tensor, the quality of the original."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        effort: Effort,
        objective: Objective,
        watch: Watch | None,
        tell: Tell | None,
    ) -> None:
        self.model, self.task, self.effort, self.objective = model, task, effort, objective
        self.watch, self.tell = watch, tell
        weights = {name: p.detach() for name, p in select(model, WEIGHTS).items() if p.is_floating_point()}
        self.rule: MetricRule = MagnitudeRule() if _blind(task) else Curvature()
        metrics = self.rule.measure(Compressed(model).eval(), list(weights), task)
        self.points = measure_points(weights, metrics, candidates())
        self.original = Compressed(model).eval()
        self.before = standing(self.original, self.original, task)
        self.prices = prices(self.points)
        if not self.prices:
            raise BudgetError("no scheme makes any tensor of this model smaller")

    def estimate(self, price: float) -> float:
        """Bytes of the weights at λ ``price``, by their order-0 entropies before learning."""
        return sum(point.bits for point in allocate(self.points, price).values()) / 8

    @property
    def sizes(self) -> tuple[float, float]:
        """The least and the largest estimate."""
        return self.estimate(2 * self.prices[-1]), self.estimate(self.prices[0] / 2)

    def price(self, wanted: float) -> float:
        """The least λ whose estimate is at most ``wanted`` bytes, or the largest λ of all: estimates fall with λ."""
        between = [2 * self.prices[-1]]
        between += [(a * b) ** 0.5 for a, b in zip(self.prices[::-1], self.prices[-2::-1], strict=False)]
        between.append(self.prices[0] / 2)
        fits = bisect_right(between, wanted, key=self.estimate)
        return between[max(fits - 1, 0)]

    def run(self, price: float) -> Trial:
        chosen = allocate(self.points, price)
        recipe = self.recipe(chosen)
        return carry_out(self.model, self.task, recipe, self.original, self.before, watch=self.watch, tell=self.tell)

    def recipe(self, chosen: dict[str, Point]) -> Recipe:
        """Prune, then share, each followed by learning where the task can train; biases in float16."""
        sparse = {n: p.scheme for n, p in chosen.items() if isinstance(p.scheme, Sparse)}
        shared: dict[str | Sites, Scheme] = {n: p.scheme for n, p in chosen.items() if isinstance(p.scheme, Codebook)}
        side = [n for n, _, p in parameters(self.model) if p.is_floating_point() and p.ndim < 2 and _narrows(p)]
        last = (Stage("side", {Sites(tuple(side)): Float(Width.FLOAT16)}),) if side else ()
        if self.task.train is None or self.task.loss is None:
            every: dict[str | Sites, Scheme] = {n: p.scheme for n, p in chosen.items() if p.scheme != Float()}
            return Recipe(NAME, ((Stage("share", every, metric=self.rule),) if every else ()) + last)
        training = self.effort.learning(self.task.train())
        pruned: dict[str | Sites, Scheme] = {n: s.then(Float()) for n, s in sparse.items()}
        shared |= {n: Sparse(Magnitude(), s.values) for n, s in sparse.items()}
        stages = []
        if pruned:
            stages.append(
                Stage(
                    "prune",
                    pruned,
                    self.rule,
                    schedule=Cubic(every=8, end=0.6),
                    learn=Learn.LATENT,
                    training=training,
                    objective=self.objective,
                )
            )
        if shared:
            finer = replace(training, epochs=max(1, training.epochs // 2), lr=training.lr / 3, seed=training.seed + 1)
            stages.append(Stage("share", shared, training=finer, objective=self.objective))
        return Recipe(NAME, (*stages, *last))


def widest_claims(task: Task) -> file.Claims | None:
    """Claims as long as any of the task: a trial's size leaves room for those that are measured at the end."""
    if task.evaluation is None:
        return None
    total = 333_333 if task.quality.counts else 1e6 / 3  # counts have a shorter header than other scores
    return file.Claims(10**6, total, total, 10**6)


def doubt_of_drop(task: Task) -> str | None:
    """Why a drop that a search measures on this task says little of new data; ``None`` where nothing speaks against it.

    A model is better on data that it has learned from, and minds compression less there.
    """
    if task.selection is None and task.evaluate is None:
        return (
            f"task {task.name!r} has no selection data: the limit on the drop is held against how far the outputs move "
            "on calibration data, which is no loss of quality. Give `selection`, data that the model has not seen"
        )
    if not task.unseen:
        return (
            f"the model of task {task.name!r} has seen its selection data in training: the drop on new data can be "
            "larger than the limit. Give `selection` data that it has not seen"
        )
    return None


def _blind(task: Task) -> bool:
    return task.calibration is None and task.train is None


def _narrows(p: torch.Tensor) -> bool:
    """Whether float16 holds a bias or norm to within a thousandth of its largest entry."""
    if p.dtype.itemsize <= 2:
        return False
    error = (p.detach().half().to(p.dtype) - p.detach()).abs().max()
    return bool(torch.isfinite(error)) and bool(error <= 1e-3 * p.detach().abs().max())


def standing(model: Compressed, original: Compressed, task: Task) -> float:
    """How good the model is for choosing, higher is better: on the selection data in the task's quality, else by the
    task's ``evaluate``, which gets a model of the user's class, else by how near the outputs are to the original's, in
    per cent.
    """
    if task.selection is not None:
        value = measure(model, task.selection(), task.quality)
        return value if task.quality.higher_is_better else -value
    if task.evaluate is not None:
        with evaluating(model.base):
            return float(task.evaluate(model.base))
    return nearness(model, original, task)


@torch.no_grad()
def nearness(model: nn.Module, original: nn.Module, task: Task) -> float:
    """``100 (1 − ‖f(x) − f₀(x)‖ / ‖f₀(x)‖)`` over the calibration data, or the example where there is none."""
    error = norm = 0.0
    with evaluating(model), evaluating(original):
        for run_on in _inputs(task, device_of(model)):
            for ours, theirs in zip(tensors_of(run_on(model)), tensors_of(run_on(original)), strict=True):
                error += float((ours - theirs).double().square().sum())
                norm += float(theirs.double().square().sum())
    return 100 * (1 - (error / norm) ** 0.5) if norm else 100.0


def _inputs(task: Task, device: torch.device) -> Iterator[Callable[[nn.Module], Any]]:
    if _blind(task):
        yield task.example().run
        return
    for batch in task.calibration_data():
        yield partial(call, batch=moved(batch, device))
