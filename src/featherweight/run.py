"""The flow: model -> plan -> project and learn -> student."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from featherweight.checkpoint import Checkpoint, Position, checkpoint
from featherweight.core.code import Code
from featherweight.core.compressed import Compressed
from featherweight.core.errors import NoEffectError, SelectionError, TraceError, naming
from featherweight.core.memory import give_back
from featherweight.core.metric import Metric
from featherweight.core.plan import PlannedStage, plan, plan_stage
from featherweight.core.scheme import Scheme, check_weight
from featherweight.core.stage import BlockProjector, EditRule, MetricRule, Projector, Recipe, Stage, TapRule
from featherweight.core.task import Task
from featherweight.file import stream_bits
from featherweight.schemes.floats import Float
from featherweight.training import loop
from featherweight.training.parallel import from_first

BEFORE = -1
"""The epoch, as far as seeds go, of what a stage decides and projects before it learns, and repairs after it."""

PIECE = 1 << 22
"""Entries of a tensor that are compared in float64 at once."""

Rule = TypeVar("Rule", EditRule, TapRule)
Decision = TypeVar("Decision")


@dataclass(frozen=True)
class Coverage:
    """What a stage did: the parameters it coded with the relative error ``‖w − ŵ‖ / ‖w‖`` of each, and what it left.

    ``changes`` counts edits of the structure and tapped activations. ``repaired`` are values that were given back, with
    the relative change of each. ``left`` names what is no parameter, or had nothing to repair, with the reason.
    """

    stage: str
    touched: Mapping[str, float]
    skipped: Mapping[str, str]
    changes: int = 0
    epochs: int = 0
    repaired: Mapping[str, float] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)


def run(
    model: nn.Module, task: Task, recipe: Recipe, *, folder: Path | None = None, watch: loop.Watch | None = None
) -> tuple[Compressed, tuple[Coverage, ...]]:
    """Carry out ``recipe`` on a copy of ``model``; what was done at each stage comes with the student.

    With ``folder`` the run is kept there after every epoch, and goes on from there if it was killed.
    """
    plan(model, recipe)  # every pattern is checked before the first epoch
    if folder is not None:
        _check_resumable(recipe)
    teacher = Compressed(recipe.teacher() if recipe.teacher else model).eval()
    student = Compressed(model).eval()
    kept = checkpoint(folder, model, recipe) if folder is not None else None
    start, state = Position(0, 0), None
    if kept is not None:
        start, state = kept.restore(student, lambda at: _schemes(student, task, recipe, at))
    before = "done before the run was resumed"
    done = [Coverage(stage.name, {}, {"*": before}) for stage in recipe.stages[: start.stage]]
    for number in range(start.stage, len(recipe.stages)):
        stage = recipe.stages[number]
        seed = stage.training.seed if stage.training else 0
        # What is calibrated before the first epoch may be shuffled too, where a task has training data alone.
        with naming(f"stage {stage.name!r} of recipe {recipe.name!r}"), loop.seeded(seed, BEFORE):
            keep = _keeper(kept, number, student)
            epochs = start.epochs if number == start.stage else 0
            done.append(_carry_out(student, teacher, task, stage, epochs, state if epochs else None, keep, watch))
        if kept is not None:
            kept.keep(Position(number + 1, 0), student, None)
    return student.eval(), tuple(done)


def _carry_out(
    student: Compressed,
    teacher: Compressed,
    task: Task,
    stage: Stage,
    epochs: int,
    state: dict[str, Any] | None,
    keep: loop.Keep | None,
    watch: loop.Watch | None,
) -> Coverage:
    """One stage, from after ``epochs`` of its training: edit, then project and learn, then repair."""
    begins = epochs == 0  # else the student has the stage's edits and taps
    rule = stage.edit if begins else None
    edits, left = from_first(lambda: _decided(rule, "structure", lambda rule: rule.decide(student, task)))
    values = stage.edit.values(student, edits, task) if stage.edit is not None and edits else {}
    for edit in edits:
        student.edit(edit)
    for name, value in values.items():
        student.renew(name, value)
    together = isinstance(stage.projector, BlockProjector)
    found = Compressed(student.base).eval() if stage.repairs or together else None
    taps, untapped = _decided(stage.tap if begins else None, "activations", lambda rule: rule.taps(student, task))
    student.tap(taps)
    planned = plan_stage(student.base, stage)
    kept = {name: student.weight(name).detach() for name in planned.sites}  # nothing but learning writes into them
    before = {n: (w.clone() if stage.training else w, student.codes.get(n)) for n, w in kept.items()}

    def project(target: float) -> dict[str, Tensor]:
        schemes = {name: scheme.at(target) for name, scheme in planned.sites.items()}
        return project_sites(student, task, stage, schemes, found)

    if stage.training is None:
        project(1.0)
    else:
        loop.learn(student, task, stage, project, teacher, start=epochs, state=state, keep=keep, watch=watch)
        student.settle()
    errors = {name: relative_error(w, student.weight(name).detach()) for name, (w, _) in before.items()}
    covered = Coverage(stage.name, errors, planned.skipped, len(edits) + len(taps), left=left | untapped)
    if found is not None and stage.repairs:
        covered = _repair(student, found, task, stage, covered)
    if begins:
        _check_effect(student, planned, before, covered)
    return replace(covered, epochs=stage.training.epochs if stage.training else 0)


def _decided(
    rule: Rule | None, what: str, decide: Callable[[Rule], Sequence[Decision]]
) -> tuple[Sequence[Decision], dict[str, str]]:
    """What a stage's rule decides, and why it could not where it need not."""
    if rule is None:
        return (), {}
    try:
        return decide(rule), {}
    except TraceError as error:
        if rule.required:
            raise
        return (), {what: str(error)}


