"""Everything that is known of one compression, in one record: what pages and terminals show. Nothing is estimated."""

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from featherweight import __version__, file
from featherweight.core.compressed import Compressed
from featherweight.core.errors import DataError, FeatherweightError
from featherweight.core.plan import plan
from featherweight.core.stage import Claim, Reference
from featherweight.core.task import Task
from featherweight.costs.operations import Operations, operations
from featherweight.engines.compare import Comparison
from featherweight.file import Claims
from featherweight.report.layers import Activation, activations, changes, errors, state_bytes
from featherweight.report.ledger import ledger
from featherweight.report.outlook import plan_lines
from featherweight.report.summary import Standing, Summary, claimed, safetensors_size, standing_of, summarize
from featherweight.result import Result, agree, compare, lines
from featherweight.schemes.floats import Floats, Width
from featherweight.search.budget import NAME as SEARCH

NEAR = 1e-4
"""The share of samples, or of a sum of scores, by which one network may differ between two machines."""


@dataclass(frozen=True)
class Method:
    """Where a recipe comes from.

    ``plan`` is the recipe as it was planned, ``None`` where that is not known; ``paper`` what `papers` calls it.
    """

    plan: str | None = None
    reference: Reference | None = None
    claims: tuple[Claim, ...] = ()
    deviations: tuple[str, ...] = ()
    paper: str | None = None


@dataclass(frozen=True)
class FileClaims:
    """What the file says of its quality, and whether it agrees with what was measured; ``None``: not measured.

    ``same_parent``: whether the parent here scores as the file's did. Where it does not, it is another network, such as
    a baseline that was trained anew: what is held against it, pairs and errors, is not what the compression did.
    """

    standing: Standing
    agrees: bool | None
    same_parent: bool | None


