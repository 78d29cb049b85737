"""The main call: a task, or a bare model, in; a result out."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.errors import BudgetError, SeenDataWarning, TaskError
from featherweight.core.hooks import hooked
from featherweight.core.stage import Budget, Priced, Recipe
from featherweight.core.task import Batch, Data, Example, Task, evaluating, tensors_of
from featherweight.result import Result, compare
from featherweight.run import run
from featherweight.search.budget import Effort, Tell, doubt_of_drop, search
from featherweight.search.sensitivity import fall_back
from featherweight.search.waterline import within
from featherweight.training.loop import Watch

EFFORT = Effort()


def compress(
    subject: Task | nn.Module,
    recipe: Recipe | Priced | None = None,
    budget: Budget | None = None,
    *,
    example: Example | Mapping[str, Any] | Sequence[Any] | Tensor | None = None,
    calibration: Data | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    train: Data | None = None,
    loss: Callable[[Any, Batch], Tensor] | None = None,
    effort: Effort = EFFORT,
    checkpoint: str | PathLike[str] | None = None,
    watch: Watch | None = None,
    tell: Tell | None = None,
) -> Result:
    """Make the model of a task, or a bare model, small.

    With ``recipe``, its stages are carried out. One that is :class:`featherweight.core.stage.Priced` is tried at
    prices of a bit until it fills the ``budget`` (:func:`featherweight.search.waterline.within`). Where a ``budget``
    beside it limits the drop, and a recipe without learning exceeds it, its worst layers fall back to floats
    (:func:`featherweight.search.sensitivity.fall_back`). With ``budget`` alone, one scheme a tensor is chosen by a
    rate-distortion rule within the limits (:func:`featherweight.search.budget.search`).

    A bare model comes with an ``example`` of its input: a tensor, a sequence of arguments, or a mapping of keyword
    arguments. ``calibration`` are batches of inputs, labels or not; ``evaluate(model)`` gives its quality, higher is
    better; ``train`` with ``loss(outputs, batch)`` allow learning. All of them are optional: without ``evaluate`` the
    drop is how far the outputs move, in per cent of their norm; without data the weights alone decide.

    The model is never changed. ``checkpoint`` is a folder from which a killed run with a recipe goes on. ``watch`` is
    told of every training step, ``tell`` of every trial of a search. A ``SeenDataWarning`` is given where a task has no
    data that ``budget.drop`` could honestly be judged on.
    """
    if isinstance(subject, Task):
        if any(each is not None for each in (example, calibration, evaluate, train, loss)):
            raise TaskError("a Task holds its own data: give example, calibration, evaluate, train and loss there")
        task, model = subject, subject.model()
        doubt = doubt_of_drop(task) if budget is not None and budget.drop is not None else None
        if doubt is not None:
            warnings.warn(doubt, SeenDataWarning, stacklevel=2)
    else:
        task, model = bare_task(subject, example, calibration, evaluate, train, loss), subject
    if isinstance(recipe, Priced) and budget is None:
        recipe = recipe.at(recipe.price)
    if recipe is None:
        if budget is None:
            raise BudgetError("give a recipe, or a budget: Budget(size=bytes) or Budget(drop=loss of quality)")
        if checkpoint is not None:
            raise BudgetError("a search has no checkpoint: its trials are short; give a recipe to resume a long run")
        trial = search(model, task, budget, effort, watch=watch, tell=tell)
        recipe, student, coverage = trial.recipe, trial.student, trial.coverage
    elif isinstance(recipe, Priced) and budget is not None:
        if checkpoint is not None:
            raise BudgetError("a recipe with limits runs again and again, and has no checkpoint")
        trial = within(model, task, recipe, budget, watch=watch, tell=tell)
        recipe, student, coverage = trial.recipe, trial.student, trial.coverage
    elif budget is not None and budget.drop is not None:
        if checkpoint is not None:
            raise BudgetError("a recipe with a limit on the drop may run again and again, and has no checkpoint")
        assert not isinstance(recipe, Priced)
        trial = fall_back(model, task, recipe, budget.drop, watch=watch, tell=tell)
        recipe, student, coverage = trial.recipe, trial.student, trial.coverage
    else:
        assert not isinstance(recipe, Priced)
        folder = Path(checkpoint) if checkpoint is not None else None
        student, coverage = run(model, task, recipe, folder=folder, watch=watch)
    _check_finite(student, model, task)
    result = Result(student, task, recipe, coverage, *compare(task, model, student))
    if budget is not None and budget.size is not None and result.size > budget.size:
        raise BudgetError(f"the file takes {result.size} bytes, over the limit of {budget.size}; loosen one of them")
    return result


@torch.no_grad()
def _check_finite(student: Compressed, model: nn.Module, task: Task) -> None:
    """Raise ``TaskError`` where the student's outputs for the example are not finite, and the model's own are."""
    example = task.example()
    with evaluating(student):
        if _finite(example.run(student)):
            return
    with evaluating(model):
        if not _finite(example.run(model)):
            return
    found = _first_not_finite(student, example)
    where = f" from {found!r} on" if found else ""
    raise TaskError(
        f"the compressed model's outputs are not finite{where}, and the original's are; ask for less there or leave it "
        "out. Where weights are divided by their norm (`weight_norm`), a row that is gone divides by zero: make them "
        "plain first, by `remove_weight_norm` or `parametrize.remove_parametrizations`"
    )


def _first_not_finite(student: Compressed, example: Example) -> str | None:
    """The first layer of the student, in the order of a run, whose outputs are not finite."""
    found: list[str] = []

    def look(path: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, outputs: None if _finite(outputs) else found.append(path)

    parts = ((path, module) for path, module in student.base.named_modules() if not any(module.children()))
    with hooked(module.register_forward_hook(look(path)) for path, module in parts), evaluating(student):
        example.run(student)
    return found[0] if found else None


def _finite(outputs: Any) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in tensors_of(outputs))


def load(path: str | PathLike[str], model: nn.Module, *, max_bytes: int = 1 << 30) -> Compressed:
    """The compressed model of a file, on a model of the class that it was saved from, which stays as it is."""
    return file.load(file.read(path), model, max_bytes=max_bytes)[0]


def save(student: Compressed, path: str | PathLike[str]) -> int:
    """Write a compressed model's file, whole or not at all; its size in bytes."""
    return file.save(path, file.encode(student))


def bare_task(
    model: nn.Module,
    example: Example | Mapping[str, Any] | Sequence[Any] | Tensor | None,
    calibration: Data | None,
    evaluate: Callable[[nn.Module], float] | None,
    train: Data | None,
    loss: Callable[[Any, Batch], Tensor] | None,
) -> Task:
    """A task around a bare model."""
    given = as_example(example)
    return Task(
        name=type(model).__name__,
        architecture=lambda: model,
        model=lambda: model,
        example=lambda: given,
        calibration=None if calibration is None else lambda: calibration,
        train=None if train is None else lambda: train,
        loss=loss,
        evaluate=evaluate,
    )


def as_example(example: Example | Mapping[str, Any] | Sequence[Any] | Tensor | None) -> Example:
    match example:
        case Example():
            return example
        case Tensor():
            return Example((example,))
        case Mapping():
            return Example(kwargs=dict(example))
        case list() | tuple():
            return Example(tuple(example))
        case _:
            raise TaskError("give an `example` of the model's input: a tensor, a sequence of arguments, or a mapping")
