"""Recipes as data: stages of sites × scheme × metric × schedule × objective × training."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from featherweight.core.code import Code
from featherweight.core.edit import Edit
from featherweight.core.errors import SchemeError, SelectionError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.tap import TapSite
from featherweight.core.task import Task

if TYPE_CHECKING:
    from featherweight.core.compressed import Compressed


class Learn(Enum):
    """What learns at a stage's sites; all other parameters learn too, unless the stage says otherwise."""

    DIRECT = "direct"  # the code's own real numbers: survivors, centroids, scales
    LATENT = "latent"  # the dense weight, seen through the scheme at every step
    BOTH = "both"  # a dense weight and the code's real numbers: learned steps
    PULLED = "pulled"  # the dense weight itself, which a penalty of the objective pulls towards its code
    MUTUAL = "mutual"  # the same, and the code's real numbers, which the penalty moves too
    FREE = "free"  # the dense weight itself, put onto its code at every projection and free in between

    @property
    def dense(self) -> bool:
        """Whether the model runs with the dense weight itself, so that its code is found at the end."""
        return self in (Learn.PULLED, Learn.MUTUAL, Learn.FREE)

    @property
    def opens(self) -> bool:
        """Whether the code's real numbers learn."""
        return self in (Learn.DIRECT, Learn.BOTH, Learn.MUTUAL)


class Schedule(ABC):
    """Step -> target: when a stage projects, and how far."""

    @abstractmethod
    def targets(self, steps: int) -> dict[int, float]:
        """Training step -> share of the scheme's full effect, for a training of ``steps`` steps. The last is 1."""


@dataclass(frozen=True)
class OneShot(Schedule):
    """Project once, before the first step."""

    def targets(self, steps: int) -> dict[int, float]:
        return {0: 1.0}


