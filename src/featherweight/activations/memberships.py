"""Which group each unit of a layer is in, learned with the model: what is between groups is then taken away."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.activations.repairs import relative_change
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SchemeError, SelectionError
from featherweight.core.site import Sites, select
from featherweight.core.stage import Repair, Repaired, Tap, TapRule, Term
from featherweight.core.tap import Call, Function, Operator, Place, StoredFunction, TapSite
from featherweight.core.task import Task
from featherweight.graph.edits import walk
from featherweight.graph.groups import groupable
from featherweight.graph.labels import Walked

TINY = 1e-12
"""Squares of norms below this have no gradient, as the norm has none at zero."""


class Assigned(StoredFunction):
    """Passes an activation on; its entry ``i`` is in group ``of[i]``. What memberships settle to."""

    identifier = "assigned"

    def __init__(self, of: Tensor) -> None:
        super().__init__()
        self.of = of.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        return x

    def to_json(self) -> list[Any]:
        return [self.of.tolist()]

    @classmethod
    def from_json(cls, record: list[Any]) -> "Assigned":
        match record:
            case [list(of)] if all(type(group) is int for group in of):
                return cls(torch.tensor(of))
        raise FormatError(f"{record} is no list of groups")


class Membership(Function):
    """Passes an activation on; the logits ``a`` [groups, units] of which group each of its units is in learn.

    ``p = softmax(a)`` over groups (Kim, Park, Kim and Hwang 2017, PMLR 70, section 3.2), and all begin near ``1 / G``.
    """

    identifier = "membership"

    def __init__(self, groups: int, units: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.a = nn.Parameter(0.01 * torch.randn(groups, units, generator=generator, device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        return x

    def shares(self) -> Tensor:
        """``p``, [groups, units]."""
        return self.a.softmax(0)

    def settled(self) -> Assigned:
        return Assigned(balanced(self.shares().detach()))

    def to_json(self) -> list[Any]:
        return list(self.a.shape)

    @classmethod
    def from_json(cls, record: list[Any]) -> "Membership":
        match record:
            case [int(groups), int(units)]:
                return cls(groups, units)
        raise FormatError(f"{record} is no number of groups and of units")


def balanced(shares: Tensor) -> Tensor:
    """The group of every unit, [units]: the largest shares first, until a group is full; groups are equally large.

    Where the units are no multiple of the groups, some have one less.
    """
    groups, units = shares.shape
    room = [-(-units // groups)] * groups
    of = [-1] * units
    for place in shares.flatten().argsort(descending=True, stable=True).tolist():
        group, unit = divmod(place, units)
        if of[unit] < 0 and room[group]:
            of[unit], room[group] = group, room[group] - 1
    return torch.tensor(of)


@dataclass(frozen=True)
class Memberships(TapRule):
    """Memberships of what the layers of the weights at ``sites`` take in, and of what they give out.

    Units that are the same channels have the same: what one layer gives out and the next takes in, or what a residual
    addition joins. A layer then is, between groups, a tree's branches side by side.
    """

    groups: int
    sites: Sites
    seed: int = 0

    def __post_init__(self) -> None:
        if self.groups < 2:
            raise SchemeError(f"memberships of {self.groups} groups; give 2 or more")

    def taps(self, student: Compressed, task: Task) -> Sequence[TapSite]:
        walked = walk(student.base, task.example())
        made: dict[tuple[Any, ...], Membership] = {}
        found = []
        for name, w in select(student.base, self.sites).items():
            path = name.rpartition(".")[0]
            if groupable(student.base, path) is None:
                raise SelectionError(f"{name!r} is no weight of a layer that can be put in groups; leave it out")
            for place, dim in zip(_places(student.base, path), (1, 0), strict=True):
                key = _units(walked, name, dim, w.shape[dim])
                fresh = Membership(self.groups, w.shape[dim], self.seed + len(made))
                found.append(TapSite(place, made.setdefault(key, fresh)))
        return found


def _places(model: nn.Module, path: str) -> tuple[Place, Place]:
    """A layer's input and its result."""
    operator = Operator.LINEAR if isinstance(model.get_submodule(path), nn.Linear) else Operator.CONVOLVE
    call = Call(path, operator)
    return Place(call), Place(call, None)


def _units(walked: Walked, name: str, dim: int, count: int) -> tuple[Any, ...]:
    """The labels of a dimension; its name, where it has not one an index."""
    value = walked.stored.get(name)
    block = None if value is None else value.block(dim)
    labels = [] if block is None else walked.union.roots(block[1]).flatten().tolist()
    return tuple(labels) if len(labels) == count else (name, dim)


