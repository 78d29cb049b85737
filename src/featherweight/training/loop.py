"""The plain training loop: project where the schedule says so, else step."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import TaskError
from featherweight.core.processor import halves
from featherweight.core.stage import Matching, Objective, Recurring, Stage, Tap, Training, Tuning
from featherweight.core.task import Batch, Data, Task, call, moved, order_for
from featherweight.training import parallel
from featherweight.training.blends import Blended
from featherweight.training.mixing import Mixed
from featherweight.training.objectives import TASK_LOSS


@dataclass(frozen=True)
class Progress:
    """What a watcher is told after every step: ``epoch`` and ``step`` count from one."""

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float


Watch = Callable[[Progress], None]

Project = Callable[[float], Mapping[str, Tensor]]
"""Projects the student to a target of the schedule; returns the weights that it coded, as they were before."""

Keep = Callable[[int, torch.optim.Optimizer], None]
"""Keeps a checkpoint after so many epochs."""


def rate_at(step: int, steps: int, training: Training) -> float:
    """Learning rate at a step, as a share of the highest: a straight rise over ``warmup``, then half a cosine."""
    rise = training.warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    done = (step - rise) / max(steps - rise, 1)
    return training.final + (1 - training.final) * 0.5 * (1 + math.cos(math.pi * done))


def batches(data: Data) -> int:
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        raise TaskError("training data needs a length in batches, for schedules; give a DataLoader or a list") from None


@contextmanager
def seeded(seed: int, epoch: int) -> Iterator[None]:
    """torch's global generators seeded by seed and epoch, and put back: an epoch is the same however it is reached."""
    with torch.random.fork_rng():
        torch.manual_seed(seed * 1_000_003 + epoch)
        yield


def learn(
    student: Compressed,
    task: Task,
    stage: Stage,
    project: Project,
    teacher: nn.Module,
    *,
    start: int = 0,
    state: dict[str, Any] | None = None,
    watch: Watch | None = None,
    keep: Keep | None = None,
) -> None:
    """Train ``student`` by the stage's training, from epoch ``start``; it is left learning: settle it afterwards.

    ``state`` is the optimizer's, of the checkpoint after ``start`` epochs; the student must then be learning already.
    """
    training = required(stage, task)
    objective, task_loss = stage.objective or TASK_LOSS, loss_of(training, task)
    data = learning_data(training, task)
    each = batches(data)
    if training.epochs and not each:
        raise TaskError(f"the training data of task {task.name!r} holds no batch")
    steps = training.epochs * each
    targets = stage.schedule.targets(steps)
    if start == 0:
        begin(student, stage, project(targets[0]) if 0 in targets and stage.schemes else {})
    objective = objective.begun(student, task)
    optimizer = _optimizer(student, training)
    reached = max((step for step in targets if step < max(start * each, 1)), default=None)
    target = float(bool(stage.schemes)) if reached is None else targets[reached]
    order = order_for(task, student.base, *([teacher] if objective.needs_teacher else []))
    taught = _Taught(teacher, isinstance(training, Recurring)) if objective.needs_teacher else None
    if state is not None:
        optimizer.load_state_dict(state)
    parallel.agree(student)
    for epoch in range(start, training.epochs):
        student.train()
        drawn = epoch % training.period if isinstance(training, Recurring) else epoch
        with seeded(training.seed, drawn):
            for step, batch in enumerate(data, epoch * each):
                target = targets.get(step, target)
                if step in targets and step > 0 and stage.schemes:
                    parallel.average_buffers(student)  # so that all processes project the same
                    advance(student, stage, project, target)
                    optimizer = _optimizer(student, training, optimizer)
                _set_rate(optimizer, rate_at(step, steps, training))
                teach = None if taught is None else partial(taught.outputs, (drawn, step % each))
                loss = _step(student, objective, task_loss, teach, optimizer, batch, order, training, target)
                if watch is not None:
                    watch(Progress(stage.name, epoch + 1, training.epochs, step + 1, steps, loss))
        parallel.average_buffers(student)
        if keep is not None and epoch + 1 < training.epochs:
            keep(epoch + 1, optimizer)
    student.eval()


