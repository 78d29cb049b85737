"""Fewer channels as the beginning of any recipe: cut to a cost, and learn again from the original."""

from dataclasses import replace

from featherweight.activations.repairs import NormReestimation
from featherweight.core.stage import Recipe, Stage, Training
from featherweight.core.task import Task
from featherweight.search.channels import Narrow
from featherweight.training.objectives import distillation

NAME = "narrow"


def narrowing(rule: Narrow, task: Task, epochs: int = 0) -> tuple[Stage, ...]:
    """Cut the channels that ``rule`` decides on and set batch norms anew; then ``epochs`` of learning, half from the
    labels and half from the original, where the task can train.
    """
    cut = Stage(NAME, edit=rule, repairs=(NormReestimation(),))
    if epochs == 0 or task.train is None:
        return (cut,)
    return cut, Stage("recover", training=Training(epochs, 1e-3), objective=distillation(share=0.5))


def narrowed(stages: tuple[Stage, ...], recipe: Recipe | None = None) -> Recipe:
    """The recipe after these stages; these stages alone where there is none."""
    if recipe is None:
        return Recipe(NAME, stages)
    return replace(recipe, name=f"{NAME}-{recipe.name}", stages=(*stages, *recipe.stages))