def _split(student: Compressed, kind: type[Function]) -> Iterator[tuple[str, Any, Any]]:
    """(name of the weight, function of its layer's input, of its result) wherever both are of a kind."""
    for place, given in student.sites.items():
        behind = student.sites.get(Place(place.call, None))
        if place.operand == 0 and isinstance(given, kind) and isinstance(behind, kind):
            yield f"{place.call.module}.weight", given, behind


@dataclass(frozen=True)
class SplitPenalty(Term):
    """``between R_W + disjoint R_D + even R_E`` of layers with memberships: ``p`` of inputs, ``q`` of outputs.

    Means over layers and over memberships of these, which are about 1 where all shares are equal:

        R_W = Σ_g Σ_i ‖(1 − p_gi) W_·i q_g‖₂ / (I √O) + Σ_g Σ_o ‖(1 − q_go) W_o· p_g‖₂ / (O √I), over 2 (G − 1) s / G
        R_D = Σ_{g<h} p_g · p_h, over (G − 1) I / 2G
        R_E = Σ_g (Σ_i p_gi)², over I² / G

    with the root mean square of a kernel for a weight, and ``s`` the root of 1 over all that an output reads (Kim,
    Park, Kim and Hwang 2017, section 3.2, from memory; what they are divided by is from the authors' published code).
    """

    between: float = 1.0
    disjoint: float = 1.0
    even: float = 1.0

    def __call__(self, tap: Tap) -> Tensor:
        student = tap.student
        assert isinstance(student, Compressed)
        layers = list(_split(student, Membership))
        if not layers:
            raise SelectionError("no layer has memberships; give the stage Memberships")
        w = [weights_between(student.weight(name), p.shares(), q.shares()) for name, p, q in layers]
        shares = [each.shares() for each in dict.fromkeys(m for _, *pair in layers for m in pair)]
        means = [torch.stack(part).mean() for part in (w, [*map(overlap, shares)], [*map(unevenness, shares)])]
        return self.between * means[0] + self.disjoint * means[1] + self.even * means[2]


def weights_between(w: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """``R_W`` of a weight [outputs, inputs, …], with ``p`` [groups, inputs] and ``q`` [groups, outputs].

    The norm of what the outputs of a group read of an input that is not in it, and of what an output that is not in it
    reads of the inputs of a group.
    """
    (outputs, inputs), groups = w.shape[:2], len(p)
    squares = w.reshape(outputs, inputs, -1).square().mean(2)
    rows = (1 - p).square() * (q.square() @ squares)
    columns = (1 - q).square() * (p.square() @ squares.T)
    of_rows, of_columns = (each.clamp(min=TINY).sqrt().sum() for each in (rows, columns))
    total: Tensor = of_rows / (inputs * sqrt(outputs)) + of_columns / (outputs * sqrt(inputs))
    return total * (groups / (2 * (groups - 1)) * sqrt(w[0].numel()))


def overlap(p: Tensor) -> Tensor:
    """``R_D``: 0 where every unit is in one group, 1 where it is in all alike."""
    groups, units = p.shape
    return (units - p.square().sum()) * groups / (units * (groups - 1))


def unevenness(p: Tensor) -> Tensor:
    """``R_E``: 1 where groups are equally large, ``G`` where one has all."""
    groups, units = p.shape
    squares: Tensor = p.sum(1).square().sum()
    return squares * groups / units**2


@dataclass(frozen=True)
class Disconnect(Repair):
    """Weights between groups become zero, and the assignments are gone: the layers are block diagonal in some order.

    :class:`featherweight.graph.groups.GroupLayers` then puts them in groups.
    """

    def repair(self, student: Compressed, before: Compressed, task: Task) -> Repaired:
        layers = list(_split(student, Assigned))
        if not layers:
            raise SelectionError("no layer has memberships that have settled; learn them in a stage before")
        changed = {}
        for name, p, q in layers:
            w = student.parameter(name).detach().clone()
            apart = (q.of[:, None] != p.of).to(w.device)
            student.renew(name, w.masked_fill(apart.view(*apart.shape, *[1] * (w.ndim - 2)), 0.0))
            changed[name] = relative_change(w, student.parameter(name).detach())
        student.untap([place for place, each in student.sites.items() if isinstance(each, Assigned)])
        return Repaired(changed)
