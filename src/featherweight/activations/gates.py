"""Gates on channels that learn with the model, and are folded into the weights that read the channels."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Self

import torch
from torch import Tensor, nn

from featherweight.activations.repairs import relative_change
from featherweight.activations.rules import inputs
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SelectionError
from featherweight.core.stage import Repair, Repaired, Tap, TapRule, Term
from featherweight.core.tap import Function, Place, StoredFunction, TapSite
from featherweight.core.task import Task
from featherweight.graph.edits import walk


@dataclass(frozen=True)
class Wiring:
    """Where the gates of an activation are: entry ``i`` of its dimension ``dim`` goes through gate ``index[i]``.

    ``sizes`` are the numbers of weights that read what a gate lets through. Dimensions count from the last: a batch has
    one dimension more than the places of a model have in common.
    """

    dim: int
    index: tuple[int, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dim >= 0 or set(self.index) != set(range(len(self.sizes))):
            raise FormatError("gates are numbered from 0 on, each has an entry, and dimensions count from the last")

    def along(self, factors: Tensor, x: Tensor) -> Tensor:
        """``factors`` [gates] or [n, gates], so that they multiply ``x``."""
        at = factors[..., torch.tensor(self.index, device=factors.device)].to(x.dtype)
        behind = at.reshape(*at.shape, *[1] * (-self.dim - 1))
        if factors.ndim == 1:
            return behind
        return behind.reshape(len(x), *[1] * (x.ndim + self.dim - 1), *behind.shape[1:])

    def to_json(self) -> list[Any]:
        return [self.dim, list(self.index), list(self.sizes)]

    @classmethod
    def from_json(cls, record: Any) -> "Wiring":
        match record:
            case [int(dim), list(index), list(sizes)] if all(type(i) is int for i in (*index, *sizes)):
                return cls(dim, tuple(index), tuple(sizes))
        raise FormatError(f"{record} says not where gates are")


class Factors(StoredFunction):
    """``y = f ∘ x`` with one fixed factor a gate: what gates settle to, until :class:`FoldGates` folds it."""

    identifier = "factors"
    factors: Tensor

    def __init__(self, wiring: Wiring, factors: Tensor) -> None:
        super().__init__()
        self.wiring = wiring
        self.register_buffer("factors", factors.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.wiring.along(self.factors, x)

    def to_json(self) -> list[Any]:
        return [*self.wiring.to_json(), self.factors.tolist()]

    @classmethod
    def from_json(cls, record: list[Any]) -> "Factors":
        match record:
            case [*wired, list(factors)] if all(type(f) is float for f in factors):
                wiring = Wiring.from_json(wired)
                if len(factors) == len(wiring.sizes):
                    return cls(wiring, torch.tensor(factors))
        raise FormatError(f"{record} is no list of factors")


class Gate(Function):
    """One learned number ``a`` a gate; what it does with it is the subclass's."""

    start: float
    """What every number begins with, where nothing else is said."""

    def __init__(self, wiring: Wiring, start: float | None = None) -> None:
        super().__init__()
        self.wiring = wiring
        self.a = nn.Parameter(torch.full((len(wiring.sizes),), self.start if start is None else start))

    @property
    def sizes(self) -> Tensor:
        return torch.tensor(self.wiring.sizes, dtype=self.a.dtype, device=self.a.device)

    @abstractmethod
    def drawn(self, count: int) -> Tensor:
        """Factors for ``count`` samples while training: [count, gates], or [gates] for all of them."""

    @abstractmethod
    def factors(self) -> Tensor:
        """The factors that are used once learning has ended, [gates]."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.wiring.along(self.drawn(len(x)) if self.training else self.factors(), x)

    def settled(self) -> Factors:
        return Factors(self.wiring, self.factors())

    def to_json(self) -> list[Any]:
        return self.wiring.to_json()

    @classmethod
    def from_json(cls, record: list[Any]) -> Self:
        return cls(Wiring.from_json(record))


class Scaling(Gate):
    """``y = a ∘ x``: a scaling factor for every channel (Huang and Wang 2018, arXiv 1707.01213, section 3.1)."""

    identifier = "scaling"
    start = 1.0

    def drawn(self, count: int) -> Tensor:
        return self.a

    def factors(self) -> Tensor:
        return self.a.detach()


class HardConcrete(Gate):
    """Hard concrete gates: ``z = clamp(s (ζ − γ) + γ, 0, 1)``, ``s = σ((log u − log(1 − u) + a) / β)``, ``u`` uniform.

    ``a`` is ``log α``. A gate is exactly zero with probability ``1 − σ(a − β log(−γ/ζ))``, exactly one with some, and
    else has the gradient of its draw (Louizos, Welling and Kingma 2018, arXiv 1712.01312, section 2.2). Every sample of
    a batch has its own draw. Afterwards ``ẑ = clamp(σ(a) (ζ − γ) + γ, 0, 1)`` (equation 13).
    """

    identifier = "hard-concrete"
    start = 2.197  # a gate is open with probability 0.9 before it is stretched: the dropout rate is 0.1
    BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1

    def drawn(self, count: int) -> Tensor:
        u = torch.rand(count, len(self.a), device=self.a.device).clamp(1e-6, 1 - 1e-6)
        return self.stretched(((u / (1 - u)).log() + self.a) / self.BETA)

    def factors(self) -> Tensor:
        return self.stretched(self.a.detach())

    def stretched(self, logits: Tensor) -> Tensor:
        return (logits.sigmoid() * (self.ZETA - self.GAMMA) + self.GAMMA).clamp(0, 1)

    def open(self) -> Tensor:
        """The probability that a gate is not zero, [gates]: equation 12."""
        return (self.a - self.BETA * math.log(-self.GAMMA / self.ZETA)).sigmoid()


class GroupNoise(Gate):
    """``y = (1 + √α ε) ∘ x`` with ``ε ~ N(0, 1)`` for every gate and sample; ``a = log α`` learns.

    Variational dropout on groups: the posterior of a scale ``z`` that multiplies all weights of a group under the
    log-uniform (normal-Jeffreys) prior ``p(z) ∝ 1/|z|`` (Louizos, Ullrich and Welling 2017, arXiv 1705.08665, section
    3.2), its mean in the weights. Groups with ``a`` above ``threshold`` are more noise than signal: their factor is
    zero, all others' is one.
    """

    identifier = "group-noise"
    start = -5.0
    threshold = 1.0
    HIGHEST = 8.0

    def drawn(self, count: int) -> Tensor:
        noise = torch.randn(count, len(self.a), device=self.a.device)
        return 1 + (self.a.clamp(max=self.HIGHEST) / 2).exp() * noise

    def factors(self) -> Tensor:
        return (self.a.detach() < self.threshold).to(self.a.dtype)

    def divergence(self) -> Tensor:
        """``KL(N(1, α) ‖ 1/|z|)`` up to a constant by which it ends at zero, [gates]."""
        return log_uniform_divergence(self.a)


def log_uniform_divergence(log_alpha: Tensor) -> Tensor:
    """``E log|z| − ½ log α − E log|n|`` for ``z ~ N(1, α)`` and ``n ~ N(0, 1)``; zero for large ``α``.

    The approximation of Molchanov, Ashukha and Vetrov (2017, arXiv 1701.05369, equation 14), within 0.02 nats:
    ``k₁ (1 − σ(k₂ + k₃ log α)) + ½ log(1 + 1/α)``, with ``k₁ = 0.63576``, ``k₂ = 1.87320``, ``k₃ = 1.48695``.
    """
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    return k1 * (1 - (k2 + k3 * log_alpha).sigmoid()) + 0.5 * nn.functional.softplus(-log_alpha)


@dataclass(frozen=True)
class Gates(TapRule):
    """Gates on what the layers of the matching modules take in, one for every channel: for every label that is read.

    A channel that a flattened map holds at several places has one gate. Layers that read the very same labels share
    theirs. Channels that cannot be cut, such as the model's inputs, have gates only with ``fixed``: what those close
    are columns of zeros, which a sparse code does not store. ``start`` is where the learned numbers begin.
    """

    kind: type[Gate] = HardConcrete
    modules: tuple[str, ...] = ("*",)
    fixed: bool = True
    start: float | None = None

    def taps(self, student: Compressed, task: Task) -> Sequence[TapSite]:
        labels = walk(student.base, task.example()).labels
        of = {place: label for label, places in labels.free.items() for place in places}
        made: dict[tuple[Any, ...], Gate] = {}
        sites = []
        for place in inputs(student, task, self.modules):
            wired = self._wired(student, place, of)
            if wired is not None:
                keys, dim, index, sizes = wired
                gate = made.setdefault((dim, keys), self.kind(Wiring(dim, index, sizes), self.start))
                sites.append(TapSite(place, gate))
        if not sites:
            raise SelectionError(f"no layer of {', '.join(self.modules)} reads a channel that can have a gate")
        return sites

    def _wired(
        self, student: Compressed, place: Place, of: dict[tuple[str, int, int], int]
    ) -> tuple[tuple[Any, ...], int, tuple[int, ...], tuple[int, ...]] | None:
        name = weight_of(student, place)
        if name is None:
            return None
        w = student.parameter(name)
        found = [of.get((name, 1, i)) for i in range(w.shape[1])]
        if not self.fixed and None in found:
            return None
        keys = tuple(label if label is not None else (name, i) for i, label in enumerate(found))
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        index = tuple(numbers[key] for key in keys)
        each = w.shape[0] * prod(w.shape[2:])
        sizes = tuple(each * index.count(number) for number in range(len(numbers)))
        return keys, -1 if w.ndim == 2 else 1 - w.ndim, index, sizes


def weight_of(student: Compressed, place: Place) -> str | None:
    """The weight whose second dimension meets the channels of a layer's input; ``None`` where there is none."""
    module = student.base.get_submodule(place.call.module)
    if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return None
    groups = 1 if isinstance(module, nn.Linear) else module.groups
    name = f"{place.call.module}.weight".lstrip(".")
    return name if groups == 1 and name in student.names else None


