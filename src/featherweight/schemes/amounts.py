"""How many entries of a tensor stay, and which: supports from importances."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.core.scheme import Promise
from featherweight.schemes.runs import Runs, permuted


class Amount(ABC):
    """A rule from the importances of a tensor's entries to its support. Subclasses are frozen dataclasses.

    ``promise`` is exact where no other support of as many entries leaves a smaller error, and the same support is found
    again from what it leaves.
    """

    promise: ClassVar[Promise]

    @property
    def run(self) -> int | None:
        """How many entries of a row, one after another, are decided together; ``None`` where all may be."""
        return None

    def runs(self, importance: Tensor) -> Runs | None:
        """The runs of which a number of entries stay each; ``None`` where it is not so."""
        return None

    @abstractmethod
    def support(self, importance: Tensor) -> Tensor:
        """The entries that stay, bool, of the shape of ``importance``; it may be none."""

    def again(self, importance: Tensor, before: Tensor) -> Tensor:
        """The next support, after ``before``; the default forgets it."""
        return self.support(importance)

    @abstractmethod
    def at(self, target: float) -> Self:
        """The rule at ``target`` of its full effect, 0 < target <= 1."""


@dataclass(frozen=True)
class Fraction(Amount):
    """A share of the entries is zero: ``round(share · n)`` of them, the least important."""

    share: float
    promise: ClassVar[Promise] = Promise.EXACT

    def __post_init__(self) -> None:
        _check_share(self.share)

    def support(self, importance: Tensor) -> Tensor:
        return largest(importance, importance.numel() - round(self.share * importance.numel()))

    def at(self, target: float) -> Self:
        return replace(self, share=target * self.share)


@dataclass(frozen=True)
class RowFraction(Amount):
    """A share of every row is zero: ``round(share · columns)`` entries, the least important of the row.

    A row is all that one output reads, ``importance[r]``. Comparing within outputs is what Sun et al. 2023 (arXiv
    2306.11695, section 3) found best for language models. A rule: entries of other rows may matter less.
    """

    share: float
    promise: ClassVar[Promise] = Promise.RULE

    def __post_init__(self) -> None:
        _check_share(self.share)

    def support(self, importance: Tensor) -> Tensor:
        rows = _rows(importance)
        return _largest_of_each(rows, rows.shape[1] - round(self.share * rows.shape[1])).reshape(importance.shape)

    def at(self, target: float) -> Self:
        return replace(self, share=target * self.share)


@dataclass(frozen=True)
class NToM(Amount):
    """Of every ``m`` consecutive entries of a row at most ``n`` stay, the most important: 2:4 is ``NToM(2, 4)``.

    A row is all that one output reads, flattened; where ``m`` does not divide it, the last run is shorter and keeps
    ``n`` too. Zhou et al. 2021, arXiv 2102.04010; the pattern of sparse matrix units (Mishra et al. 2021, arXiv
    2104.08378). A rule: entries of other runs may matter less.
    """

    n: int
    m: int
    promise: ClassVar[Promise] = Promise.RULE

    def __post_init__(self) -> None:
        _check_run(self.n, self.m)

    @property
    def run(self) -> int:
        return self.m

    def runs(self, importance: Tensor) -> Runs:
        return Runs(self.n, self.m)

    def support(self, importance: Tensor) -> Tensor:
        return self.runs(importance).support(importance)

    def at(self, target: float) -> Self:
        return replace(self, n=self.m - round(target * (self.m - self.n)))


@dataclass(frozen=True)
class PermutedNToM(Amount):
    """Of every ``m`` input channels of a run at most ``n`` stay, for each output and kernel position apart.

    Runs are not of neighbours: which channels make a run is searched for, so that more of the importance stays
    (:func:`featherweight.schemes.runs.permuted`, in ``rounds`` at most; 0 takes the channels as they stand). It is
    never less than without the search. The code holds the permutation; a kernel for N:M needs its inputs in that order,
    which costs nothing where the layer before can write them so (Pool and Yu 2021, NeurIPS, section 3).
    """

    n: int
    m: int
    rounds: int = 50
    promise: ClassVar[Promise] = Promise.RULE

    def __post_init__(self) -> None:
        _check_run(self.n, self.m)
        if self.rounds < 0:
            raise SchemeError(f"a search of {self.rounds} rounds; give 0 for none")

    def runs(self, importance: Tensor) -> Runs:
        return permuted(importance, self.n, self.m, self.rounds)

    def support(self, importance: Tensor) -> Tensor:
        return self.runs(importance).support(importance)

    def at(self, target: float) -> Self:
        return replace(self, n=self.m - round(target * (self.m - self.n)))


@dataclass(frozen=True)
class Magnitude(Amount):
    """Entries of importance ``|w|`` at or below ``threshold`` are zero; 0 keeps exactly the non-zero entries."""

    threshold: float = 0.0
    promise: ClassVar[Promise] = Promise.EXACT

    def support(self, importance: Tensor) -> Tensor:
        return importance > self.threshold

    def at(self, target: float) -> Self:
        return replace(self, threshold=target * self.threshold)


@dataclass(frozen=True)
class Deviations(Amount):
    """Entries at or below ``quality`` times the layer's deviation about zero are zero (Han et al. 2015, section 3).

    The deviation is the root mean square, which pruning cannot raise: pruning again by the same rule changes nothing.
    """

    quality: float
    promise: ClassVar[Promise] = Promise.EXACT

    def support(self, importance: Tensor) -> Tensor:
        return importance > self.quality * importance.double().square().mean().sqrt().to(importance.dtype)

    def at(self, target: float) -> Self:
        return replace(self, quality=target * self.quality)


@dataclass(frozen=True)
class L0Penalty(Amount):
    """``min_v ½ ‖w − v‖² + price · ‖v‖₀``: entries of importance ``|w|`` at or below ``√(2 · price)`` are zero.

    Hard thresholding: the compression step of learning-compression with an l0 penalty, where ``price = α/μ``
    (Carreira-Perpiñán and Idelbayev 2018, CVPR, section 4).
    """

    price: float
    promise: ClassVar[Promise] = Promise.EXACT

    def __post_init__(self) -> None:
        if self.price < 0:
            raise SchemeError(f"a price of {self.price} for an entry is below 0")

    def support(self, importance: Tensor) -> Tensor:
        return importance > math.sqrt(2 * self.price)

    def at(self, target: float) -> Self:
        return replace(self, price=target * self.price)


@dataclass(frozen=True)
class Surgery(Amount):
    """Prune and splice with hysteresis: dynamic network surgery (Guo, Yao and Chen 2016, arXiv 1608.04493, section 3).

    With ``t = max(μ + c σ, 0)``, of the mean and the deviation of all importances of the layer, an entry is pruned
    below ``(1 − margin) t``, spliced back at ``(1 + margin) t`` and above, and stays what it was between. At first all
    are alive. Weights can come back only where pruned ones learn: take ``Gradient.DENSE`` and a latent weight.
    A rule: ``t`` of what was pruned is not ``t`` of what it is pruned from.
    """

    c: float
    margin: float = 0.1
    promise: ClassVar[Promise] = Promise.RULE

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise SchemeError(f"a margin of {self.margin} is not in [0, 1); 0.1 leaves a tenth about the threshold")

    def threshold(self, importance: Tensor) -> float:
        wide = importance.double()
        return max(float(wide.mean() + self.c * wide.std(correction=0)), 0.0)

    def support(self, importance: Tensor) -> Tensor:
        return self.again(importance, torch.ones_like(importance, dtype=torch.bool))

    def again(self, importance: Tensor, before: Tensor) -> Tensor:
        t = self.threshold(importance)
        return (importance >= (1 + self.margin) * t) | (before & (importance >= (1 - self.margin) * t))

    def at(self, target: float) -> Self:
        if target != 1:
            raise SchemeError(f"{self} has no gradual form; use a schedule of whole effects, such as Decaying")
        return self


@dataclass(frozen=True)
class Dropping(Amount):
    """``share`` of the entries is zero in the end; on the way they drop out and back in by chance.

    DropPruning (Jia et al. 2018, arXiv 1812.02035). At a target ``s`` of its schedule, of the ``round(s · share · n)``
    least important entries those that are alive drop out with probability ``1 − (1 − p_out)(1 − s)``, and of all that
    were pruned before each drops back in with probability ``p_in (1 − s)``. At ``s = 1`` both are certain, and it is
    :class:`Fraction`. What returns has the value with which it left, where pruned weights rest: ``Gradient.RESTING``.

    Draws are of torch's global generator, and made in :meth:`again` alone: the first support is that of the least
    important ones.
    """

    share: float
    p_out: float = 0.9
    p_in: float = 0.2
    target: float = 1.0
    promise: ClassVar[Promise] = Promise.EXACT

    def __post_init__(self) -> None:
        _check_share(self.share)
        if not 0 < self.p_out <= 1 or not 0 <= self.p_in < 1:
            raise SchemeError(f"dropping out with {self.p_out} and in with {self.p_in}: give (0, 1] and [0, 1)")

    def support(self, importance: Tensor) -> Tensor:
        return Fraction(self.target * self.share).support(importance)

    def again(self, importance: Tensor, before: Tensor) -> Tensor:
        kept = self.support(importance)
        if self.target == 1:
            return kept
        out = 1 - (1 - self.p_out) * (1 - self.target)
        back = self.p_in * (1 - self.target)
        draw = torch.rand(importance.shape, device="cpu").to(importance.device)  # the same on every device
        return torch.where(before, kept | (draw >= out), draw < back)

    def at(self, target: float) -> Self:
        return replace(self, target=target)


@dataclass(frozen=True)
class Halves(Amount):
    """``round(share · n)`` entries are zero; those that stay are drawn from the halves of a ranking.

    Positive and negative importances are ranked apart by magnitude (zeros never stay); each sign keeps its proportion,
    ``high`` of it drawn from the upper half of its ranking and the others from the lower half (Sun, Wang and Tang
    2016, arXiv 1512.01891, section 3.3, where importances are correlations); what one half cannot give, the other does.
    Draws are of a generator of its own, seeded by ``seed``. A rule: chance decides.
    """

    share: float
    high: float = 0.75
    seed: int = 0
    promise: ClassVar[Promise] = Promise.RULE

    def __post_init__(self) -> None:
        _check_share(self.share)
        if not 0 <= self.high <= 1:
            raise SchemeError(f"a share of {self.high} from the upper half is not in [0, 1]")

    def support(self, importance: Tensor) -> Tensor:
        scores = importance.detach().flatten().cpu()
        generator = torch.Generator().manual_seed(self.seed)
        support = torch.zeros_like(scores, dtype=torch.bool)
        positive, negative = (_ranked(sign * scores) for sign in (1, -1))
        scored = len(positive) + len(negative)
        kept = min(len(scores) - round(self.share * len(scores)), scored)
        first = round(kept * len(positive) / max(scored, 1))
        for ranked, count in ((positive, first), (negative, kept - first)):
            upper, lower = ranked.tensor_split([(len(ranked) + 1) // 2])
            most = max(min(round(self.high * count), len(upper)), count - len(lower))
            for half, size in ((upper, most), (lower, count - most)):
                drawn = torch.randperm(len(half), generator=generator, device="cpu")[:size]
                support[half[drawn]] = True
        return support.reshape(importance.shape).to(importance.device)

    def at(self, target: float) -> Self:
        return replace(self, share=target * self.share)


def largest(importance: Tensor, count: int) -> Tensor:
    """The ``count`` largest entries, the first of equal ones; none that are zero."""
    order = importance.flatten().argsort(descending=True, stable=True)
    support = torch.zeros_like(importance, dtype=torch.bool).flatten()
    support[order[:count]] = True
    return support.reshape(importance.shape) & (importance != 0)


def _rows(importance: Tensor) -> Tensor:
    """[rows, columns]: a vector, or a single number, is one row."""
    return importance.flatten(1) if importance.ndim > 1 else importance.reshape(1, -1)


def _largest_of_each(rows: Tensor, count: int) -> Tensor:
    """The ``count`` largest entries of each row, the first of equal ones; none that are zero."""
    order = rows.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order[:, :count], True) & (rows != 0)


def _ranked(scores: Tensor) -> Tensor:
    """Where the positive ones are, the largest first."""
    order = scores.argsort(descending=True, stable=True)
    return order[scores[order] > 0]


def _check_run(n: int, m: int) -> None:
    if not 1 <= n <= m:
        raise SchemeError(f"{n} of {m} entries cannot stay; give 1 or more, and no more than there are")


def _check_share(share: float) -> None:
    if not 0 <= share < 1:
        raise SchemeError(f"a sparsity of {share} is not in [0, 1); 0.9 zeroes nine entries in ten")
