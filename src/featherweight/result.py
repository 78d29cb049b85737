"""What compression gives back: a model, a file, and what was measured; and measuring a file again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import erfc, sqrt
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.coding import write_atomic
from featherweight.core.code import Code, Layout
from featherweight.core.compressed import Compressed
from featherweight.core.errors import TaskError
from featherweight.core.plan import plan as planned
from featherweight.core.shared import Reference, referenced
from featherweight.core.stage import Recipe
from featherweight.core.task import Quality, Task, scores
from featherweight.costs.operations import Operations, operations
from featherweight.engines.compare import USUAL, Comparison
from featherweight.engines.compare import compare as compare_on_engines
from featherweight.engines.engine import Engine, Precision
from featherweight.engines.export import Export, export
from featherweight.engines.measurement import Plan
from featherweight.file import Claims
from featherweight.run import Coverage
from featherweight.schemes.floats import Floats, Width

EXACT_PAIRS = 10_000


@dataclass(frozen=True)
class Line:
    """Where bytes went: one tensor of the state."""

    name: str
    shape: tuple[int, ...]
    kind: str
    bits: float  # in the file
    bits_before: int
    nonzero: int


@dataclass(frozen=True, eq=False)
class Result:
    """The outcome of one compression. ``claims`` were measured on the task's evaluation data.

    ``rest`` is the same on the samples that no choice was made on; ``None`` where these are all of them.
    """

    student: Compressed
    task: Task
    recipe: Recipe
    coverage: tuple[Coverage, ...]
    claims: Claims | None
    rest: Claims | None = None

    @property
    def model(self) -> nn.Module:
        """A plain module of the original's class with decoded weights; it shares nothing and can be trained."""
        return self.student.finished()

    def encode(self) -> bytes:
        """The bytes that :meth:`save` writes."""
        return encode(self.student, self.task, self.recipe, self.claims)

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return len(self.encode())

    def save(self, path: str | PathLike[str], *, recipe: bool = False) -> int:
        """Write the file, whole or not at all; its size in bytes. ``recipe`` writes its text beside it, as ``.txt``."""
        size = file.save(path, self.encode())
        if recipe:
            write_atomic(Path(path).with_suffix(".txt"), self.recipe_text().encode())
        return size

    def export(self, path: str | PathLike[str], engine: Engine | None = None) -> Export:
        """Write the model for an engine: by default the first that reads files with the path's suffix."""
        return export(self.student, self.task.example(), path, engine)

    def measure(
        self,
        engines: Sequence[Engine] = USUAL,
        *,
        threads: Sequence[int] = (1,),
        batches: Sequence[int] = (1,),
        precision: Precision = Precision.FLOAT32,
        plan: Plan = Plan(),  # noqa: B008  # frozen
    ) -> Comparison:
        """Measure the model beside the one that it was made from: :func:`featherweight.engines.compare.compare`."""
        parent = self.task.model()
        return compare_on_engines(
            self.task, self.student, parent, engines, threads=threads, batches=batches, precision=precision, plan=plan
        )

    def report(self, path: str | PathLike[str], comparisons: Sequence[Comparison] = ()) -> int:
        """Write a page of HTML on this compression, whole or not at all; its size in bytes.

        ``comparisons`` are what :meth:`measure` gave; without them the page says that speed was not measured.
        """
        from featherweight.report.page import page
        from featherweight.report.report import of_result

        return file.save(path, page(of_result(self, comparisons)).encode())

    def recipe_text(self) -> str:
        """The recipe as it was planned on this model, with its reference and deviations."""
        lines = [str(planned(self.student.base, self.recipe))]
        if self.recipe.reference is not None:
            lines.append(f"after {self.recipe.reference}")
        lines += [f"deviation: {each}" for each in self.recipe.deviations]
        return "\n".join(lines) + "\n"

    def lines(self) -> list[Line]:
        return lines(file.state_codes(self.student))

    def operations(self) -> Operations:
        return operations(self.student.base, self.task.example())


def encode(student: Compressed, task: Task, recipe: Recipe, claims: Claims | None) -> bytes:
    """The bytes of a file of this task."""
    return file.encode(student, number=task.number, claims=claims, task=task.source or task.name, recipe=recipe.name)


def lines(codes: Mapping[str, Code]) -> list[Line]:
    """Where the bytes of a file with these codes go, tensor by tensor; shared numbers are counted where they stand."""
    found = []
    for name, written in referenced(codes).items():
        decoded = codes[name].decode()
        bits = sum(file.stream_bits(written).values())
        before = decoded.numel() * decoded.element_size() * 8
        kind = _kind(written.layout())
        found.append(Line(name, tuple(decoded.shape), kind, bits, before, int(decoded.count_nonzero())))
    return found


def _kind(layout: Layout) -> str:
    """A layout in words: ``sparse (codebook 16 (float16))``."""
    if layout.kind is Floats:
        return Width(layout.settings[0]).name.lower()
    if layout.kind is Reference:
        return "shared"
    name = layout.kind.__name__.removesuffix("Code").lower()
    first = f" {layout.settings[0]}" if layout.settings else ""
    inner = ", ".join(_kind(part) for part in layout.parts)
    return name + first + (f" ({inner})" if inner else "")


def dense_size(model: nn.Module) -> int:
    """Bytes of the model's tensors as they are, tied ones once: a safetensors file without its header."""
    sizes = {slot.name: slot for slot in file.slots(model)}
    state = model.state_dict()
    return sum(state[name].numel() * state[name].element_size() for name in sizes)


