"""How many channels of every group stay: equal ratios first, then exchanges between groups that the outputs gain by."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from featherweight.channels.sensitivity import Masking
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.task import Task
from featherweight.search.channels import Move, Narrow, Narrowing, Tradeoff


@dataclass(frozen=True)
class Exchange(Narrow):
    """Narrow all groups by one ratio, then let some have channels back that others give up.

    A local search in the numbers of channels of all groups: while the cost is above the limit, the group goes on to its
    next number that harms least for what it saves; while one can have channels back within the limit, the one that
    gains most for them does; and then, of the exchanges between two groups, those ``tried`` that promise most by the
    errors of each alone are measured, and the best is made if the error falls by a thousandth or more. The search ends
    where none does. The error is that of :class:`Masking`, everything masked at once, so that the end is no worse in it
    than equal ratios of the same cost. Within a group channels go in the order of ``score``.
    """

    batches: int = 4
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
    """Numbers of labels that have gone, and the error with them."""

    def __init__(self, rule: Exchange, given: Tradeoff, masking: Masking) -> None:
        self.rule, self.given, self.masking, self.state = rule, given, masking, Narrowing(given)
        self.whole = self.state.cost
        self.known: dict[tuple[int, ...], float] = {}
        """Errors that were measured."""

    def settle(self, share: float) -> None:
        """Begin at equal ratios, or at what the last search ended with where that is better."""
        limit = share * self.whole
        even = equal_ratios(self.given, share, self.rule.step, self.rule.least)
        if not any(self.state.gone) or self.state.cost > limit or self.error() > self.error_with(even):
            self.state.set(even)
        while self.state.cost > limit:
            self.state.all_moves(limit, self.rule.step, self.rule.least)  # or an error that says how far it goes
            self.state.make(min(self.narrower(), key=self.harm))
        while self.widened(limit) or self.exchanged(limit):
            pass

    def narrower(self) -> list[Move]:
        """The fewest labels of every group that save something."""
        rule, groups = self.rule, range(len(self.state.curves))
        return [moves[0] for moves in (self.state.moves(k, rule.step, rule.least) for k in groups) if moves]

    def wider(self) -> list[Move]:
        """The labels of every group that can come back at the price of the fewest."""
        groups = range(len(self.state.curves))
        return [move for move in (self.state.widened(k, self.rule.step) for k in groups) if move is not None]

    def harm(self, move: Move) -> float:
        """The rise of the error for what is saved."""
        return (self.error(move) - self.error()) / move.saved

    def worth(self, move: Move) -> float:
        """The fall of the error for the price of what comes back, which measured times may have below zero."""
        return (self.error() - self.error(move)) / max(-move.saved, 1e-9 * self.whole)

    def error(self, *moves: Move) -> float:
        gone = list(self.state.gone)
        for move in moves:
            gone[move.curve] = move.gone
        return self.error_with(gone)

    def error_with(self, gone: list[int]) -> float:
        key = tuple(gone)
        if key not in self.known:
            self.known[key] = self.masking.error(gone)
        return self.known[key]

    def widened(self, limit: float) -> bool:
        """Whether a group could have labels back within the limit, and did."""
        free = [move for move in self.wider() if self.state.cost - move.saved <= limit and self.gains(move)]
        if free:
            self.state.make(max(free, key=self.worth))
        return bool(free)

    def exchanged(self, limit: float) -> bool:
        """Whether an exchange was found that the outputs gain by, and made."""
        promised = sorted(self.exchanges(limit), key=lambda each: each[0])[: self.rule.tried]
        measured = [(self.error(*pair), pair) for promise, pair in promised]
        best, pair = min(measured, key=lambda each: each[0], default=(0.0, ()))
        if not pair or not self.gains(*pair):
            return False
        for move in pair:
            self.state.make(move)
        return True

    def gains(self, *moves: Move) -> bool:
        return self.error(*moves) < self.error() * (1 - 1e-3)

    def exchanges(self, limit: float) -> Iterator[tuple[float, tuple[Move, Move]]]:
        """Pairs of a group that gets labels and one that gives as many as pay for them, with the error to expect."""
        state, now, givers = self.state, self.error(), self.narrower()
        for up in self.wider():
            for down in givers:
                paid = up.curve != down.curve and self.paying(up, down, limit)
                if paid:
                    rise = (self.error(down) - now) * (paid.gone - state.gone[down.curve])
                    yield self.error(up) + rise / (down.gone - state.gone[down.curve]), (up, paid)

    def paying(self, up: Move, down: Move, limit: float) -> Move | None:
        """The fewest labels of the second group that pay for those of the first; layers may read both."""
        state, had = self.state, list(self.state.gone)
        state.make(up)
        moves = state.moves(down.curve, self.rule.step, self.rule.least)
        found = next((move for move in moves if state.cost - move.saved <= limit), None)
        state.set(had)
        return found
