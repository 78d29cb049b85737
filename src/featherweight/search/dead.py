"""Channels that a training drove to zero, and the constants that they leave behind."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.edit import Edit
from featherweight.core.errors import SchemeError, SelectionError
from featherweight.core.stage import EditRule
from featherweight.core.task import Task, call, evaluating, moved
from featherweight.graph.cut import Cut
from featherweight.graph.edits import kept_by, removal, walk
from featherweight.graph.fold import foldable
from featherweight.graph.labels import Labels, Place
from featherweight.graph.trace import trace
from featherweight.search.slices import slices

ALMOST = 1e-6
"""What is the same to this part of its size is the same."""


@dataclass(frozen=True)
class Dead:
    """Labels that nothing depends on any more, and what becomes of the constants that they carried.

    ``shifts`` are new values of biases and of the running means of batch norms, in the shapes before the cut.
    """

    labels: Labels
    dead: tuple[int, ...]
    shifts: Mapping[str, Tensor]


@dataclass(frozen=True)
class CutDead(EditRule):
    """Cut every channel that a training drove to zero.

    A channel is dead where every layer that mixes it with others reads it by zeros, or where it is constant: all rows
    that write it are zero, each in its layer or by the ``γ`` of the batch norm that alone follows the layer. The
    constant ``a`` (what the activation makes of a bias, or of ``β``) then goes where the channel was read: ``Σ w a``
    over the column is added to the layer's bias, or taken from the running mean of the batch norm that alone follows.
    Where a slice is at most ``tolerance``, or a ``γ`` at most ``gain``, in magnitude, it counts as zero. At zero for
    both, the cut model computes what the student does, but for rounding.

    A convolution that pads its input with zeros sees a constant other than zero end at the border, which no bias can
    say; such channels are cut only with ``borders``, and the result then differs near the borders. Channels of modules
    that are not known to be read in this way stay. At least ``least`` channels of every group stay, those with the
    largest slices. Raises ``SelectionError`` where nothing is dead, unless the cut is ``optional``.
    """

    tolerance: float = 0.0
    gain: float = 0.0
    least: int = 1
    borders: bool = True
    optional: bool = False

    def __post_init__(self) -> None:
        if self.tolerance < 0 or self.gain < 0 or self.least < 1:
            raise SchemeError(f"{self}: give tolerances of 0 or more, and a least number from 1 on")

    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        found = self.find(student, task)
        if found.dead:
            return removal(walk(student.base, task.example()), found.dead, student.base, task.example())
        if self.optional:
            return []
        barriers = "; ".join(found.labels.barriers) or "none"
        raise SelectionError(
            f"no channel of {len(found.labels.free)} is dead: train with a stronger penalty, or allow a larger "
            f"tolerance (operators in the way: {barriers})"
        )

    def values(self, student: Compressed, edits: Sequence[Edit], task: Task) -> Mapping[str, Tensor]:
        cut = Cut(kept_by(edits))
        shifts = self.find(student, task).shifts if cut.kept else {}
        return {name: cut.slice(name, value) for name, value in shifts.items()}

    @torch.no_grad()
    def find(self, student: Compressed, task: Task) -> Dead:
        """The dead channels of a student at rest, and the shifts that make up for their constants."""
        search = _Search(self, student, task)
        unread = [label for label in search.known if search.unread(label)]
        constant = [label for label in search.known if label not in set(unread) and search.unwritten(label)]
        shifted = search.shifted(constant)
        spared = search.spared([*unread, *shifted], self.least)
        dead = tuple(label for label in (*unread, *shifted) if label not in spared)
        return Dead(search.labels, dead, search.shifts({label: shifted[label] for label in dead if label in shifted}))


Constants = dict[Place, float]
"""Column of a weight -> the value that the layer finds there."""


class _Search:
    """One student, its labels, and which layers are followed by which norms."""

    def __init__(self, rule: CutDead, student: Compressed, task: Task) -> None:
        self.rule, self.student, self.task = rule, student, task
        self.model = student.base
        self.labels = walk(self.model, task.example()).labels
        self.slices = slices(self.model, self.labels)
        self.known = [label for label, its in self.slices.items() if not its.others]
        with evaluating(self.model):
            self.norms = dict(foldable(trace(self.model, task.example()), self.model))
        self.state = self.model.state_dict()
        self.largest: dict[tuple[str, int], Tensor] = {}

    def size(self, place: Place) -> float:
        """The largest magnitude in a slice."""
        name, dim, index = place
        if (name, dim) not in self.largest:
            w = self.state[name].detach().abs().movedim(dim, 0)
            self.largest[name, dim] = w.flatten(1).amax(1) if w.ndim > 1 else w
        return float(self.largest[name, dim][index])

    def unread(self, label: int) -> bool:
        reading = self.slices[label].reading
        return bool(reading) and all(self.size(place) <= self.rule.tolerance for place in reading)

    def unwritten(self, label: int) -> bool:
        """Whether zeros write the channel everywhere, or in a depthwise convolution, behind which it was only read."""
        its = self.slices[label]
        written = bool(its.writing) and all(self._closed(place) for place in its.writing)
        return bool(its.reading) and (written or any(self._closed(place) for place in its.passing))

    def _closed(self, place: Place) -> bool:
        return self.size(place) <= self.rule.tolerance or self._gated(place)

    def _gated(self, place: Place) -> bool:
        gain = self._gain(place)
        return gain is not None and self.size(gain) <= self.rule.gain

    def _gain(self, place: Place) -> Place | None:
        """The ``γ`` of a row whose layer is followed by a norm."""
        owner = place[0].rpartition(".")[0]
        name = f"{self.norms[owner]}.weight" if owner in self.norms else ""
        return (name, 0, place[2]) if name in self.state else None

    def shifted(self, candidates: Sequence[int]) -> dict[int, Constants]:
        """Those of the candidates that are constant wherever they are read and can be made up for."""
        if not candidates:
            return {}
        low, high = self._seen(candidates)
        found = {}
        for label in candidates:
            constants: dict[Place, float] = {}
            for place in self.slices[label].reading:
                if self.size(place) <= self.rule.tolerance:
                    continue
                least, most = float(low[place[0]][place[2]]), float(high[place[0]][place[2]])
                if most - least > ALMOST * max(1.0, abs(most)) or not self._taken(place[0], most):
                    break
                constants[place] = (least + most) / 2
            else:
                found[label] = constants
        return found

    def _taken(self, name: str, constant: float) -> bool:
        """Whether the layer of this weight can take a constant of one of its inputs into a bias or a running mean."""
        if constant == 0:
            return True
        owner = name.rpartition(".")[0]
        module = self.model.get_submodule(owner)
        padded = not isinstance(module, nn.Linear) and any(_numbers(module.padding))
        wrapped = not isinstance(module, nn.Linear) and module.padding_mode != "zeros"
        return (self.rule.borders or not padded or wrapped) and self._home(owner) is not None

    def _home(self, owner: str) -> tuple[str, float] | None:
        """What takes a shift of a layer's result, and the sign with which it does."""
        if f"{owner}.bias" in self.state:
            return f"{owner}.bias", 1.0
        return (f"{self.norms[owner]}.running_mean", -1.0) if owner in self.norms else None

    def _seen(self, candidates: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The least and the largest value of every input channel of every layer, with what counts as zero at zero."""
        model = deepcopy(self.model)
        state = model.state_dict()
        for label in candidates:
            for place in (*self.slices[label].writing, *self.slices[label].passing):
                if self._closed(place):
                    gain = self._gain(place) if self._gated(place) else None
                    name, dim, index = gain or place
                    state[name].select(dim, index).zero_()
        low: dict[str, Tensor] = {}
        high: dict[str, Tensor] = {}
        readers = {place[0] for label in candidates for place in self.slices[label].reading}
        for name in readers:
            _watch(model.get_submodule(name.rpartition(".")[0]), name, low, high)
        example = self.task.example()
        with evaluating(model):
            example.run(model)
            for batch in _first(self.task):
                call(model, moved(batch, self.student.device))
        return low, high

    def spared(self, dead: Iterable[int], least: int) -> set[int]:
        """What stays all the same, so that no group and no dimension of a tensor loses all its channels."""
        gone, spared = set(dead), set[int]()
        for group in self.labels.groups():
            doomed = [label for label in group if label in gone]
            short = least - (len(group) - len(doomed))
            if short > 0:
                spared |= set(sorted(doomed, key=self._strength, reverse=True)[:short])
        return spared

    def _strength(self, label: int) -> float:
        its = self.slices[label]
        return max((self.size(place) for place in its.gains or its.writing or its.reading), default=0.0)

    def shifts(self, shifted: Mapping[int, Constants]) -> dict[str, Tensor]:
        """New biases and running means."""
        found: dict[str, Tensor] = {}
        for constants in shifted.values():
            for (name, dim, index), constant in constants.items():
                if constant:
                    home = self._home(name.rpartition(".")[0])
                    assert home is not None
                    w = self.state[name].detach().double().select(dim, index)
                    column = w.reshape(len(w), -1).sum(1)
                    before = found.get(home[0], self.state[home[0]].detach().double())
                    found[home[0]] = before + home[1] * constant * column
        return {name: value.to(self.state[name].dtype) for name, value in found.items()}


def _numbers(padding: object) -> tuple[int, ...]:
    return tuple(padding) if isinstance(padding, tuple) else (1,)  # "same" and "valid" are words: padded, for safety


def _first(task: Task) -> list[object]:
    """The first batch of the task's calibration data, where it has any."""
    return [next(iter(task.calibration_data()))] if task.calibration is not None or task.train is not None else []


def _watch(module: nn.Module, name: str, low: dict[str, Tensor], high: dict[str, Tensor]) -> None:
    """Keep the range of every channel that goes into a layer."""
    behind = 0 if isinstance(module, nn.Linear) else module.get_parameter("weight").ndim - 2

    def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach().movedim(-1 - behind, 0).flatten(1)
        low[name] = torch.minimum(low.get(name, x.amin(1)), x.amin(1))
        high[name] = torch.maximum(high.get(name, x.amax(1)), x.amax(1))

    module.register_forward_pre_hook(note)


@dataclass(frozen=True)
class CutGains(EditRule):
    """Network slimming's cut: the ``share`` of all channels behind batch norms with the least ``|γ|``, as if at zero.

    One threshold for the whole network (Liu et al. 2017, arXiv 1708.06519, section 3). A channel that several norms
    write counts by the largest of their ``|γ|``. What is constant then is made up for as in :class:`CutDead`.
    """

    share: float
    least: int = 1
    borders: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.least < 1:
            raise SchemeError(f"{self}: give a share between 0 and 1, and a least number from 1 on")

    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        return self._rule(student, task).decide(student, task)

    def values(self, student: Compressed, edits: Sequence[Edit], task: Task) -> Mapping[str, Tensor]:
        return self._rule(student, task).values(student, edits, task)

    def _rule(self, student: Compressed, task: Task) -> CutDead:
        """The threshold: the largest ``|γ|`` that goes."""
        labels = walk(student.base, task.example()).labels
        state = student.base.state_dict()
        found = []
        for its in slices(student.base, labels).values():
            gains = [float(state[name][index].abs()) for name, _, index in its.gains]
            found += [max(gains)] if gains and not its.others else []
        if not found:
            raise SelectionError("no channel goes through a batch norm; take a rule that looks at weights")
        ordered = sorted(found)
        return CutDead(0.0, ordered[max(round(self.share * len(ordered)), 1) - 1], self.least, self.borders)