@dataclass(frozen=True)
class Report:
    """``summary.worst`` is of single stages; ``errors`` are of the whole, against the parent.

    name           of the file; empty for a result that was not read from one
    before         bytes of each tensor of the parent's state
    errors         ``‖w − ŵ‖ / ‖w‖`` by parameter, largest first; ``None`` without the parent's weights
    work           parameters and multiply-accumulates, before and after
    missing        part of the report -> why it was not measured
    command        task -> how the command line names it
    """

    summary: Summary
    name: str
    before: Mapping[str, int]
    errors: Mapping[str, float] | None
    work: tuple[Operations, Operations]
    activations: tuple[Activation, ...]
    changes: tuple[str, ...]
    claims: FileClaims | None = None
    method: Method = Method()
    comparisons: tuple[Comparison, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    task_option: str = ""

    @property
    def versions(self) -> dict[str, str]:
        """Of what this report was made with."""
        return {"featherweight": __version__, "torch": torch.__version__, "Python": platform.python_version()}

    @property
    def other_parent(self) -> bool:
        """Whether the parent here is known not to be the one that the file was made from."""
        return self.claims is not None and self.claims.same_parent is False

    @property
    def removed(self) -> dict[str, int]:
        """Tensors of the parent that the file does not have any more, with their bytes."""
        kept = {row.name for row in self.summary.ledger.rows}
        return {name: size for name, size in self.before.items() if name not in kept}

    @property
    def commands(self) -> dict[str, str]:
        """What is to be done again -> the command."""
        path = shlex.quote(self.name or "model.fwt")
        task = self.task_option
        again = {"make it again": self._making()} if self._making() else {}
        return again | {
            "measure its quality": f"featherweight verify {path}{task}",
            "measure its speed": f"featherweight measure {path}{task} --save measurement.json",
            "make this report": f"featherweight report {path}{task} --measurement measurement.json -o report.html",
        }

    def _making(self) -> str:
        """Empty for a recipe that the command line does not know."""
        if self.summary.recipe == SEARCH:
            return f"featherweight compress {self._task()} --max-size SIZE --max-drop DROP"
        if self.method.paper is None:
            return ""
        return f"featherweight reproduce {shlex.quote(self.method.paper)} --task {self._task()}"

    def _task(self) -> str:
        return self.task_option.removeprefix(" --task ") or shlex.quote(self.summary.task)

    def to_json(self) -> dict[str, Any]:
        before, after = self.work
        return self.summary.to_json() | {
            "bytes_by_tensor_before": dict(self.before),
            "errors": None if self.errors is None else dict(self.errors),
            "work": {"before": asdict(before), "after": asdict(after)},
            "activations": [asdict(each) for each in self.activations],
            "changes": list(self.changes),
            "claimed": None if self.claims is None else asdict(self.claims),
            "method": asdict(self.method),
            "comparisons": [each.to_json() for each in self.comparisons],
            "missing": dict(self.missing),
            "commands": self.commands,
            "versions": self.versions,
        }


def of_result(result: Result, comparisons: Sequence[Comparison] = ()) -> Report:
    """The report of a compression that was just made."""
    parent = result.task.model()
    check_comparisons(comparisons, result.task)
    recipe = result.recipe
    planned = "\n".join(plan_lines(plan(result.student.base, recipe)))
    summary = summarize(result, parent, result.size)
    return Report(
        summary=summary,
        name="",
        before=state_bytes(parent),
        errors=errors(parent, result.student),
        work=_work(parent, result.student, result.task),
        activations=activations(result.student.sites),
        changes=tuple(changes(result.student.edits, parent)),
        method=Method(planned, recipe.reference, (), recipe.deviations),
        comparisons=tuple(comparisons),
        missing={} if summary.standing else {"quality": "the task has neither evaluation data nor `evaluate`"},
        task_option=_option(result.task),
    )


def of_file(
    name: str,
    data: bytes,
    task: Task,
    *,
    method: Method = Method(),
    comparisons: Sequence[Comparison] = (),
    max_bytes: int = 1 << 30,
) -> Report:
    """The report of a file's bytes, measured now. Data or weights that are absent are named in ``missing``."""
    check_comparisons(comparisons, task)
    student, contents = file.load(data, task.architecture(), max_bytes=max_bytes)
    missing: dict[str, str] = {}
    parent = _parent(task, missing)
    claims, rest = _compared(task, parent, student, missing)
    standing = None if parent is None else _standing(task, parent, student, claims, missing)
    shaped = parent if parent is not None else task.architecture()
    header = contents.header
    summary = Summary(
        task=task.name,
        recipe=header.recipe,
        bytes_before=safetensors_size(shaped),
        bytes_after=contents.size,
        standing=standing,
        rest=None if rest is None else claimed(rest, task.quality),
        ledger=ledger(lines(contents.codes), contents.size),
        worst={},
        left_alone=_in_full(student),
        unseen=task.unseen,
    )
    return Report(
        summary=summary,
        name=name,
        before=state_bytes(shaped),
        errors=None if parent is None else errors(parent, student),
        work=_work(shaped, student, task),
        activations=activations(student.sites),
        changes=tuple(changes(student.edits, shaped)),
        claims=_file_claims(header.claims, claims, task),
        method=method,
        comparisons=tuple(comparisons),
        missing=missing,
        task_option=_option(task),
    )


def check_comparisons(comparisons: Sequence[Comparison], task: Task) -> None:
    for each in comparisons:
        if each.task != task.name:
            raise FeatherweightError(
                f"the measurement is of task {each.task!r}, and the file is of {task.name!r}; "
                "measure this file with `featherweight measure FILE --save`"
            )


def _parent(task: Task, missing: dict[str, str]) -> nn.Module | None:
    try:
        return task.model()
    except DataError as error:
        missing["parent"] = str(error)
        return None


def _compared(
    task: Task, parent: nn.Module | None, student: Compressed, missing: dict[str, str]
) -> tuple[Claims | None, Claims | None]:
    if parent is None:
        missing["quality"] = "the weights of the parent are not there"
        return None, None
    try:
        return compare(task, parent, student)
    except DataError as error:
        missing["quality"] = str(error)
        return None, None


def _standing(
    task: Task, parent: nn.Module, student: Compressed, claims: Claims | None, missing: dict[str, str]
) -> Standing | None:
    if "quality" in missing:
        return None
    found = standing_of(task, parent, student.base, claims)
    if found is None:
        missing["quality"] = "the task has neither evaluation data nor `evaluate`"
    return found


def _file_claims(said: Claims | None, found: Claims | None, task: Task) -> FileClaims | None:
    if said is None or said.samples == 0:
        return None
    agrees = None if found is None else agree(said, found.total, found.samples, task)
    return FileClaims(claimed(said, task.quality), agrees, None if found is None else _same_parent(said, found, task))


def _same_parent(said: Claims, found: Claims, task: Task) -> bool:
    """Sums of the parent's scores may differ by near ties, which another machine may round the other way."""
    tolerance = max(1.0, NEAR * found.samples) if task.quality.counts else NEAR * max(abs(said.parent), 1.0)
    return said.samples == found.samples and abs(said.parent - found.parent) <= tolerance


def _in_full(student: Compressed) -> dict[str, str]:
    """Parameters that a file holds as they were. Why a stage left them alone, no file says."""
    reason = "stored at full width; the reason is not in the file"
    wide = {Width.FLOAT32, Width.FLOAT64}
    return {name: reason for name, code in student.codes.items() if isinstance(code, Floats) and code.width in wide}


def _work(parent: nn.Module, student: Compressed, task: Task) -> tuple[Operations, Operations]:
    example = task.example()
    return operations(parent, example), operations(student.base, example)


def _option(task: Task) -> str:
    """How the command line is told of a task that files do not name by number."""
    return "" if task.number is not None or task.source is None else f" --task {shlex.quote(task.source)}"
