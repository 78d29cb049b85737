"""Penalties on whole channels: the slices of a label are one group."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import torch
from torch import Tensor

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, SelectionError
from featherweight.core.stage import Tap, Term
from featherweight.core.task import Task
from featherweight.graph.edits import walk
from featherweight.graph.labels import Labels, Place
from featherweight.search.slices import Slices, slices

TINY = 1e-24
"""Squares of norms below this have no gradient, as the norm has none at zero."""


class Side(Enum):
    """Which slices of a label make its group."""

    READING = "reading"  # columns of the layers that mix the channel: at zero nobody sees it
    WRITING = "writing"  # rows, biases, and what norms behind them add: at zero it is zero, before its activation

    def of(self, its: Slices) -> tuple[Place, ...]:
        if self is Side.READING:
            return its.reading
        statistics = ("running_mean", "running_var")
        norms = tuple(place for place in its.norms if not place[0].endswith(statistics))
        return (*its.writing, *its.shifts, *its.passing, *its.gains, *norms)


@dataclass(frozen=True, eq=False)
class Groups:
    """Disjoint groups of slices: ``of[name, dim][i]`` is the group of slice ``i``, or one past the last for none.

    ``labels`` are those of the groups, ``sizes`` [groups] their numbers of entries, ``peers`` those of one layer.
    """

    of: Mapping[tuple[str, int], Tensor]
    labels: tuple[int, ...]
    sizes: Tensor
    peers: tuple[Tensor, ...]

    def sums(self, student: Compressed, power: int = 2) -> Tensor:
        """``Σ |w|^power`` over every group, [groups]; differentiable."""
        total = self.sizes.new_zeros(len(self.labels) + 1)
        for (name, dim), index in self.of.items():
            w = student.parameter(name).movedim(dim, 0)
            entries = w.square() if power == 2 else w.abs()
            total = total.index_add(0, index, entries.reshape(len(w), -1).sum(1).to(total.dtype))
        return total[:-1]

    def norms(self, student: Compressed) -> Tensor:
        """``‖w_g‖₂``, [groups]; the gradient at zero is zero."""
        squares = self.sums(student)
        return squares.clamp(min=TINY).sqrt() * (squares.detach() > TINY)

    @torch.no_grad()
    def scale(self, student: Compressed, factors: Tensor) -> None:
        """Multiply every group by its factor, in place."""
        padded = torch.cat([factors, factors.new_ones(1)])
        for (name, dim), index in self.of.items():
            w = student.parameter(name)
            w.mul_(padded[index].to(w.dtype).view([-1 if d == dim else 1 for d in range(w.ndim)]))


def find_groups(student: Compressed, task: Task, side: Side) -> Groups:
    """The groups of all labels that have slices on this ``side``. ``SelectionError`` where there are none."""
    labels = walk(student.base, task.example()).labels
    found = {
        label: side.of(its) for label, its in slices(student.base, labels).items() if side.of(its) and not its.others
    }
    if not found:
        raise SelectionError(f"no channel of the model is free (operators in the way: {labels.barriers or 'none'})")
    numbers = {label: number for number, label in enumerate(found)}
    of: dict[tuple[str, int], Tensor] = {}
    sizes = torch.zeros(len(found), device=student.device)
    for label, places in found.items():
        for name, dim, index in places:
            w = student.parameter(name)
            if (name, dim) not in of:
                of[name, dim] = torch.full((w.shape[dim],), len(found), device=w.device)
            of[name, dim][index] = numbers[label]
            sizes[numbers[label]] += w.select(dim, index).numel()
    return Groups(of, tuple(found), sizes, _peers(labels, numbers))


def _peers(labels: Labels, numbers: Mapping[int, int]) -> tuple[Tensor, ...]:
    each = ([numbers[label] for label in group if label in numbers] for group in labels.groups())
    return tuple(torch.tensor(group) for group in each if group)


class Profile(ABC):
    """A penalty ``ρ`` of a group's norm, and its proximal step."""

    @property
    def smooth(self) -> bool:
        """Whether it has a useful gradient away from zero."""
        return True

    @abstractmethod
    def value(self, norms: Tensor) -> Tensor:
        """``ρ`` of every norm."""

    @abstractmethod
    def step(self, norms: Tensor, t: Tensor) -> Tensor:
        """``argmin_x ½ (x − ‖w‖)² + t ρ(x)``, the norm that the proximal step leaves: the direction stays."""


@dataclass(frozen=True)
class Lasso(Profile):
    """``ρ(x) = x``: the group lasso (Yuan and Lin 2006), and block soft thresholding."""

    def value(self, norms: Tensor) -> Tensor:
        return norms

    def step(self, norms: Tensor, t: Tensor) -> Tensor:
        return (norms - t).clamp(min=0)


@dataclass(frozen=True)
class Minimax(Profile):
    """``ρ(x) = x − x² / 2a`` up to ``a``, then ``a / 2``: the minimax concave penalty (Zhang 2010) of a group's norm.

    Groups with a norm above ``a`` are not shrunk. A proximal step of ``t ≥ a`` is a hard threshold.
    """

    a: float = 1.0

    def __post_init__(self) -> None:
        if not self.a > 0:
            raise SchemeError(f"a concave penalty that ends at {self.a}; give a norm above 0")

    def value(self, norms: Tensor) -> Tensor:
        return torch.where(norms < self.a, norms - norms.square() / (2 * self.a), norms.new_tensor(self.a / 2))

    def step(self, norms: Tensor, t: Tensor) -> Tensor:
        firm = (norms - t).clamp(min=0) / (1 - t / self.a).clamp(min=torch.finfo(norms.dtype).tiny)
        hard = torch.where(norms.square() > t * self.a, norms, torch.zeros_like(norms))
        return torch.where(t < self.a, torch.where(norms < self.a, firm, norms), hard)