@dataclass(frozen=True)
class FoldGates(Repair):
    """Gates that have settled are multiplied into the columns of the weights that read them, and are gone.

    ``W (f ∘ x) = (W diag f) x``: exact but for rounding. A factor of zero leaves zeros, which
    :class:`featherweight.search.dead.CutDead` finds.
    """

    def repair(self, student: Compressed, before: Compressed, task: Task) -> Repaired:
        folded = {place: each for place, each in student.sites.items() if isinstance(each, Factors)}
        if not folded:
            raise SelectionError("no activation goes through gates that have settled; learn them in a stage before")
        changed: dict[str, float] = {}
        for place, gate in folded.items():
            name = weight_of(student, place)
            assert name is not None
            w = student.parameter(name).detach().clone()
            factors = gate.factors[torch.tensor(gate.wiring.index, device=w.device)].to(w.dtype)
            student.renew(name, w * factors.view(1, -1, *[1] * (w.ndim - 2)))
            changed[name] = relative_change(w, student.parameter(name).detach())
        student.untap(folded)
        return Repaired(changed)


def gates_of(student: nn.Module, kind: type[Gate]) -> list[Gate]:
    """The student's gates of one kind, each once. ``SelectionError`` where there are none."""
    assert isinstance(student, Compressed)
    found = [each for each in student.taps if isinstance(each, kind)]
    if not found:
        raise SelectionError(f"no activation goes through gates of the kind {kind.__name__}; give the stage Gates")
    return found


