"""Penalties on the gains of batch norms, which say how strong channels are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SelectionError
from featherweight.core.stage import Tap, Term
from featherweight.core.task import Task
from featherweight.costs.layers import CostRule
from featherweight.graph.edits import walk
from featherweight.graph.labels import Place
from featherweight.search.slices import slices


@dataclass(frozen=True)
class GainPenalty(Term):
    """``Σ |γ|`` over the batch norms that channels which may be cut go through.

    Network slimming (Liu et al. 2017, arXiv 1708.06519, equation 1), by its subgradient as there; ``proximal`` takes
    ``γ ← sign γ · max(|γ| − η λ, 0)`` after every step instead, so that gains are zero exactly.
    """

    proximal: bool = False
    rising: bool = False
    gains: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)

    def begun(self, student: Compressed, task: Task) -> "GainPenalty":
        found: dict[str, Tensor] = {}
        for its in slices(student.base, walk(student.base, task.example()).labels).values():
            for name, _, index in () if its.others else its.gains:
                gain = student.parameter(name)
                found.setdefault(name, torch.zeros_like(gain, requires_grad=False))[index] = 1.0
        if not found:
            raise SelectionError("no channel that may be cut goes through a batch norm; penalise groups of weights")
        return replace(self, gains=found)

    def __call__(self, tap: Tap) -> Tensor:
        assert isinstance(tap.student, Compressed) and self.gains is not None
        sums = [(tap.student.parameter(name).abs() * mask).sum() for name, mask in self.gains.items()]
        total = torch.stack(sums).sum()
        return total.detach() * 0 if self.proximal else total * (tap.target if self.rising else 1.0)

    @torch.no_grad()
    def stepped(self, student: Compressed, rate: float, target: float) -> None:
        if not self.proximal:
            return
        assert self.gains is not None
        t = rate * self.weight * (target if self.rising else 1.0)
        for name, mask in self.gains.items():
            gain = student.parameter(name)
            gain.copy_(gain.sign() * (gain.abs() - t * mask).clamp(min=0))


@dataclass(frozen=True, eq=False)
class _Layer:
    """A weight: what an entry costs, and for its rows and columns the number of the label, −1 where it is fixed."""

    cost: float
    rows: Tensor
    columns: Tensor


@dataclass(frozen=True, eq=False)
class _Strengths:
    """(name of a gain, its indices, their labels' numbers), and how many labels there are."""

    gains: tuple[tuple[str, Tensor, Tensor], ...]
    count: int

    def of(self, student: Compressed) -> Tensor:
        """The largest ``|γ|`` of every label, [labels]."""
        found = torch.zeros(self.count, device=student.device)
        for name, at, labels in self.gains:
            found = found.scatter_reduce(0, labels, student.parameter(name).abs()[at], "amax")
        return found


@dataclass(frozen=True)
class CostedGains(Term):
    """``Σ_layers c (a_out Σ_i g_i + a_in Σ_j g_j) / C``: gains ``g`` of a layer's inputs and outputs by what they cost.

    ``c`` is the cost of one entry of the layer's weight, ``a`` the channels that are alive (``g > alive``) and ``C``
    the cost of the whole model, so that the penalty has no unit: MorphNet's regulariser (Gordon et al. 2018, arXiv
    1711.06798). ``g`` of a label is the largest ``|γ|`` of the norms that it goes through; channels
    that cannot be cut, or go through no norm, are alive and have no ``g``.
    """

    cost: CostRule | None = None
    alive: float = 1e-2
    layers: tuple[_Layer, ...] = field(default=(), repr=False, compare=False)
    strengths: _Strengths | None = field(default=None, repr=False, compare=False)

    def begun(self, student: Compressed, task: Task) -> "CostedGains":
        if self.cost is None:
            raise SelectionError("give the cost that gains are weighted by: CostedGains(cost=Macs())")
        labels = walk(student.base, task.example()).labels
        mine = [its for its in slices(student.base, labels).values() if its.gains and not its.others]
        if not mine:
            raise SelectionError("no channel that may be cut goes through a batch norm")
        costs = self.cost.measure(student, task)
        at = _numbered([(*its.writing, *its.reading, *its.passing) for its in mine])
        shapes = {name: tuple(student.parameter(name).shape) for name in student.names}
        total = costs.total(shapes)
        layers = []
        for name in dict.fromkeys(name for name, _ in at):
            shape = shapes[name]
            rows, columns = (_indexed(at.get((name, dim), {}), shape[dim], student.device) for dim in (0, 1))
            layers.append(_Layer(costs.of(name, shape) / (shape[0] * shape[1]) / total, rows, columns))
        gains = _numbered([its.gains for its in mine])
        found = tuple((name, *_pairs(its, student.device)) for (name, _), its in gains.items())
        return replace(self, layers=tuple(layers), strengths=_Strengths(found, len(mine)))

    def __call__(self, tap: Tap) -> Tensor:
        assert isinstance(tap.student, Compressed) and self.strengths is not None
        strength = torch.cat([self.strengths.of(tap.student), torch.zeros(1, device=tap.student.device)])
        lives = strength.detach() > self.alive
        lives[-1] = True
        parts = []
        for layer in self.layers:
            ins, outs = strength[layer.columns], strength[layer.rows]
            living = lives[layer.columns].sum(), lives[layer.rows].sum()
            parts.append(layer.cost * (living[1] * ins.sum() + living[0] * outs.sum()))
        return torch.stack(parts).sum()


def _numbered(places: Sequence[Sequence[Place]]) -> dict[tuple[str, int], dict[int, int]]:
    """(name, dimension) -> index -> the number of the label that it belongs to."""
    found: dict[tuple[str, int], dict[int, int]] = {}
    for number, its in enumerate(places):
        for name, dim, index in its:
            found.setdefault((name, dim), {})[index] = number
    return found


def _pairs(at: Mapping[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(list(at), device=device), torch.tensor(list(at.values()), device=device)


def _indexed(at: Mapping[int, int], size: int, device: torch.device) -> Tensor:
    """The label's number at every index, −1 (which is the last, fixed one) elsewhere."""
    found = torch.full((size,), -1, device=device)
    for index, number in at.items():
        found[index] = number
    return found
