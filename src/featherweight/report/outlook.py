"""What a compression would do, before anything is done."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from featherweight.core.plan import Plan
from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, select
from featherweight.core.stage import Budget
from featherweight.core.task import Task
from featherweight.report import figures
from featherweight.report.brief import brief
from featherweight.search.allocation import candidates
from featherweight.search.budget import Effort, doubt_of_drop


@dataclass(frozen=True)
class SearchOutlook:
    """A search as far as it is known beforehand: which scheme a tensor gets depends on weights and data."""

    tensors: Mapping[str, tuple[int, ...]]
    schemes: tuple[Scheme, ...]
    budget: Budget
    effort: Effort
    judged_on: str
    unit: str
    trains: bool
    doubt: str | None


def search_outlook(task: Task, model: nn.Module, budget: Budget, effort: Effort) -> SearchOutlook:
    weights = {name: tuple(p.shape) for name, p in select(model, WEIGHTS).items() if p.is_floating_point()}
    trains = task.train is not None and task.loss is not None
    doubt = doubt_of_drop(task) if budget.drop is not None else None
    return SearchOutlook(weights, tuple(candidates()), budget, effort, judged_on(task), drop_unit(task), trains, doubt)


def judged_on(task: Task) -> str:
    """What a search measures the drop on."""
    if task.selection is not None:
        return "the task's selection data"
    return "the task's evaluate()" if task.evaluate is not None else "how near the outputs stay to the original's"


def drop_unit(task: Task) -> str:
    """The unit of that drop; only the task knows what its ``evaluate`` returns."""
    if task.selection is not None:
        return task.quality.unit
    return "" if task.evaluate is not None else "%"


def search_lines(ahead: SearchOutlook) -> Iterator[str]:
    limits = []
    if ahead.budget.size is not None:
        limits.append(f"at most {figures.size(ahead.budget.size)}")
    if ahead.budget.drop is not None:
        limits.append(f"a drop of at most {ahead.budget.drop:g} {ahead.unit}".rstrip())
    yield f"search within {' and '.join(limits)}; the drop is judged on {ahead.judged_on}"
    if ahead.doubt is not None:
        yield f"warning: {ahead.doubt}"
    yield f"at most {ahead.effort.trials} trials, {_learning(ahead)}"
    yield f"for each of {len(ahead.tensors)} tensors, one of {len(ahead.schemes)} schemes by rate and distortion:"
    yield from (f"     {name} {list(shape)}" for name, shape in ahead.tensors.items())
    yield "candidates:"
    yield from (f"     {brief(scheme)}" for scheme in ahead.schemes)
    yield "which one a tensor gets depends on its weights and on calibration data, and is not known before the run"


def fall_back_lines(task: Task, budget: Budget) -> Iterator[str]:
    """What a limit on the drop does beside a recipe."""
    yield f"where the drop exceeds {budget.drop:g} {drop_unit(task)}, judged on {judged_on(task)}, the layers that move"
    yield "the outputs most stay floats, one after the other, until it does not"


def _learning(ahead: SearchOutlook) -> str:
    if not ahead.trains:
        return "without training"
    given = ahead.effort.epochs
    epochs = f"{given} epochs" if given else "5 epochs or 500 steps, whichever is more,"
    return f"each learning {epochs} of pruning and half as many of sharing"


def search_record(ahead: SearchOutlook) -> dict[str, Any]:
    return {
        "max_size": ahead.budget.size,
        "max_drop": ahead.budget.drop,
        "judged_on": ahead.judged_on,
        "warning": ahead.doubt,
        "trials": ahead.effort.trials,
        "epochs": ahead.effort.epochs if ahead.trains else 0,
        "tensors": {name: list(shape) for name, shape in ahead.tensors.items()},
        "candidates": [brief(scheme) for scheme in ahead.schemes],
    }


def plan_lines(planned: Plan) -> Iterator[str]:
    """Stage by stage: schedule, metric, learning; every scheme with the tensors that it is for."""
    yield f"recipe {planned.recipe.name}"
    for number, each in enumerate(planned.stages, 1):
        stage = each.stage
        learning = "no training"
        if stage.training is not None:
            learning = f"{stage.training.epochs} epochs, learning {stage.learn.value} at {stage.training.lr:g}"
        yield f"{number}. {stage.name}: {brief(stage.schedule)}, {brief(stage.metric)}, {learning}"
        parts = (
            ("structure", stage.edit),
            ("activations", stage.tap),
            ("solver", stage.projector),
            ("objective", stage.objective),
            ("repairs", stage.repairs or None),
        )
        yield from (f"     {what}: {brief(part)}" for what, part in parts if part is not None)
        for scheme in dict.fromkeys(each.sites.values()):
            names = (f"{name} {_shape(planned, name)}" for name, own in each.sites.items() if own == scheme)
            yield f"     {brief(scheme)}: {', '.join(names)}"
        if each.skipped:
            yield f"     left alone: {', '.join(each.skipped)}"


def _shape(planned: Plan, name: str) -> str:
    return "x".join(map(str, planned.shapes[name])) or "scalar"


def plan_record(planned: Plan) -> dict[str, Any]:
    stages = []
    for each in planned.stages:
        stage = each.stage
        stages.append(
            {
                "name": stage.name,
                "schedule": brief(stage.schedule),
                "metric": brief(stage.metric),
                "learn": stage.learn.value if stage.training else None,
                "epochs": stage.training.epochs if stage.training else 0,
                "sites": {name: brief(scheme) for name, scheme in each.sites.items()},
                "left_alone": each.skipped,
            }
        )
    return {"recipe": planned.recipe.name, "stages": stages}