@dataclass
class _Taught:
    """What the teacher gives; kept by the epoch and step of its batch, where a training's random numbers recur."""

    teacher: nn.Module
    recurs: bool
    kept: dict[tuple[int, int], Any] = field(default_factory=dict)

    @torch.no_grad()
    def outputs(self, place: tuple[int, int], images: Batch) -> Any:
        if place in self.kept:
            return self.kept[place]
        outputs = call(self.teacher, images)
        if self.recurs:
            self.kept[place] = outputs
        return outputs


def required(stage: Stage, task: Task) -> Training:
    """The stage's training. Raises ``TaskError`` where the task cannot train."""
    assert stage.training is not None
    if isinstance(stage.training, Tuning):
        return stage.training
    if task.train is None or task.loss is None:
        raise TaskError(
            f"stage {stage.name!r} trains, and task {task.name!r} has no training data with a loss; "
            "give both, or take a recipe without training"
        )
    return stage.training


def learning_data(training: Training, task: Task) -> Data:
    """The task's training data, or blends of them; the calibration data, mixed anew in every epoch, for a tuning."""
    if not isinstance(training, Tuning):
        data = task.train() if task.train else []
        return Blended(data, training.blend) if isinstance(training, Matching) else data
    data = task.calibration_data()
    return data if training.batch is None else Mixed(data, training.batch)


def loss_of(training: Training, task: Task) -> Callable[[Any, Any], Tensor]:
    """The task's loss; what says that there is none, for objectives without labels."""
    blended = isinstance(training, Matching)

    def no_loss(outputs: Any, batch: Any) -> Tensor:
        why = "blends have no labels" if blended else "the task has no loss"
        raise TaskError(f"{why}: learn from the original model, by OutputError or SoftTargets alone")

    return no_loss if blended or task.loss is None else task.loss


def begin(student: Compressed, stage: Stage, coded: Mapping[str, Tensor]) -> None:
    """Start learning: what was coded just now; or every code there is, in a stage without schemes of its own."""
    names = coded if stage.schemes else student.codes
    student.learn(dict.fromkeys(names, stage.learn), stage.train_rest, coded)


def advance(student: Compressed, stage: Stage, project: Project, target: float) -> None:
    """Project to the next target. A schedule that begins late codes its sites here for the first time."""
    if student.learning:
        project(target)
        return
    student.settle()
    begin(student, stage, project(target))


def _optimizer(
    student: Compressed, training: Training, before: torch.optim.Optimizer | None = None
) -> torch.optim.Optimizer:
    """An optimizer of what learns; parameters that ``before`` knew keep their moments."""
    fields, weights = student.learnable()
    groups = [{"params": weights, "share": 1.0}, {"params": fields, "share": training.code_lr}]
    optimizer = training.optimizer([group for group in groups if group["params"]], training.lr)
    if before is not None:
        for parameter in (*weights, *fields):
            if parameter in before.state:
                optimizer.state[parameter] = before.state[parameter]
    for group in optimizer.param_groups:
        group["first"] = training.lr * group["share"]
    return optimizer


def _set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["first"] * share


def _step(
    student: Compressed,
    objective: Objective,
    task_loss: Callable[[Any, Any], Tensor],
    teach: Callable[[Batch], Any] | None,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    order: Callable[[Batch], Batch],
    training: Training,
    target: float,
) -> float:
    batch, share = parallel.part(moved(batch, student.device))
    images, taught = order(batch), None
    bfloat16 = training.bfloat16 and halves(student.device)
    with torch.autocast(student.device.type, torch.bfloat16, enabled=bfloat16):
        if teach is not None:
            taught = teach(images)
        outputs = call(student, images)
        loss = objective(Tap(outputs, batch, taught, student, task_loss, target))
    if not bool(torch.isfinite(loss)):
        raise TaskError(f"the loss became {loss.item()}; lower the learning rate of this stage, or clip gradients")
    optimizer.zero_grad(set_to_none=True)
    (loss * share if share != 1 else loss).backward()  # type: ignore[no-untyped-call]
    parallel.average_gradients(p for group in optimizer.param_groups for p in group["params"])
    if training.clip is not None:
        nn.utils.clip_grad_norm_(student.parameters(), training.clip)
    optimizer.step()
    objective.stepped(student, optimizer.param_groups[0]["lr"], target)
    return float(loss.detach())
