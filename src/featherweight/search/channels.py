"""How many channels of every group stay within a budget, and which."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from featherweight.core.compressed import Compressed
from featherweight.core.edit import Edit
from featherweight.core.errors import BudgetError, SchemeError, SelectionError
from featherweight.core.metric import Full, Metric
from featherweight.core.stage import EditRule
from featherweight.core.task import Task
from featherweight.costs.layers import CostRule, LayerCosts, Macs
from featherweight.costs.operations import TRANSPOSED
from featherweight.graph.cut import Cut
from featherweight.graph.edits import kept_by, removal, walk
from featherweight.graph.labels import Labels
from featherweight.metrics.hessian import InputMoment, Kronecker, outputs_first
from featherweight.metrics.prefix import owner
from featherweight.solvers.channels import Elimination, Reader, eliminate, made_up


@dataclass(frozen=True)
class Curve:
    """A group of labels in the order in which they would go, and the error with the first ``k`` gone: ``errors[k]``.

    ``errors`` begins with 0, never falls, and has one entry more than there are labels.
    """

    labels: tuple[int, ...]
    errors: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.errors) != len(self.labels) + 1:
            raise SchemeError(f"a curve of {len(self.labels)} labels has {len(self.errors)} errors")


class ChannelScore(ABC):
    """How much channels matter."""

    @abstractmethod
    def curves(self, student: Compressed, labels: Labels, task: Task) -> list[Curve]:
        """A curve for every group of labels that can be weighed, in units that groups can be compared in."""


@dataclass(frozen=True)
class Surgeon(ChannelScore):
    """The rise of the loss when the layers that read a channel make up for its loss by least squares.

    By :func:`featherweight.solvers.channels.eliminate` in the Kronecker-factored curvature of ``metric``, of every
    weight that reads the channels as its second dimension. Groups that other layers read have no curve, and neither do
    those that a layer reads in groups, or one whose inputs are not known or not met.
    """

    metric: Kronecker = Kronecker(batches=4)

    def curves(self, student: Compressed, labels: Labels, task: Task) -> list[Curve]:
        readers = [(group, reading(labels, group, student)) for group in labels.groups()]
        readable = [(group, weights) for group, weights in readers if weights]
        names = list(dict.fromkeys(name for _, weights in readable for name in weights))
        if not names:
            return []
        rule = replace(self.metric, required=False, transposed=True).begun(student, names, task)
        found = []
        for group, weights in readable:
            metrics = whole(rule.measure(student, list(weights), task))
            if metrics.keys() < weights.keys():
                continue
            given = [Reader(seen(student, name), metrics[name], at) for name, at in weights.items()]
            found.append(_curve(group, eliminate(given)))
        return found


def _curve(group: Sequence[int], gone: Elimination) -> Curve:
    return Curve(tuple(group[at] for at in gone.order), gone.errors)


def whole(metrics: Mapping[str, Metric]) -> dict[str, Full]:
    """Those that are a second moment of all that a layer takes in, at once: not in groups, and not unknown."""
    return {name: each for name, each in metrics.items() if isinstance(each, Full) and each.hessian.ndim == 2}


def reads_along(student: Compressed, name: str) -> int:
    """The dimension of a weight that is multiplied with channels."""
    return 0 if isinstance(owner(student, name), TRANSPOSED) and student.parameter(name).ndim > 1 else 1


def seen(student: Compressed, name: str) -> Tensor:
    """The student's weight with its outputs first: its columns are what moments of inputs are about."""
    return outputs_first(owner(student, name), student.weight(name).detach())


def refilled(student: Compressed, name: str, hessian: Tensor, kept: Tensor) -> Tensor:
    """The weight with zeros outside the columns ``kept`` of :func:`seen`, which make up for the others."""
    w = seen(student, name)
    whole = torch.zeros_like(w).flatten(1)
    whole[:, kept] = made_up(w, hessian, kept)
    return outputs_first(owner(student, name), whole.reshape(w.shape))


def columns_of(w: Tensor, channels: Sequence[int]) -> Tensor:
    """The columns of these channels in a weight flattened to [rows, columns]."""
    inner = w[0, 0].numel()
    return (torch.tensor(channels)[:, None] * inner + torch.arange(inner)).flatten()


def reading(labels: Labels, group: Sequence[int], student: Compressed) -> dict[str, Tensor]:
    """The weights that read these channels -> their columns [channels, k], flattened; none where one cannot be read.

    Columns are those of :func:`seen`: a transposed convolution reads its weight's first dimension.
    """
    places: dict[str, dict[int, list[int]]] = {}
    for number, label in enumerate(group):
        for name, dim, index in labels.free[label]:
            if name in student.names and dim == reads_along(student, name):
                places.setdefault(name, {}).setdefault(number, []).append(index)
    found = {}
    for name, at in places.items():
        inner = student.parameter(name)[0, 0].numel()
        if len(at) < len(group) or len({len(indices) for indices in at.values()}) > 1:
            return {}
        rows = [[index * inner + k for index in at[number] for k in range(inner)] for number in range(len(group))]
        found[name] = torch.tensor(rows)
    return found


