"""What is told at the end of a compression: only figures that were measured."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
from torch import nn

from featherweight.core.task import Quality, Task, evaluating
from featherweight.file import Claims, slots
from featherweight.report.ledger import Ledger, ledger
from featherweight.result import Result, mcnemar, worst


@dataclass(frozen=True)
class Standing:
    """Quality before and after. Samples are counted where the task scores them one by one; pairs for accuracy alone."""

    metric: str
    unit: str
    before: float
    after: float
    drop: float
    samples: int | None = None
    lost: int | None = None
    won: int | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class Summary:
    """``standing`` is on all evaluation data; ``rest`` on the samples that no choice was made on, if not all are."""

    task: str
    recipe: str
    bytes_before: int
    bytes_after: int
    standing: Standing | None
    rest: Standing | None
    ledger: Ledger
    worst: Mapping[str, float]
    left_alone: Mapping[str, str]
    unseen: bool

    @property
    def ratio(self) -> float:
        return self.bytes_before / self.bytes_after

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "recipe": self.recipe,
            "bytes_before": self.bytes_before,
            "bytes": self.bytes_after,
            "ratio": self.ratio,
            "quality": None if self.standing is None else asdict(self.standing),
            "quality_rest": None if self.rest is None else asdict(self.rest),
            "unseen": self.unseen,
            **ledger_json(self.ledger),
            "worst": dict(self.worst),
            "left_alone": dict(self.left_alone),
        }


def ledger_json(found: Ledger) -> dict[str, Any]:
    return {"tensors": [asdict(row) for row in found.rows], "overhead": found.overhead}


def summarize(result: Result, parent: nn.Module, size: int) -> Summary:
    """``parent`` is the model that was compressed, ``size`` that of the file that was written."""
    return Summary(
        task=result.task.name,
        recipe=result.recipe.name,
        bytes_before=safetensors_size(parent),
        bytes_after=size,
        standing=standing(result, parent),
        rest=None if result.rest is None else claimed(result.rest, result.task.quality),
        ledger=ledger(result.lines(), size),
        worst=dict(worst(result.coverage)),
        left_alone=left_alone(result),
        unseen=result.task.unseen,
    )


def safetensors_size(model: nn.Module) -> int:
    """Bytes of the model's state as a safetensors file, tied tensors once."""
    state = model.state_dict()
    return len(safetensors.torch.save({slot.name: state[slot.name].contiguous() for slot in slots(model)}))


def standing(result: Result, parent: nn.Module) -> Standing | None:
    """On the evaluation data, else by the task's ``evaluate``; ``None`` where it has neither."""
    return standing_of(result.task, parent, result.student.base, result.claims)


def standing_of(task: Task, parent: nn.Module, student: nn.Module, claims: Claims | None) -> Standing | None:
    """The same of two models, whose ``claims`` are what was measured on the evaluation data."""
    if claims is not None:
        return claimed(claims, task.quality)
    before, after = evaluated(task, parent), evaluated(task, student)
    if before is None or after is None:
        return None
    return Standing("evaluate", "", before, after, before - after)


def evaluated(task: Task, model: nn.Module) -> float | None:
    if task.evaluate is None:
        return None
    with evaluating(model):
        return float(task.evaluate(model))


def claimed(claims: Claims, quality: Quality) -> Standing:
    """A file's claims in the task's own unit."""
    before, after = (quality.value(total / claims.samples) for total in (claims.parent, claims.total))
    drop = quality.drop(before, after)
    if not pairs(quality):
        return Standing(quality.name, quality.unit, before, after, drop, claims.samples)
    p = mcnemar(claims)
    return Standing(quality.name, quality.unit, before, after, drop, claims.samples, claims.lost, claims.won, p)


def pairs(quality: Quality) -> bool:
    """Whether scores are 0 or 1, so that samples can be lost and won."""
    return quality.counts


def left_alone(result: Result) -> dict[str, str]:
    """Parameters without a code at the end, each with the reason that the last stage to pass it over gave.

    With them, what a stage left of the structure, of activations, and without repair.
    """
    reasons: dict[str, str] = {}
    left: dict[str, str] = {}
    for each in result.coverage:
        reasons |= each.skipped
        left |= each.left
    names = result.student.names
    bare = {name: reasons.get(name, "no stage names it") for name in names if name not in result.student.codes}
    return bare | left
