"""How many channels of every group stay: equal ratios first, then exchanges between groups that the outputs gain by."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from featherweight.channels.sensitivity import LOST, Masking
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.task import Task
from featherweight.search.channels import Move, Narrow, Narrowing, Tradeoff, allocate, cost_without

ENOUGH = 1e-3
"""Of the error, by which it has to fall for a move to be made."""


@dataclass(frozen=True)
class Exchange(Narrow):
    """Narrow all groups by one ratio, then let some have channels back that others give up.

    A local search in the numbers of channels of all groups, which begins at equal ratios, or at what :class:`Narrow`
    would allocate where that is better. While a group can have channels back within the limit, the one that gains most
    for their price does. Then exchanges are tried: one group gets its next number of channels, and those that harm
    least for what they save pay for it, or one gives channels and those that gain most get them. The ``tried`` that
    promise most, by what each step does alone, are measured, and the best is made if the error falls by a thousandth or
    more. The search ends where none does. The error is that of :class:`Masking`, everything masked at once, so that the
    end is no worse in it than equal ratios within the same cost. Within a group channels go in the order of ``score``.
    """

    batches: int = 1
    tried: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batches < 1 or self.tried < 1:
            raise SchemeError(f"{self}: give a number of batches, and one of exchanges that are tried, from 1 on")

    def allocation(self, student: Compressed, given: Tradeoff, task: Task) -> Callable[[float], list[int]]:
        masking = Masking(student, given.labels, given.curves, task, self.batches)
        search = _Search(self, given, masking)

        def allocated(share: float) -> list[int]:
            search.settle(share)
            return list(search.state.gone)

        return allocated


def equal_ratios(given: Tradeoff, share: float, step: int, least: int) -> list[int]:
    """How many labels of every curve go where the same part of each stays, in whole steps: the largest within a share.

    All that may go where even that costs more.
    """
    sizes = [len(curve.labels) for curve in given.curves]
    lowest = -(-least // step) * step
    state, gone = Narrowing(given), [0] * len(sizes)
    limit = share * state.cost
    parts = {0.0, *(k / size for size in sizes for k in range(lowest, size + 1, step))}
    for part in sorted(parts, reverse=True):
        stay = [min(max(round(part * size / step) * step, lowest), size) for size in sizes]
        gone = [size - each for size, each in zip(sizes, stay, strict=True)]
        state.set(gone)
        if state.cost <= limit:
            break
    return gone


class _Search:
    """Numbers of labels that have gone, and the error with them.

    What a move does to the error was measured beside other numbers of other groups, perhaps: it is measured again
    before the move is made, and where no exchange promises anything.
    """

    def __init__(self, rule: Exchange, given: Tradeoff, masking: Masking) -> None:
        self.rule, self.given, self.masking, self.state = rule, given, masking, Narrowing(given)
        self.whole = self.state.cost
        self.known: dict[tuple[int, ...], float] = {}
        """Errors that were measured."""
        self.rises: dict[tuple[int, int, int], float] = {}
        """Curve, and labels gone before and after -> the rise of the error when it was measured last."""

    def settle(self, share: float) -> None:
        """Begin at the best of equal ratios, the errors of groups added up, and what the last search ended with."""
        limit = share * self.whole
        step, least = self.rule.step, self.rule.least
        starts = [equal_ratios(self.given, share, step, least), allocate(self.given, share, step, least)]
        if any(self.state.gone):
            starts.append(list(self.state.gone))
        self.state.set(min((each for each in starts if cost_without(self.given, each) <= limit), key=self.error_with))
        while self.widened(limit) or self.exchanged(limit) or self.exchanged(limit, anew=True):
            pass

    def narrower(self) -> list[Move]:
        """The fewest labels of every group that save something."""
        rule, groups = self.rule, range(len(self.state.curves))
        return [moves[0] for moves in (self.state.moves(k, rule.step, rule.least) for k in groups) if moves]

    def wider(self) -> list[Move]:
        """The labels of every group that can come back at the price of the fewest."""
        groups = range(len(self.state.curves))
        return [move for move in (self.state.widened(k, self.rule.step) for k in groups) if move is not None]

    def error(self, *moves: Move) -> float:
        gone = list(self.state.gone)
        for move in moves:
            gone[move.curve] = move.gone
        return self.error_with(gone)

    def error_with(self, gone: Sequence[int]) -> float:
        key = tuple(gone)
        if key not in self.known:
            self.known[key] = self.masking.error(gone)
        return self.known[key]

    def rise(self, move: Move, anew: bool = False) -> float:
        key = (move.curve, self.state.gone[move.curve], move.gone)
        if anew or key not in self.rises:
            self.rises[key] = self.error(move) - self.error()
        return self.rises[key]

    def best(self, moves: Sequence[Move], value: Callable[[Move], float]) -> Move:
        """The move of the lowest value by its rise, which is one of now."""
        seen = set[int]()
        while True:
            found = min(moves, key=value)
            if found.curve in seen:
                return found
            seen.add(found.curve)
            self.rise(found, anew=True)

    def widened(self, limit: float) -> bool:
        """Whether a group could have labels back within the limit, gained by it, and did."""
        free = [move for move in self.wider() if self.fits(move, limit)]
        found = self.best(free, self.worth) if free else None
        if found is not None and self.error(found) < self.error() * (1 - ENOUGH):
            self.state.make(found)
            return True
        return False

    def exchanged(self, limit: float, anew: bool = False) -> bool:
        """Whether an exchange was found that the outputs gain by, and made."""
        for move in [*self.wider(), *self.narrower()] if anew else ():
            self.rise(move, anew=True)
        promised = sorted(self.exchanges(limit), key=lambda each: each[0])[: self.rule.tried]
        measured = [(self.error_with(gone), gone) for _, gone in promised]
        error, gone = min(measured, default=(LOST, []))
        if error < self.error() * (1 - ENOUGH):
            self.state.set(gone)
            return True
        return False

    def exchanges(self, limit: float) -> Iterator[tuple[float, list[int]]]:
        """One group gets labels that others pay for, or gives labels that others get, with the rise to expect."""
        state, had = self.state, list(self.state.gone)
        for first in [*self.wider(), *self.narrower()]:
            rise = self.rise(first)
            state.make(first)
            others = self.paid(first.curve, limit) if first.saved < 0 else self.spent(first.curve, limit)
            if state.cost <= limit and others is not None:
                yield rise + others, list(state.gone)
            state.set(had)

    def paid(self, but: int, limit: float) -> float | None:
        """Let labels of other groups go until the limit is kept: the rise to expect, if there are enough."""
        rise = 0.0
        while self.state.cost > limit:
            moves = [move for move in self.narrower() if move.curve != but]
            if not moves:
                return None
            best = min(moves, key=lambda move: self.rise(move) / move.saved)
            rise += self.rise(best)
            self.state.make(best)
        return rise

    def spent(self, but: int, limit: float) -> float | None:
        """Let labels of other groups come back as far as the limit allows: the rise to expect, if any do."""
        rise: float | None = None
        while moves := [move for move in self.wider() if move.curve != but and self.fits(move, limit)]:
            best = min(moves, key=self.worth)
            if self.rise(best) >= 0:
                break
            rise = (rise or 0.0) + self.rise(best)
            self.state.make(best)
        return rise

    def fits(self, move: Move, limit: float) -> bool:
        return self.state.cost - move.saved <= limit

    def worth(self, move: Move) -> float:
        """The rise, below zero, for the price of what comes back, which measured times may have below nothing."""
        return self.rise(move) / max(-move.saved, 1e-9 * self.whole)