@dataclass(frozen=True)
class Count(Profile):
    """``ρ(x) = 1`` for ``x > 0``: the number of groups, by its proximal step alone, which is a hard threshold."""

    @property
    def smooth(self) -> bool:
        return False

    def value(self, norms: Tensor) -> Tensor:
        return (norms > 0).to(norms.dtype)

    def step(self, norms: Tensor, t: Tensor) -> Tensor:
        return torch.where(norms.square() > 2 * t, norms, torch.zeros_like(norms))


@dataclass(frozen=True)
class GroupPenalty(Term):
    """``(1 − s) Σ_g √n_g ρ(‖w_g‖₂) + s Σ |w|`` over the slices of every label, with ``n_g`` entries in a group.

    The group lasso as ``profile`` has it; with ``single``, ``s``, the sparse group lasso (Simon, Friedman, Hastie and
    Tibshirani 2013). ``proximal`` leaves it out of the gradient and takes its proximal step after each of the
    optimizer, with the learning rate as its length: entries are thresholded first and groups shrunk then, which is
    exact as groups do not overlap. Groups are then zero exactly, and :class:`featherweight.search.dead.CutDead` finds
    them. For plain gradient descent that is proximal gradient descent; for Adam, whose steps have another length in
    every direction, it is a rule. ``rising`` multiplies the weight by the schedule's target.
    """

    side: Side = Side.READING
    profile: Profile = Lasso()
    proximal: bool = False
    single: float = 0.0
    rising: bool = False
    groups: Groups | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.single <= 1:
            raise SchemeError(f"a share of {self.single} for single entries is not between 0 and 1")
        if not self.profile.smooth and not self.proximal:
            raise SchemeError(f"{self.profile} has no gradient; take its proximal step")

    def begun(self, student: Compressed, task: Task) -> "GroupPenalty":
        return replace(self, groups=find_groups(student, task, self.side))

    def __call__(self, tap: Tap) -> Tensor:
        groups, student = _found(self.groups), tap.student
        assert isinstance(student, Compressed)
        if self.proximal:
            return groups.sizes.new_zeros(())
        value = (1 - self.single) * (groups.sizes.sqrt() * self.profile.value(groups.norms(student))).sum()
        if self.single:
            value = value + self.single * groups.sums(student, 1).sum()
        return value * (tap.target if self.rising else 1.0)

    @torch.no_grad()
    def stepped(self, student: Compressed, rate: float, target: float) -> None:
        if not self.proximal:
            return
        groups = _found(self.groups)
        t = rate * self.weight * (target if self.rising else 1.0)
        if self.single:
            self._threshold(student, groups, t * self.single)
        norms = groups.norms(student)
        left = self.profile.step(norms, t * (1 - self.single) * groups.sizes.sqrt())
        groups.scale(student, torch.where(norms > 0, left / norms.clamp(min=TINY), torch.zeros_like(norms)))

    def _threshold(self, student: Compressed, groups: Groups, t: float) -> None:
        for (name, dim), index in groups.of.items():
            w = student.parameter(name)
            mine = (index < len(groups.labels)).view([-1 if d == dim else 1 for d in range(w.ndim)])
            w.copy_(torch.where(mine, torch.nn.functional.softshrink(w, t), w))


@dataclass(frozen=True)
class GrowingDecay(Term):
    """``½ Σ ‖w_g‖²`` over the ``share`` of each layer's labels that were weakest at the start; ``weight`` is what the
    penalty has grown to at the end: at every time it is the schedule's target times that.

    Growing regularisation (Wang, Qin, Zhang and Fu 2021, arXiv 2012.09243, section 3): channels are chosen first, by
    the sum of ``|w|`` over their rows, and then driven out, while the others take over what they did.
    """

    share: float = 0.5
    side: Side = Side.WRITING
    groups: Groups | None = field(default=None, repr=False, compare=False)
    chosen: Tensor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise SchemeError(f"a share of {self.share} is not between 0 and 1")

    def begun(self, student: Compressed, task: Task) -> "GrowingDecay":
        groups = find_groups(student, task, self.side)
        sums = groups.sums(student, 1).detach()
        chosen = torch.zeros_like(sums)
        for peers in groups.peers:
            chosen[weakest(sums, peers, self.share)] = 1.0
        return replace(self, groups=groups, chosen=chosen)

    def __call__(self, tap: Tap) -> Tensor:
        assert isinstance(tap.student, Compressed) and self.chosen is not None
        return (_found(self.groups).sums(tap.student) * self.chosen).sum() * tap.target / 2


def weakest(scores: Tensor, peers: Tensor, share: float) -> Sequence[int]:
    """Of ``peers``, indices into ``scores``, the ``share`` with the least; one stays at least."""
    count = min(round(share * len(peers)), len(peers) - 1)
    found: list[int] = peers[scores[peers].argsort(stable=True)[:count].to(peers.device)].tolist()
    return found


def _found(groups: Groups | None) -> Groups:
    if groups is None:
        raise SelectionError("the groups of a penalty are found in a student: call `begun(student, task)` first")
    return groups
