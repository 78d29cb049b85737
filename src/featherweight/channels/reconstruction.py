"""Scores of channels by what the layers that read them would no longer give out."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.channels.slices import owner, single
from featherweight.channels.standins import moment
from featherweight.core.compressed import Compressed
from featherweight.core.task import Task
from featherweight.graph.labels import Labels
from featherweight.metrics.hessian import known
from featherweight.search.channels import ChannelScore, Curve, reading
from featherweight.solvers.channels import damped


@dataclass(frozen=True)
class ContributionScore(ChannelScore):
    """Channels by ``G_jk = E⟨y_j, y_k⟩``, where ``Σ_j y_j`` is what the layers that read a group give out.

    ``y_j = w_:j x_j`` is the contribution of channel ``j`` to all outputs; readers add up, each relative to the energy
    of its own outputs with ``relative``, so that groups compare. With ``E[x xᵀ]`` for a sample of positions,
    ``G_jk = Σ_{a ∈ j, b ∈ k} (E[x xᵀ] ∘ wᵀw)_ab`` is exact for all outputs. Groups that others than linear layers and
    convolutions of one group read have no curve.
    """

    batches: int = 4
    relative: bool = True

    @abstractmethod
    def ordered(self, gram: Tensor, sizes: Tensor) -> tuple[list[int], list[float]]:
        """The order in which the channels go, and the error with the first ``k`` gone, of ``G`` and ``‖w_:j‖``."""

    def curves(self, student: Compressed, labels: Labels, task: Task) -> list[Curve]:
        found = []
        for group in labels.groups():
            readers = reading(labels, group, student)
            if readers and all(single(student, n) and known(owner(student, n), n) for n in readers):
                order, errors = self.ordered(*self._gram(student, readers, task))
                rising = torch.tensor(errors, dtype=torch.float64).clamp(min=0).cummax(0).values.tolist()
                found.append(Curve(tuple(group[at] for at in order), tuple(rising)))
        return found

    def _gram(self, student: Compressed, readers: dict[str, Tensor], task: Task) -> tuple[Tensor, Tensor]:
        grams, squares = [], []
        for name, columns in readers.items():
            w = student.weight(name).detach().double().flatten(1)
            gram = contributions(w, moment(student, name, self.batches, task), columns)
            energy = float(gram.sum().clamp(min=1e-300)) if self.relative else 1.0
            grams.append(gram / energy)
            squares.append(w.square().sum(0)[columns].sum(1) / energy)
        return torch.stack(grams).sum(0), torch.stack(squares).sum(0).sqrt()


def contributions(w: Tensor, hessian: Tensor, columns: Tensor) -> Tensor:
    """``G`` [channels, channels] of a weight [rows, columns] whose channels have the columns [channels, k]."""
    entries = hessian.double() * (w.T @ w)
    gram: Tensor = entries[columns[:, :, None, None], columns].sum((1, 3))
    return gram


@dataclass(frozen=True)
class Greedy(ContributionScore):
    """Each time the channel ``j`` goes with which ``E ‖Σ_{k ∈ T ∪ j} y_k‖²`` of all that have gone, ``T``, is least.

    ThiNet: Luo, Wu and Lin 2017, arXiv 1707.06342, section 3.2.2, equation 6.
    """

    def ordered(self, gram: Tensor, sizes: Tensor) -> tuple[list[int], list[float]]:
        alive = torch.ones(len(gram), dtype=torch.bool)
        with_gone = torch.zeros(len(gram), dtype=torch.float64)
        order: list[int] = []
        errors = [0.0]
        for _ in range(len(gram)):
            rises = 2 * with_gone + gram.diagonal()
            at = int(rises.masked_fill(~alive, torch.inf).argmin())
            order.append(at)
            errors.append(errors[-1] + float(rises[at]))
            with_gone += gram[at]
            alive[at] = False
        return order, errors


@dataclass(frozen=True)
class Lasso(ContributionScore):
    """``min_β ½ E ‖Σ_j y_j − Σ_j β_j y_j‖² + λ Σ_j ‖w_:j‖ |β_j|``: as λ rises, more channels leave for good.

    He, Zhang and Sun 2017, arXiv 1707.06168, section 3.1, with ``‖w_:j‖ = 1`` as a weight of the penalty. The order is
    that of the λ at which a channel comes in, over ``steps`` prices; the error that of the best ``β`` of those that
    stay.
    """

    steps: int = 60
    smallest: float = 1e-4

    def ordered(self, gram: Tensor, sizes: Tensor) -> tuple[list[int], list[float]]:
        unit = sizes.clamp(min=1e-300)
        scaled = gram / (unit[:, None] * unit)
        target = gram.sum(1) / unit
        highest = float(target.abs().max())
        beta = torch.zeros_like(target)
        entered = torch.zeros_like(target)  # the highest price at which it is in
        for step in range(self.steps):
            price = highest * self.smallest ** ((step + 1) / self.steps)
            beta = lasso(scaled, target, price, start=beta)
            entered = torch.where((beta != 0) & (entered == 0), price, entered)
        within = beta.abs() / beta.abs().max().clamp(min=1e-300)
        order = sorted(range(len(gram)), key=lambda at: (float(entered[at]), float(within[at]), float(gram[at, at])))
        return order, refitted(gram, order)


def lasso(gram: Tensor, target: Tensor, price: float, start: Tensor | None = None, steps: int = 300) -> Tensor:
    """``argmin_β ½ βᵀ G β − targetᵀ β + price ‖β‖₁``, by accelerated proximal gradients (Beck and Teboulle 2009)."""
    beta = torch.zeros_like(target) if start is None else start
    rate = 1 / torch.linalg.eigvalsh(gram)[-1].clamp(min=1e-300)
    ahead, momentum = beta, 1.0
    for _ in range(steps):
        moved = ahead - rate * (gram @ ahead - target)
        after: Tensor = moved.sign() * (moved.abs() - rate * price).clamp(min=0)
        if bool((after - beta).abs().max() <= 1e-7 * after.abs().max()) and momentum > 1:
            return after
        grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead, beta, momentum = after + (momentum - 1) / grown * (after - beta), after, grown
    return beta


def refitted(gram: Tensor, order: Sequence[int], damping: float = 1e-6) -> list[float]:
    """``min_β E ‖Σ_j y_j − Σ_{j stays} β_j y_j‖²`` with the first ``k`` of the order gone, ``k = 0 …``.

    Deleting ``j`` raises it by ``β_j² / [G⁻¹]_jj`` of those that stay.
    """
    inverse = torch.linalg.inv(damped(gram, damping))
    beta = torch.ones(len(gram), dtype=torch.float64)
    errors = [0.0]
    for at in order:
        column = inverse[:, at].clone()
        diagonal = column[at].clamp(min=1e-300)
        errors.append(errors[-1] + float(beta[at].square() / diagonal))
        beta -= column * (beta[at] / diagonal)
        inverse -= column[:, None] * column / diagonal
        inverse[at] = inverse[:, at] = 0
        beta[at] = 0
    return errors