def _repair(student: Compressed, found: Compressed, task: Task, stage: Stage, covered: Coverage) -> Coverage:
    """Make the stage's repairs; what each did, added to the record."""
    changed, left = dict(covered.repaired), dict(covered.left)
    for each in stage.repairs:
        done = each.repair(student, found, task)
        changed |= done.changed
        left |= done.left
    return replace(covered, repaired=changed, left=left)


def _check_resumable(recipe: Recipe) -> None:
    for stage in recipe.stages:
        looks_back = stage.repairs or isinstance(stage.projector, BlockProjector)
        if stage.training is not None and looks_back:
            raise SelectionError(
                f"stage {stage.name!r} learns and repairs or reconstructs what it found at its beginning, which a "
                "checkpoint does not hold; give that a stage of its own, or run without a checkpoint"
            )


def project_sites(
    student: Compressed, task: Task, stage: Stage, schemes: Mapping[str, Scheme], found: Compressed | None = None
) -> dict[str, Tensor]:
    """Project every site from where it stands; tensors with equal schemes together, so that they may share a budget.

    Returns what was projected: dense weights that learn behind the codes go on from there. ``found`` is what blocks are
    reconstructed to, where the stage does that; the student as it stands where it is ``None``.
    """
    sources = {name: student.source(name) for name in schemes}
    for name, w in sources.items():
        with naming(name):
            check_weight(w)
    if isinstance(stage.projector, BlockProjector):
        original = found or Compressed(student.base).eval()
        for names in stage.projector.groups(student, list(schemes)):
            group = {name: schemes[name] for name in names}
            with naming(names[0]):
                student.encode(stage.projector.project(student, original, group, task), group)
        return sources
    if stage.projector is not None:
        solve(student, task, stage.metric, stage.projector, schemes)
        return sources
    metrics = stage.metric.measure(student, list(schemes), task) if schemes else {}
    in_force = student.codes  # put together anew at every access
    for scheme in dict.fromkeys(schemes.values()):
        weights = {name: sources[name] for name in schemes if schemes[name] == scheme}
        before = {name: in_force[name].map(torch.detach) for name in weights if name in student.learning}
        again = len(before) == len(weights)
        codes = scheme.advance(weights, metrics, before) if again else scheme.project_all(weights, metrics)
        student.encode(codes, dict.fromkeys(codes, scheme))
    return sources