@dataclass(frozen=True)
class Iterative(Schedule):
    """``rounds`` equal parts of the training, each begun by a projection to ``1 − (1 − k/n)^power`` of the effect.

    Power 1 takes equal amounts off the whole each round (Han et al. 2015 prune and retrain in rounds); ``fixed``
    projects to the whole effect in every round, as alternating algorithms do.
    """

    rounds: int
    power: float = 1.0
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.power <= 0:
            raise SchemeError(f"{self.rounds} rounds of power {self.power}: give 1 round or more and a power above 0")

    def targets(self, steps: int) -> dict[int, float]:
        if steps < self.rounds:
            return {0: 1.0}
        shares = [1.0 if self.fixed else 1 - (1 - (k + 1) / self.rounds) ** self.power for k in range(self.rounds)]
        return {k * steps // self.rounds: share for k, share in enumerate(shares)}


@dataclass(frozen=True)
class Portions(Schedule):
    """Equal parts of the training, each begun by a projection to one of ``shares``: accumulated portions.

    Incremental network quantization takes 50, 75, 87.5 and 100 % (Zhou et al. 2017, arXiv 1702.03044, section 3).
    """

    shares: tuple[float, ...] = (0.5, 0.75, 0.875, 1.0)

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in pairwise((0.0, *self.shares)))
        if not self.shares or self.shares[-1] != 1 or not ascending:
            raise SchemeError(f"portions of {self.shares}: give shares of the whole that rise and end at 1")

    def targets(self, steps: int) -> dict[int, float]:
        if steps < len(self.shares):
            return {0: 1.0}
        return {k * steps // len(self.shares): share for k, share in enumerate(self.shares)}


@dataclass(frozen=True)
class Cubic(Schedule):
    """``s_t = s_f + (s_i − s_f)(1 − t)³`` (Zhu and Gupta 2017, arXiv 1710.01878, equation 1), in shares of ``s_f``.

    ``every`` steps from ``begin`` to ``end`` (shares of the training, the last step at most); ``initial`` is
    ``s_i / s_f``.
    """

    every: int = 100
    begin: float = 0.0
    end: float = 0.7
    initial: float = 0.0

    def __post_init__(self) -> None:
        if self.every < 1 or not 0 <= self.initial <= 1:
            raise SchemeError(f"every {self.every} steps from {self.initial}: give 1 step or more, a share of 0 to 1")

    def targets(self, steps: int) -> dict[int, float]:
        first, last = int(self.begin * steps), min(int(self.end * steps), steps - 1)
        if last <= first:
            return {0: 1.0}
        at = [*range(first, last, self.every), last]
        cubic = {step: 1 - (1 - self.initial) * (1 - (step - first) / (last - first)) ** 3 for step in at}
        return {step: target for step, target in cubic.items() if target > 0}


@dataclass(frozen=True)
class Condensing(Schedule):
    """Equal amounts at the ends of ``stages`` equal parts of the first half of the training; the second half is free.

    Each of the ``C − 1`` condensing stages of learned group convolutions ends by dropping ``1 / C`` of all inputs, and
    an optimisation stage as long as all of them follows (Huang et al. 2017, arXiv 1711.09224, section 3.1).
    """

    stages: int

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise SchemeError(f"{self.stages} condensing stages; give 1 or more")

    def targets(self, steps: int) -> dict[int, float]:
        if steps < 2 * self.stages:
            return {0: 1.0}
        return {k * steps // (2 * self.stages): k / self.stages for k in range(1, self.stages + 1)}


@dataclass(frozen=True)
class Homotopy(Schedule):
    """``rounds`` equal parts of the training at targets ``growth^(k − rounds + 1)``, ``k = 0 … rounds − 1``.

    The last is 1. For penalties that rise by ``growth`` a round, from weights that are nearly free to weights that are
    nearly codes (Carreira-Perpiñán 2017, arXiv 1707.01209, section 3: ``μ_k = μ_0 a^k``).
    """

    rounds: int
    growth: float = 1.5

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.growth < 1:
            raise SchemeError(f"{self.rounds} rounds that grow by {self.growth}: give 1 round or more and 1 or more")

    def targets(self, steps: int) -> dict[int, float]:
        if steps < self.rounds:
            return {0: 1.0}
        return {k * steps // self.rounds: self.growth ** (k + 1 - self.rounds) for k in range(self.rounds)}


@dataclass(frozen=True)
class Decaying(Schedule):
    """Step ``t`` projects to the whole effect with probability ``p(t) = (1 + decay · t)^(−power)``.

    The first step does so always; the last to do so is the one at ``end``, a share of the training. Draws are of a
    generator of its own. Guo, Yao and Chen (2016, arXiv 1608.04493, section 3.3) let the chance that masks are renewed
    fall as the training goes on; the form of ``p`` is that of their published code.
    """

    decay: float = 1e-4
    power: float = 1.0
    end: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.decay < 0 or self.power < 0 or not 0 <= self.end <= 1:
            raise SchemeError(f"{self}: give a decay and a power of 0 or more, and an end of 0 to 1")

    def targets(self, steps: int) -> dict[int, float]:
        last = min(int(self.end * steps), steps - 1)
        if last <= 0:
            return {0: 1.0}
        draws = torch.rand(last, generator=torch.Generator().manual_seed(self.seed), device="cpu").tolist()
        drawn = [step for step, draw in enumerate(draws) if draw < (1 + self.decay * step) ** -self.power]
        return dict.fromkeys([*drawn, last], 1.0)


@dataclass(frozen=True, eq=False)
class Tap:
    """One training step as an objective's term sees it."""

    outputs: Any
    batch: Any
    teacher: Any  # the teacher's outputs; None where no term needs them
    student: nn.Module
    loss: Callable[[Any, Any], Tensor]  # the task's own loss
    target: float = 1.0  # of the schedule, as last reached: penalties may rise with it


@dataclass(frozen=True)
class Term(ABC):
    """A pure loss term; ``weight`` multiplies it."""

    weight: float = 1.0

    @property
    def needs_teacher(self) -> bool:
        return False

    def begun(self, student: "Compressed", task: Task) -> "Term":
        """The term with all that it finds once in a student that is about to learn: groups of its parameters."""
        return self

    @abstractmethod
    def __call__(self, tap: Tap) -> Tensor:
        """A scalar."""

    def stepped(self, student: "Compressed", rate: float, target: float) -> None:
        """What is done in place after every step of the optimizer, at its learning rate: a proximal step."""
        return


@dataclass(frozen=True)
class Objective:
    """The sum of its terms."""

    terms: tuple[Term, ...]

    def begun(self, student: "Compressed", task: Task) -> "Objective":
        return Objective(tuple(term.begun(student, task) for term in self.terms))

    def stepped(self, student: "Compressed", rate: float, target: float) -> None:
        for term in self.terms:
            term.stepped(student, rate, target)

    @property
    def needs_teacher(self) -> bool:
        return any(term.needs_teacher for term in self.terms)

    def __call__(self, tap: Tap) -> Tensor:
        losses = [term.weight * term(tap) for term in self.terms]
        return torch.stack(losses).sum()


def adam(parameters: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr)


def sgd(parameters: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    """Momentum 0.9, Nesterov."""
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True)


def decayed(parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
    """:func:`sgd` with a weight decay of 5e-4, as residual networks are trained on CIFAR-10."""
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)


@dataclass(frozen=True)
class Training:
    """How a stage learns: passes over the training data, learning rate (cosine to ``final`` of it), optimizer, seed.

    ``code_lr`` multiplies the rate of the codes' own numbers (centroids, scales) and of what activations are sent
    through; ``clip`` bounds the gradient's norm. ``bfloat16`` runs convolutions and products, forward and backward, in
    that type (``torch.autocast``) where the processor has AVX-512, and in float32 on others, where bfloat16 takes ten
    times as long; parameters stay as they are.
    """

    epochs: int
    lr: float = 1e-3
    optimizer: Callable[[Iterable[Any], float], torch.optim.Optimizer] = adam
    code_lr: float = 1.0
    final: float = 0.01
    warmup: float = 0.0
    clip: float | None = None
    seed: int = 0
    bfloat16: bool = False


@dataclass(frozen=True)
class Tuning(Training):
    """Learning on the calibration data, after training: few samples and no labels, so that the objective needs none.

    ``batch`` samples at a time, in a new order in every epoch; batches as the task gives them where it is ``None``.
    """

    batch: int | None = 64


@dataclass(frozen=True)
class Recurring(Training):
    """Learning whose random numbers recur every ``period`` epochs: the same order of the same augmented samples.

    An objective's teacher then runs in the first ``period`` epochs alone, and what it gave for so many views of each
    sample is kept: in memory, the outputs of ``period`` epochs; in no checkpoint, so that it runs again after one.
    """

    period: int = 8

    def __post_init__(self) -> None:
        if self.period < 1:
            raise SchemeError(f"a period of {self.period} epochs; give 1 or more")


@dataclass(frozen=True)
class Matching(Recurring):
    """Function matching: learning from a teacher alone, on blends of the training images, which have no labels.

    A teacher that is right on every image of its training says there little more than the labels do; on blends it says
    more (Beyer et al. 2022, arXiv 2106.05237, section 3). ``blend`` is ``MixUp`` or ``CutMix`` of
    ``featherweight.training.blends``; the objective is of ``SoftTargets`` or ``OutputError``.
    """

    blend: Callable[[Tensor], Tensor] = field(kw_only=True)


class MetricRule(ABC):
    """How a stage's metric is measured, from the student as it stands and the task's calibration data."""

    def begun(self, student: "Compressed", names: Sequence[str], task: Task) -> "MetricRule":
        """The rule with all that it measures once, before the first of these parameters is projected."""
        return self

    def together(self, names: Sequence[str]) -> Sequence[Sequence[str]]:
        """The names in the order in which they are projected; those in one part are measured before any of them is."""
        return [[name] for name in names]

    @abstractmethod
    def measure(self, student: "Compressed", names: Sequence[str], task: Task) -> dict[str, Metric]:
        """The metric of each named parameter."""


@dataclass(frozen=True)
class MagnitudeRule(MetricRule):
    """The Euclidean metric: needs no data."""

    def measure(self, student: "Compressed", names: Sequence[str], task: Task) -> dict[str, Metric]:
        return dict.fromkeys(names, EUCLIDEAN)


class EditRule(ABC):
    """How a stage decides on changes of structure, before it projects anything."""

    @property
    def required(self) -> bool:
        """Whether a model that cannot be traced is an error; else its structure stays, and coverage says why."""
        return True

    @abstractmethod
    def decide(self, student: "Compressed", task: Task) -> Sequence[Edit]:
        """Edits for the student's base module; the student is not changed."""

    def values(self, student: "Compressed", edits: Sequence[Edit], task: Task) -> Mapping[str, Tensor]:
        """Parameters and buffers that get other values once the edits are made, of the shapes that they leave.

        The student is as it was before the edits, and is not changed.
        """
        return {}


class TapRule(ABC):
    """Which activations a stage sends through which functions: quantizers."""

    @property
    def required(self) -> bool:
        """Whether a model that cannot be traced is an error; else activations stay, and coverage says why."""
        return True

    @abstractmethod
    def taps(self, student: "Compressed", task: Task) -> Sequence[TapSite]:
        """Taps for the student, which is not changed. The same student and task give the same sites."""

    def without(self, weights: Sequence[str], *, joins: bool = True) -> "TapRule":
        """The same rule, but for what the layers of these weights take in, and but for joins where they are not wanted.

        Raises ``SelectionError`` where the rule cannot leave them out.
        """
        raise SelectionError(f"{type(self).__name__} cannot leave single layers out; name the layers in its settings")


class Projector(ABC):
    """Projects where a scheme's own projection does not: a solver for the full metric."""

    @abstractmethod
    def project(self, scheme: Scheme, w: Tensor, metric: Metric) -> Code:
        """The code of ``scheme`` that is best for ``w`` in ``metric``."""


class BlockProjector(ABC):
    """Projects several parameters together, by what a part of the model answers: reconstruction."""

    @abstractmethod
    def groups(self, student: "Compressed", names: Sequence[str]) -> Sequence[Sequence[str]]:
        """The parameters in the order in which they are projected, those in one group that are projected together."""

    @abstractmethod
    def project(
        self, student: "Compressed", original: "Compressed", schemes: Mapping[str, Scheme], task: Task
    ) -> dict[str, Code]:
        """The codes of one group, with all groups before it coded in the student, which is not changed.

        ``original`` is the student as the stage found it, with the stage's edits, and without its codes and taps.
        """


@dataclass(frozen=True)
class Repaired:
    """What a repair did.

    changed   parameter or buffer -> ``‖v − w‖ / max(‖v‖, ‖w‖)``, with ``w`` the value before and ``v`` the one after
    left      what it would have repaired and could not, with the reason
    """

    changed: Mapping[str, float]
    left: Mapping[str, str] = field(default_factory=dict)


class Repair(ABC):
    """Gives parameters and buffers of a student better values, after its stage has projected and learned.

    The structure stays: a repair is in the values that a file holds, and is not replayed.
    """

    @abstractmethod
    def repair(self, student: "Compressed", before: "Compressed", task: Task) -> Repaired:
        """Change the student's values in place.

        ``before`` is the student as the stage found it, with the stage's edits, and without its codes and taps.
        """


@dataclass(frozen=True)
class Stage:
    """Edit the structure, tap activations, project the sites by the schedule, learn in between, and repair.

    ``schemes`` maps patterns on parameter names (or :class:`Sites`) to schemes; the first match wins. An empty mapping
    only learns, in every code there is. ``objective`` ``None`` is the task's own loss. ``projector`` replaces the
    schemes' own projection at schedule targets; parameters are then projected one after the other, or group by group,
    each measured with the ones before it already compressed. ``repairs`` are made at the end, one after the other.
    """

    name: str
    schemes: Mapping[str | Sites, Scheme] = field(default_factory=dict)
    metric: MetricRule = MagnitudeRule()
    projector: Projector | BlockProjector | None = None
    edit: EditRule | None = None
    tap: TapRule | None = None
    schedule: Schedule = OneShot()
    learn: Learn = Learn.DIRECT
    training: Training | None = None
    objective: Objective | None = None
    train_rest: bool = True
    repairs: tuple[Repair, ...] = ()

    def without(self, weights: Sequence[str], *, joins: bool = True) -> "Stage":
        """The same stage, with these parameters and what their layers take in left as they are."""
        schemes: dict[str | Sites, Scheme] = {
            replace(where, exclude=(*where.exclude, *weights), optional=True): scheme for where, scheme in self.rules()
        }
        return replace(self, schemes=schemes, tap=self.tap and self.tap.without(weights, joins=joins))

    def rules(self) -> list[tuple[Sites, Scheme]]:
        return [(s if isinstance(s, Sites) else Sites((s,)), scheme) for s, scheme in self.schemes.items()]


def everywhere(name: str, scheme: Scheme, **settings: Any) -> Stage:
    """A stage with one scheme on all weights."""
    return Stage(name, {WEIGHTS: scheme}, **settings)


@dataclass(frozen=True)
class Reference:
    """Where a method was published."""

    title: str
    authors: str
    year: int
    arxiv: str | None = None
    url: str | None = None

    def __str__(self) -> str:
        where = f"arXiv {self.arxiv}" if self.arxiv else self.url or ""
        return f"{self.authors} ({self.year}), {self.title}. {where}".strip()


@dataclass(frozen=True)
class Claim:
    """One checkable result as the paper states it. ``checked`` says where the figure was read."""

    testbed: str
    statement: str
    checked: str


@dataclass(frozen=True)
class Recipe:
    """A list of stages with where it comes from. A paper is a recipe and adds no class.

    ``teacher`` makes the model that objectives learn from; ``None`` takes the original of the one that is compressed.
    """

    name: str
    stages: tuple[Stage, ...]
    reference: Reference | None = None
    deviations: tuple[str, ...] = ()
    teacher: Callable[[], nn.Module] | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise SelectionError(f"recipe {self.name!r} has no stage")

    @property
    def settings(self) -> str:
        """All settings as text, the same in every process: two recipes with equal settings do the same."""
        return re.sub(r" at 0x[0-9a-f]+", "", repr(self))  # functions have another address in every process

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the stages' settings: of what is done, not of what is said about it."""
        done = replace(self, reference=None, deviations=())
        return sha256(done.settings.encode()).hexdigest()[:12]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all trainings, each once."""
        return tuple(dict.fromkeys(stage.training.seed for stage in self.stages if stage.training is not None))

    @property
    def epochs(self) -> int:
        return sum(stage.training.epochs for stage in self.stages if stage.training is not None)


@dataclass(frozen=True, eq=False)
class Priced:
    """A recipe with one number that trades size for quality everywhere: ``at(λ)``, λ the price of a bit.

    ``price`` is the one that is taken where no limit asks for another.
    """

    at: Callable[[float], Recipe]
    price: float

    def __post_init__(self) -> None:
        if not self.price > 0:
            raise SelectionError(f"a price of {self.price} a bit; give one above 0")


@dataclass(frozen=True)
class Budget:
    """Limits. ``size`` in bytes of the saved file; ``drop`` in the task's own unit, measured on the selection data."""

    size: int | None = None
    drop: float | None = None
