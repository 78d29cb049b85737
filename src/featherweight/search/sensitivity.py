"""Which layers mind being quantized; and a recipe that leaves the worst of them floats."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import BudgetError
from featherweight.core.site import parameters
from featherweight.core.stage import Recipe
from featherweight.core.task import Task
from featherweight.run import Coverage, run
from featherweight.search.budget import Tell, Trial, carry_out, nearness, standing, unit
from featherweight.training.loop import Watch


@dataclass(frozen=True)
class Sensitivity:
    """What a recipe does to one layer alone, its weight and what it takes in, with all others left as they are.

    ``error`` is ``100 ‖f(x) − f₀(x)‖ / ‖f₀(x)‖`` of the model's outputs on calibration data; ``drop`` the loss of
    quality on the selection data, in the task's unit.
    """

    weight: str
    error: float
    drop: float


def without(recipe: Recipe, weights: Sequence[str], *, joins: bool = True) -> Recipe:
    """The recipe with these weights, and what their layers take in, left as they are.

    Raises ``SelectionError`` where a stage's rule for activations cannot leave layers out.
    """
    return replace(recipe, stages=tuple(stage.without(weights, joins=joins) for stage in recipe.stages))


def sensitivities(model: nn.Module, task: Task, recipe: Recipe, weights: Sequence[str]) -> list[Sensitivity]:
    """Every weight's sensitivity to the recipe, largest error first; of equal ones the first of the model's.

    Joins of activations stay floats, and stages that project repair nothing: it is the layer alone that counts.
    """
    original = Compressed(model).eval()
    before = standing(original, original, task)
    plain = replace(recipe, stages=tuple(replace(s, repairs=() if s.schemes else s.repairs) for s in recipe.stages))
    found = []
    for weight in weights:
        others = [name for each in weights if each != weight for name in _names(model, each)]
        student, _ = run(model, task, without(plain, others, joins=False))
        error = 100 - nearness(student, original, task)
        found.append(Sensitivity(weight, error, before - standing(student, original, task)))
    return sorted(found, key=lambda each: -each.error)


def fall_back(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    drop: float,
    *,
    watch: Watch | None = None,
    tell: Tell | None = None,
) -> Trial:
    """Carry out a recipe; where the drop on the selection data exceeds ``drop``, leave the worst layers floats.

    One layer after the other, the largest error of the outputs first (:func:`sensitivities`), each time with the whole
    recipe anew, until the drop is within the limit. Which layers these are and why stands in the last stage's coverage.
    Raises ``BudgetError`` with the nearest trial where even all of them do not help, and for recipes that learn, whose
    drop training has to mend.
    """
    original = Compressed(model).eval()
    before = standing(original, original, task)

    def attempt(tried: Recipe) -> Trial:
        return carry_out(model, task, tried, original, before, watch=watch, tell=tell)

    trials = [attempt(recipe)]
    if trials[0].drop <= drop:
        return trials[0]
    if any(stage.training is not None for stage in recipe.stages):
        raise BudgetError(_missed(trials, drop, task, "it learns: loosen the limit, or let it learn for longer"))
    coded = [name for name, code in trials[0].student.codes.items() if len(code.shape) > 1]
    worst = sensitivities(model, task, recipe, coded)
    for count in range(1, len(worst) + 1):
        names = [name for each in worst[:count] for name in _names(model, each.weight)]
        trials.append(attempt(without(recipe, names)))
        if trials[-1].drop <= drop:
            return replace(trials[-1], coverage=_explained(trials, worst[:count], drop, task))
    raise BudgetError(_missed(trials, drop, task, "no layer is left to fall back; loosen the limit"))


def _explained(trials: Sequence[Trial], fallen: Sequence[Sensitivity], drop: float, task: Task) -> tuple[Coverage, ...]:
    *first, last = trials[-1].coverage
    why = f"with all layers quantized the drop is {trials[0].drop:.3g} {unit(task)}, over {drop:g}"
    left = {}
    for each in fallen:
        alone = f"alone it moves the outputs by {each.error:.3g} % and costs {each.drop:.3g} {unit(task)}"
        left[each.weight] = f"falls back to floats: {alone}; {why}"
    return (*first, replace(last, left={**last.left, **left}))


def _missed(trials: Sequence[Trial], drop: float, task: Task, advice: str) -> str:
    near = min(trials, key=lambda trial: trial.drop)
    return (
        f"recipe {trials[0].recipe.name!r} does not keep to a drop of {drop:g} {unit(task)}; the nearest of "
        f"{len(trials)} trials has {near.size} bytes and a drop of {near.drop:.3g}; {advice}"
    )


def _names(model: nn.Module, first: str) -> tuple[str, ...]:
    """All names of a parameter that may be tied."""
    return next(names for name, names, _ in parameters(model) if name == first)