@dataclass(frozen=True, eq=False)
class Tradeoff:
    """What can go, ``labels`` in groups by ``curves``, and what that saves of the ``costs`` at these ``shapes``."""

    labels: Labels
    curves: Sequence[Curve]
    costs: LayerCosts
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Narrow(EditRule):
    """Cut the channels that matter least until the cost is at most ``share`` of what it is.

    The number of channels of every group is a multiple of ``step``, as far as the group has that many, and at least
    ``least``. In every round the group and the number of channels that raise the error least for the cost that they
    save go: the greedy way down the lower hulls of the curves, which also sees past numbers that save nothing. With
    ``make_up``, weights that read what goes get the least-squares values of what stays.
    """

    share: float
    cost: CostRule = Macs()
    score: ChannelScore = Surgeon()
    step: int = 1
    least: int = 1
    make_up: bool = True
    within: tuple[str, ...] = ("*",)
    tries: int = 6

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.step < 1 or self.least < 1:
            raise SchemeError(f"{self}: give a share between 0 and 1, and a step and a least number from 1 on")

    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        walked = walk(student.base, task.example())
        curves = self._curves(student, walked.labels, task)
        costs = self.cost.measure(student, task)
        shapes = {name: tuple(student.parameter(name).shape) for name in student.names}
        allocated = self.allocation(student, Tradeoff(walked.labels, curves, costs, shapes), task)

        def cut_to(share: float) -> tuple[Edit, ...]:
            numbers = allocated(share)
            dead = [label for curve, gone in zip(curves, numbers, strict=True) for label in curve.labels[:gone]]
            return removal(walked, dead, student.base, task.example()) if dead else ()

        return self._corrected(cut_to, student, task)

    def allocation(self, student: Compressed, given: Tradeoff, task: Task) -> Callable[[float], list[int]]:
        """Estimated share of the cost -> how many labels of every curve go."""
        return lambda share: allocate(given, share, self.step, self.least)

    def _curves(self, student: Compressed, labels: Labels, task: Task) -> list[Curve]:
        chosen = {
            label: places
            for label, places in labels.free.items()
            if any(fnmatchcase(places[0][0], pattern) for pattern in self.within)
        }
        curves = self.score.curves(student, replace(labels, free=chosen), task)
        if not curves:
            stops = "; ".join(labels.barriers) or "none"
            raise SelectionError(
                f"no group of channels within {', '.join(self.within)} can be cut: each needs layers that read it "
                f"whole, and inputs that are known (in the way of more: {stops})"
            )
        return curves

    def _corrected(
        self, cut_to: Callable[[float], tuple[Edit, ...]], student: Compressed, task: Task
    ) -> tuple[Edit, ...]:
        """The edits whose actual cost is nearest to the share that is wanted."""
        asked, tried = self.share, list[tuple[float, tuple[Edit, ...]]]()
        for _ in range(self.tries):
            edits = cut_to(asked)
            small = Compressed(student.base).eval()
            for edit in edits:
                small.edit(edit)
            found = self.cost.actual(small.base, student.base, task)
            if found is None:
                return edits
            tried.append((abs(found / self.share - 1), edits))
            if tried[-1][0] <= self.cost.tolerance:
                break
            asked = min(asked * self.share / found, 0.999)
        return min(tried, key=lambda each: each[0])[1]

    @torch.no_grad()
    def values(self, student: Compressed, edits: Sequence[Edit], task: Task) -> Mapping[str, Tensor]:
        if not self.make_up:
            return {}
        edit = Cut(kept_by(edits))
        names = [
            name
            for name, dims in edit.kept.items()
            if name in student.names and student.parameter(name).ndim > 1 and reads_along(student, name) in dims
        ]
        rule = InputMoment(batches=4, required=False, transposed=True)
        moments = (whole(rule.measure(student, [name], task)) for name in names)  # one in memory at a time
        return {name: self._made_up(student, edit, name, moment) for found in moments for name, moment in found.items()}

    def _made_up(self, student: Compressed, edit: Cut, name: str, moment: Full) -> Tensor:
        kept = columns_of(seen(student, name), edit.kept[name][reads_along(student, name)])
        return edit.slice(name, refilled(student, name, moment.hessian, kept))