@dataclass(frozen=True)
class ExpectedCount(Term):
    """``Σ_g n_g P(z_g ≠ 0)``: the expected number of weights behind open hard concrete gates (equation 4 of Louizos,
    Welling and Kingma 2018). ``weight`` is ``λ / N`` where the task's loss is a mean over ``N`` samples.
    """

    def __call__(self, tap: Tap) -> Tensor:
        found = gates_of(tap.student, HardConcrete)
        parts = [(gate.sizes * gate.open()).sum() for gate in found if isinstance(gate, HardConcrete)]
        return torch.stack(parts).sum()


@dataclass(frozen=True)
class NoiseDivergence(Term):
    """``Σ_g KL`` of groups' noise under the log-uniform prior. ``weight`` is ``1 / N`` for the evidence bound.

    ``rising`` multiplies it by the schedule's target: noise that comes late closes fewer groups for good.
    """

    rising: bool = False

    def __call__(self, tap: Tap) -> Tensor:
        found = gates_of(tap.student, GroupNoise)
        parts = [gate.divergence().sum() for gate in found if isinstance(gate, GroupNoise)]
        return torch.stack(parts).sum() * (tap.target if self.rising else 1.0)


@dataclass(frozen=True)
class FactorPenalty(Term):
    """``Σ |a|`` over scaling factors, by its proximal step: ``a ← sign a · max(|a| − η λ, 0)`` after every step.

    With an optimizer that has Nesterov's momentum this is the accelerated proximal gradient of Huang and Wang (2018,
    arXiv 1707.01213, section 3.2), but that its momentum does not see the threshold. ``smooth`` adds the subgradient
    instead. ``costed`` counts every factor by the weights that are behind it, relative to the mean.
    """

    smooth: bool = False
    costed: bool = False
    threshold: tuple[Tensor, ...] = field(default=(), repr=False, compare=False)

    def begun(self, student: Compressed, task: Task) -> "FactorPenalty":
        found = gates_of(student, Scaling)
        every = torch.cat([gate.sizes for gate in found])
        each = [gate.sizes / every.mean() if self.costed else torch.ones_like(gate.sizes) for gate in found]
        return replace(self, threshold=tuple(each))

    def __call__(self, tap: Tap) -> Tensor:
        found = gates_of(tap.student, Scaling)
        pairs = zip(found, self.threshold, strict=True)
        total = torch.stack([(gate.a.abs() * each).sum() for gate, each in pairs]).sum()
        return total if self.smooth else total.detach() * 0

    @torch.no_grad()
    def stepped(self, student: Compressed, rate: float, target: float) -> None:
        if self.smooth:
            return
        for gate, each in zip(gates_of(student, Scaling), self.threshold, strict=True):
            gate.a.copy_(gate.a.sign() * (gate.a.abs() - rate * self.weight * each).clamp(min=0))