def solve(
    student: Compressed, task: Task, metric: MetricRule, projector: Projector, schemes: Mapping[str, Scheme]
) -> None:
    """Project the parameters one after the other, each measured behind all before it but those of its own part."""
    rule = metric.begun(student, list(schemes), task)
    for part in rule.together(list(schemes)):
        metrics = rule.measure(student, part, task)
        for name in part:
            with naming(name):
                _solve_one(student, name, metrics.pop(name), projector, schemes[name])
        give_back()


def _solve_one(student: Compressed, name: str, metric: Metric, projector: Projector, scheme: Scheme) -> None:
    """A function of its own, so that nothing of it stays in memory while the next is measured."""
    w = student.source(name)
    check_weight(w)
    student.encode({name: projector.project(scheme, w, metric)}, {name: scheme})


def _check_effect(
    student: Compressed,
    planned: PlannedStage,
    before: Mapping[str, tuple[Tensor, Code | None]],
    covered: Coverage,
) -> None:
    """Raise ``NoEffectError`` where nothing at all became of the stage. ``before`` holds its sites' weights and codes.

    A stage that only learns, and one whose sites are all optional, may do nothing else.
    """
    stage = planned.stage

    def unchanged(name: str) -> bool:
        w, code = before[name]
        return covered.touched[name] == 0 and _bits(student.codes.get(name), w) >= _bits(code, w)

    if covered.changes or any(covered.repaired.values()) or not all(map(unchanged, before)):
        return
    if stage.schemes and all(where.optional for where, _ in stage.rules()):
        return
    if stage.training is None or before:
        reasons = "".join(f"; {what}: {why}" for what, why in covered.left.items())
        raise NoEffectError(
            f"nothing changed: all of {', '.join(before) or 'no sites'} already are what the scheme makes of them"
            f"{reasons}; ask for more, or remove the stage"
        )


def relative_error(w: Tensor, v: Tensor) -> float:
    """``‖w − v‖ / ‖w‖``; not a number where the shapes differ."""
    if w.shape != v.shape:
        return float("nan")
    parts = zip(torch.split(w.flatten(), PIECE), torch.split(v.flatten(), PIECE), strict=True)
    sums = [((a.double() - b.double()).square().sum(), a.double().square().sum()) for a, b in parts]
    error, size = (torch.stack(each).sum().sqrt() for each in zip(*sums, strict=True))
    return float(error / size.clamp(min=torch.finfo(torch.float64).tiny))


def _bits(code: Code | None, w: Tensor) -> float:
    """What a code takes in a file, in bits; without one, what the weight itself takes."""
    return sum(stream_bits(code or Float().project(w)).values())


def _keeper(kept: Checkpoint | None, number: int, student: Compressed) -> loop.Keep | None:
    if kept is None:
        return None
    return lambda epochs, optimizer: kept.keep(Position(number, epochs), student, optimizer)


def _schemes(student: Compressed, task: Task, recipe: Recipe, at: Position) -> dict[str, Scheme]:
    """The scheme in force at every coded parameter, at a position of the run."""
    schemes: dict[str, Scheme] = {}
    for number, stage in enumerate(recipe.stages[: at.stage + 1]):
        if number < at.stage:
            schemes |= plan_stage(student.base, stage).sites
        elif at.epochs and stage.training is not None:
            each = loop.batches(task.train() if task.train else [])
            targets = stage.schedule.targets(stage.training.epochs * each)
            past = [target for step, target in targets.items() if step < at.epochs * each]
            sites = plan_stage(student.base, stage).sites
            schemes |= {name: scheme.at(past[-1]) for name, scheme in sites.items()} if past else {}
    return schemes