def allocate(given: Tradeoff, share: float, step: int = 1, least: int = 1) -> list[int]:
    """How many labels of every curve go, so that the cost is at most ``share`` of that of the shapes.

    ``BudgetError`` where the narrowest model costs more.
    """
    state = Narrowing(given)
    limit = share * state.cost
    while state.cost > limit:
        moves = state.all_moves(limit, step, least)
        best = min(moves, key=lambda move: (move.rise / move.saved, -move.saved))
        enough = [m for m in moves if m.curve == best.curve and state.cost - m.saved <= limit]
        state.make(min([best, *enough], key=lambda m: m.gone) if enough else best)
    return state.gone


def cost_without(given: Tradeoff, gone: Sequence[int]) -> float:
    """What is left of the cost when the first ``gone`` labels of every curve have gone."""
    state = Narrowing(given)
    state.set(gone)
    return state.cost


@dataclass(frozen=True)
class Move:
    """``gone`` labels of a curve instead of fewer: by how much its error rises, and what is saved."""

    curve: int
    gone: int
    rise: float
    saved: float


class Narrowing:
    """Shapes and costs as labels go."""

    def __init__(self, given: Tradeoff) -> None:
        self.curves, self.costs, self.shapes = given.curves, given.costs, dict(given.shapes)
        self.gone = [0] * len(self.curves)
        self.cost = self.costs.total(self.shapes)
        free = given.labels.free
        self.places = [
            [Counter((name, dim) for name, dim, _ in free[label] if name in self.shapes) for label in curve.labels]
            for curve in self.curves
        ]
        self.known: dict[int, list[Move]] = {}
        touched = [{name for counter in counters for name, _ in counter} for counters in self.places]
        self.neighbours = [{n for n, other in enumerate(touched) if other & names} for names in touched]

    def all_moves(self, limit: float, step: int, least: int) -> list[Move]:
        """Of all curves; ``BudgetError`` where the model is the narrowest already, and above the limit."""
        moves = [move for number in range(len(self.curves)) for move in self.moves(number, step, least)]
        if not moves:
            raise BudgetError(
                f"{limit:,.0f} {self.costs.unit} cannot be reached: the narrowest model has {self.cost:,.0f}. Allow "
                "narrower groups, or a larger share"
            )
        return moves

    def moves(self, number: int, step: int, least: int) -> list[Move]:
        """All numbers of labels of one curve that could go now and save something."""
        if number not in self.known:
            self.known[number] = list(self._moves(number, step, least))
        return self.known[number]

    def _moves(self, number: int, step: int, least: int) -> list[Move]:
        curve, before = self.curves[number], self.gone[number]
        found, went = [], Counter[tuple[str, int]]()
        for gone in range(before + 1, len(curve.labels) - least + 1):
            went.update(self.places[number][gone - 1])
            if (len(curve.labels) - gone) % step:
                continue
            saved = self._saved(went)
            if saved > 0:
                found.append(Move(number, gone, curve.errors[gone] - curve.errors[before], saved))
        return found

    def _saved(self, went: Mapping[tuple[str, int], int]) -> float:
        shrunk = self._shrunk(went).items()
        return sum(self.costs.of(name, self.shapes[name]) - self.costs.of(name, shape) for name, shape in shrunk)

    def _shrunk(self, went: Mapping[tuple[str, int], int]) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for (name, dim), count in went.items():
            shape = list(shapes.get(name, self.shapes[name]))
            shape[dim] -= count
            shapes[name] = tuple(shape)
        return shapes

    def widened(self, number: int, step: int) -> Move | None:
        """The most labels of one curve that can come back at the price of the fewest, if any are gone."""
        curve, before = self.curves[number], self.gone[number]
        found: Move | None = None
        came = Counter[tuple[str, int]]()
        for gone in range(before - 1, -1, -1):
            came.subtract(self.places[number][gone])
            if (len(curve.labels) - gone) % step and gone:
                continue
            saved = self._saved(came)
            if found is not None and saved < found.saved:
                break
            found = Move(number, gone, curve.errors[gone] - curve.errors[before], saved)
        return found

    def set(self, gone: Sequence[int]) -> None:
        """Let so many labels of every curve be gone."""
        for number, count in enumerate(gone):
            if count != self.gone[number]:
                self.make(Move(number, count, 0.0, 0.0))

    def make(self, move: Move) -> None:
        """Let labels go, or come back."""
        before, after = self.gone[move.curve], move.gone
        went = Counter[tuple[str, int]]()
        for counter in self.places[move.curve][min(before, after) : max(before, after)]:
            went.update(counter) if after > before else went.subtract(counter)
        self.shapes |= self._shrunk(went)
        self.gone[move.curve] = move.gone
        self.cost = self.costs.total(self.shapes)
        for neighbour in self.neighbours[move.curve]:
            self.known.pop(neighbour, None)