def compare(task: Task, parent: nn.Module, student: nn.Module) -> tuple[Claims | None, Claims | None]:
    """Both models on the evaluation data, sample by sample, each run once: on all samples, and on the rest.

    The rest are the samples that the task's selection data does not share; ``None`` where that is all of them. Both are
    ``None`` without evaluation data.
    """
    if task.evaluation is None:
        return None, None
    ours, theirs = scores(student, task.evaluation(), task.quality), scores(parent, task.evaluation(), task.quality)
    rest = _rest(task, len(ours))
    held_out = None if rest is None else _claims(ours[rest], theirs[rest], task.quality)
    return _claims(ours, theirs, task.quality), held_out


def _claims(ours: Tensor, theirs: Tensor, quality: Quality) -> Claims:
    better = theirs > ours if quality.higher_is_better else theirs < ours
    return Claims(len(ours), float(ours.double().sum()), float(theirs.double().sum()), int(better.sum()))


def _rest(task: Task, samples: int) -> Tensor | None:
    """The evaluation samples that no choice was made on, as a mask; ``None`` where these are all of them."""
    if task.chosen is None:
        return None
    chosen = task.chosen().cpu()
    if chosen.dtype != torch.bool or chosen.shape != (samples,):
        raise TaskError(
            f"task {task.name!r}: `chosen` gives {chosen.dtype} of shape {list(chosen.shape)}; it has to be a bool "
            f"mask over the {samples} samples of `evaluation`"
        )
    if chosen.all():
        raise TaskError(f"task {task.name!r}: selection has every evaluation sample, so no quality is an honest one")
    return ~chosen if chosen.any() else None


def mcnemar(claims: Claims) -> float:
    """The two-sided p-value that model and parent are equally often right (McNemar 1947), for scores of 0 and 1.

    Exact up to ``EXACT_PAIRS`` discordant pairs, beyond by the normal approximation with continuity correction.
    """
    discordant, fewer = claims.lost + claims.won, min(claims.lost, claims.won)
    if discordant > EXACT_PAIRS:
        distance = max(0.0, (discordant - 1) / 2 - fewer)
        return erfc(distance / sqrt(discordant / 2))
    term = tail = 1
    for k in range(fewer):
        term = term * (discordant - k) // (k + 1)
        tail += term
    return float(min(1.0, 2 * tail / 2**discordant))


@dataclass(frozen=True)
class Share:
    """Quality on a part of the evaluation samples."""

    samples: int
    value: float


@dataclass(frozen=True)
class Measured:
    """A file's model, measured now. ``rest``: on the samples that no choice was made on, where these are not all."""

    metric: str
    unit: str
    value: float
    samples: int
    total: float
    parameters: int
    nonzero: int
    macs: int
    macs_dense: int
    weight_bits: int
    activation_bits: int
    rest: Share | None = None


@dataclass(frozen=True)
class Verified:
    """A file's claims beside what was measured now.

    ``ok`` where they agree: for counted scores to a thousandth of the samples or one sample, for others to a thousandth
    of the larger sum of scores.
    """

    file: str
    bytes: int
    task: Task
    claims: Claims | None
    measured: Measured
    ok: bool


def verify(path: str | PathLike[str], task: Task, *, max_bytes: int = 1 << 30) -> Verified:
    """Load a file onto the task's architecture and measure it on the task's evaluation data."""
    data = file.read(path)
    student, contents = file.load(data, task.architecture(), max_bytes=max_bytes)
    measured = measure_student(student, task)
    claims = contents.header.claims
    ok = claims is not None and agree(claims, measured.total, measured.samples, task)
    return Verified(str(path), len(data), task, claims, measured, ok)


def agree(claims: Claims, total: float, samples: int, task: Task) -> bool:
    """Whether claims agree with scores that add up to ``total`` over ``samples``; see :class:`Verified`."""
    larger = max(abs(claims.total), abs(total))
    tolerance = max(1.0, 0.001 * samples) if task.quality.counts else 0.001 * larger
    return claims.samples == samples and abs(claims.total - total) <= tolerance


def measure_student(student: Compressed, task: Task) -> Measured:
    found = scores(student.base, task.evaluation(), task.quality) if task.evaluation else torch.zeros(0)
    rest = _rest(task, len(found)) if task.evaluation else None
    count = operations(student.base, task.example())
    weights = [code.bits for name, code in student.codes.items() if len(code.shape) > 1]
    return Measured(
        metric=task.quality.name,
        unit=task.quality.unit,
        value=_value(found, task.quality),
        samples=len(found),
        total=float(found.double().sum()),
        parameters=count.parameters,
        nonzero=count.nonzero,
        macs=count.macs,
        macs_dense=count.macs_dense,
        weight_bits=max(weights, default=32),
        activation_bits=32,
        rest=None if rest is None else Share(int(rest.sum()), _value(found[rest], task.quality)),
    )


def _value(found: Tensor, quality: Quality) -> float:
    """The quality that these scores make; not a number where there are none."""
    return quality.value(found.double().mean().item() if len(found) else float("nan"))


def worst(coverage: Sequence[Coverage], count: int = 5) -> list[tuple[str, float]]:
    """The parameters with the largest relative error in any stage, largest first."""
    errors: dict[str, float] = {}
    for each in coverage:
        for name, error in each.touched.items():
            errors[name] = max(errors.get(name, 0.0), error)
    return sorted(errors.items(), key=lambda item: -item[1])[:count]
