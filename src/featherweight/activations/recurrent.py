"""Which signals within an LSTM are quantized, and to what range: a rule for stages."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from featherweight.activations.quantizers import Quantizer
from featherweight.activations.ranges import Observer, Watch
from featherweight.core.compressed import Compressed
from featherweight.core.edit import Edit
from featherweight.core.errors import SchemeError, SelectionError, naming
from featherweight.core.stage import EditRule
from featherweight.core.task import Task, call, evaluating, moved
from featherweight.graph.recurrent import SIGNALS, Step, step, steppable

BOUNDS: Mapping[str, tuple[float, float]] = {"gates": (0.0, 1.0), "candidate": (-1.0, 1.0), "hidden": (-1.0, 1.0)}
"""What no signal of an LSTM goes past: those of a sigmoid, and of a hyperbolic tangent."""


@dataclass(frozen=True)
class QuantizedSignals(EditRule):
    """Let LSTMs run step by step, with their signals quantized.

    ``bits`` maps patterns on signals, ``lstm.hidden_l0``, to bits; the first match wins, and what none matches stays
    as it is. Ranges are what ``observer`` makes of ``batches`` calibration batches, seen in the student as it stands;
    without one they are those of the functions that the signals come out of (:data:`BOUNDS`), which needs no data, and
    for which ``SchemeError`` where a signal has none. Levels are symmetric about zero where a signal has both signs.
    ``SelectionError`` where no LSTM has a matching signal.
    """

    bits: Mapping[str, int] = field(default_factory=lambda: {"*": 8})
    observer: Observer[Any] | None = None
    batches: int = 4

    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        layers = {path: steppable(module) for path, module in student.base.named_modules()}
        names = {
            path: [f"{kind}_l{number}" for number in range(layer.num_layers) for kind in SIGNALS]
            for path, layer in layers.items()
            if layer is not None
        }
        wanted = {p: {n: bits for n in each if (bits := self._bits(f"{p}.{n}"))} for p, each in names.items()}
        wanted = {path: given for path, given in wanted.items() if given}
        if not wanted:
            raise SelectionError(f"no signal of an LSTM of one direction matches {', '.join(self.bits)}")
        ranges = self._seen(student, task, wanted) if self.observer else _bounds(wanted)
        made = {
            path: {name: _settings(ranges[path, name], bits) for name, bits in given.items()}
            for path, given in wanted.items()
        }
        return [Step(made)]

    def _bits(self, signal: str) -> int | None:
        return next((bits for pattern, bits in self.bits.items() if fnmatchcase(signal, pattern)), None)

    @torch.no_grad()
    def _seen(
        self, student: Compressed, task: Task, wanted: Mapping[str, Mapping[str, int]]
    ) -> dict[tuple[str, str], tuple[float, float]]:
        assert self.observer is not None
        watches = {(path, name): self.observer.start() for path, given in wanted.items() for name in given}
        probe = deepcopy(student)
        for path, given in wanted.items():
            layer = steppable(probe.base.get_submodule(path))
            assert layer is not None
            step(layer, {name: _Noting(watches[path, name]) for name in given})
        with evaluating(probe):
            for batch in islice(task.calibration_data(), self.batches):
                call(probe, moved(batch, student.device))
        found = {}
        for (path, name), watch in watches.items():
            with naming(f"the signal {path}.{name}"):
                fit = watch.range(wanted[path][name], watch.statistics.low < 0)
            found[path, name] = (fit.low, fit.high)
        return found


def _bounds(wanted: Mapping[str, Mapping[str, int]]) -> dict[tuple[str, str], tuple[float, float]]:
    unbounded = [f"{path}.{name}" for path, given in wanted.items() for name in given if _kind(name) not in BOUNDS]
    if unbounded:
        raise SchemeError(f"{', '.join(unbounded)} can be of any size; give an observer, which finds the range")
    return {(path, name): BOUNDS[_kind(name)] for path, given in wanted.items() for name in given}


def _kind(name: str) -> str:
    return name.rpartition("_l")[0]


def _settings(ends: tuple[float, float], bits: int) -> tuple[int, int, float]:
    made = Quantizer.covering(*ends, bits, symmetric=True)
    return made.bits, made.lowest, made.scale.item()


@dataclass(frozen=True)
class _Noting:
    watch: Watch[Any]

    def __call__(self, x: Tensor) -> Tensor:
        self.watch.add(x)
        return x
