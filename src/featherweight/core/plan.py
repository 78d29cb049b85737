"""What a recipe would do to a model, before anything is done: no data, no side effect."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from featherweight.core.errors import SelectionError, naming
from featherweight.core.scheme import Scheme
from featherweight.core.site import parameters, select
from featherweight.core.stage import Recipe, Stage


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its sites found: parameter name -> scheme; and every parameter it leaves alone, with the reason."""

    stage: Stage
    sites: dict[str, Scheme]
    skipped: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """Printing it is the review."""

    recipe: Recipe
    shapes: dict[str, tuple[int, ...]]
    stages: tuple[PlannedStage, ...]

    def lines(self) -> Iterator[str]:
        yield f"recipe {self.recipe.name}: {len(self.stages)} stages"
        for number, planned in enumerate(self.stages, 1):
            stage = planned.stage
            epochs = f", {stage.training.epochs} epochs ({stage.learn.value})" if stage.training else ", no training"
            yield f"{number}. {stage.name}: {type(stage.schedule).__name__}, {type(stage.metric).__name__}{epochs}"
            parts = (("structure", stage.edit), ("activations", stage.tap), ("solver", stage.projector))
            yield from (f"     {what}: {part}" for what, part in parts if part is not None)
            for name, scheme in planned.sites.items():
                yield f"     {name} {list(self.shapes[name])} -> {scheme}"
            if planned.skipped:
                yield f"     left alone: {', '.join(planned.skipped)}"
            yield from (f"     repair: {repair}" for repair in stage.repairs)

    def __str__(self) -> str:
        return "\n".join(self.lines())


def plan_stage(model: nn.Module, stage: Stage) -> PlannedStage:
    """Find a stage's sites. Raises ``SelectionError`` for a pattern that matches nothing that an earlier one left."""
    sites: dict[str, Scheme] = {}
    for where, scheme in stage.rules():
        found = select(model, where)
        fresh = [name for name in found if name not in sites]
        if not fresh and not where.optional:
            raise SelectionError(f"{where} matches only what an earlier pattern took ({', '.join(found)}); remove it")
        sites |= dict.fromkeys(fresh, scheme)
    skipped = {
        name: "biases, norms and other vectors are not in the patterns" if p.ndim < 2 else "not in the patterns"
        for name, _, p in parameters(model)
        if name not in sites
    }
    return PlannedStage(stage, sites, skipped if stage.schemes else {})


def plan(model: nn.Module, recipe: Recipe) -> Plan:
    """Find the sites of every stage of ``recipe`` in ``model``."""
    shapes = {name: tuple(parameter.shape) for name, _, parameter in parameters(model)}
    planned = []
    for stage in recipe.stages:
        with naming(f"stage {stage.name!r} of recipe {recipe.name!r}"):
            planned.append(plan_stage(model, stage))
    return Plan(recipe, shapes, tuple(planned))
