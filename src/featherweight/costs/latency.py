"""Measured time of a model's layers on an engine, as their sizes change, and of the whole model."""

import copy
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.errors import EngineError, SchemeError
from featherweight.core.hooks import hooked
from featherweight.core.task import Example, Task, evaluating
from featherweight.costs.layers import CostRule, LayerCosts, Shape
from featherweight.costs.operations import CONVOLUTIONS
from featherweight.engines.arrays import arrays_of
from featherweight.engines.engine import Engine, Settings
from featherweight.engines.machine import machine
from featherweight.engines.measure import Contender, measure
from featherweight.engines.measurement import Plan

CACHE = "FEATHERWEIGHT_CACHE"


def cache_folder() -> Path:
    """Where tables are kept: the folder that ``FEATHERWEIGHT_CACHE`` names, else the user's own for caches."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(home) / "featherweight")


@dataclass(frozen=True)
class Latency(CostRule):
    """Milliseconds of a batch on ``engine``: the sum of linear layers and convolutions, each measured by itself.

    A table of layers over their numbers of channels, rounded up to multiples of ``grid``, is measured where it is asked
    for, and kept for this machine and version of the engine (:func:`cache_folder`). A sum of layers is not a model:
    :meth:`actual` measures that, so that a search can correct itself.
    """

    engine: Engine
    batch: int = 32
    threads: int = 1
    grid: int = 8
    seconds: float = 0.1
    plan: Plan = Plan()
    tolerance: float = 0.03

    def __post_init__(self) -> None:
        if min(self.batch, self.threads, self.grid) < 1:
            raise SchemeError("a latency is measured with a batch, threads and a grid of 1 or more")

    def measure(self, student: Compressed, task: Task) -> "LayerTimes":
        return LayerTimes(self, _layers(student.base, self.repeated(task.example())), Table(self))

    def repeated(self, example: Example) -> Example:
        """The example with a batch of ``batch``."""

        def fill(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.ndim:
                return value
            return torch.cat([value] * -(-self.batch // len(value)))[: self.batch]

        return Example(tuple(map(fill, example.args)), {key: fill(each) for key, each in example.kwargs.items()})

    def actual(self, model: nn.Module, original: nn.Module, task: Task) -> float:
        """The time of ``model`` as a share of the original's, by turns; ``EngineError`` where one cannot run."""
        example = task.example()
        with tempfile.TemporaryDirectory(prefix="featherweight-", ignore_cleanup_errors=True) as folder:
            contenders = []
            for label, each in (("original", original), ("cut", model)):
                path = Path(folder) / f"{label}{self.engine.suffix}"
                self.engine.export(each, example, path)
                contenders.append(Contender(label, self.engine.name, path, Settings(self.threads)))
            found = measure(contenders, arrays_of(self.repeated(example)), "original", self.plan)
        return 1 / found.ratio("cut", "original").median


@dataclass(frozen=True)
class Layer:
    """A layer as its time depends on it: its module, to be made again in other sizes, and the input that it gets."""

    module: nn.Module
    given: Shape

    def key(self, shape: Shape) -> str:
        module = self.module
        extra = ""
        if isinstance(module, CONVOLUTIONS):
            extra = f"{module.stride}{module.padding}{module.dilation}{module.groups == 1}"
        return f"{type(module).__name__}{shape}{self.given[:1]}{self.given[2:]}{extra}{module.bias is not None}"

    def resized(self, shape: Shape) -> tuple[nn.Module, Example]:
        """The layer with a weight of this shape, and an input for it."""
        module = copy.deepcopy(self.module)
        module.weight = nn.Parameter(torch.randn(shape))
        if module.bias is not None:
            module.bias = nn.Parameter(torch.randn(shape[0]))
        inputs = shape[1]
        if isinstance(module, CONVOLUTIONS):
            module.groups = 1 if module.groups == 1 else shape[0]
            inputs = shape[1] * module.groups
            given = (self.given[0], inputs, *self.given[2:])
        else:
            given = (*self.given[:-1], inputs)
        return module, Example((torch.randn(given),))


def _layers(model: nn.Module, example: Example) -> dict[str, list[Layer]]:
    """Linear layers and convolutions by their weight's name, once for every call."""
    found: dict[str, list[Layer]] = {}

    def watch(path: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            found.setdefault(f"{path}.weight" if path else "weight", []).append(Layer(module, tuple(args[0].shape)))

        return note

    known = (nn.Linear, *CONVOLUTIONS)
    hooks = (m.register_forward_pre_hook(watch(path)) for path, m in model.named_modules() if isinstance(m, known))
    with hooked(hooks), evaluating(model), torch.no_grad():
        example.run(model)
    return found


class Table:
    """Times by the key of a layer, kept in a file."""

    def __init__(self, rule: Latency) -> None:
        self.rule = rule
        here = machine()
        about = f"{here.cpu}|{here.cores}|{rule.engine.name}|{rule.engine.version()}|{rule.threads}"
        self.path = cache_folder() / f"layers-{sha256(about.encode()).hexdigest()[:16]}.json"
        self.times: dict[str, float] = {}
        if self.path.exists():
            try:
                self.times = {str(key): float(value) for key, value in json.loads(self.path.read_text()).items()}
            except (ValueError, AttributeError) as error:
                raise EngineError(f"the table of layer times {self.path} is damaged; delete it") from error

    def time(self, layer: Layer, shape: Shape) -> float:
        key = layer.key(shape)
        if key not in self.times:
            self.times[key] = self._measured(*layer.resized(shape))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file.save(self.path, json.dumps(self.times, indent=1, sort_keys=True).encode())
        return self.times[key]

    def _measured(self, module: nn.Module, example: Example) -> float:
        """The median of single calls, milliseconds, once the first ones are over."""
        rule = self.rule
        with tempfile.TemporaryDirectory(prefix="featherweight-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / f"layer{rule.engine.suffix}"
            rule.engine.export(module.eval(), example, path)
            runner = rule.engine.open(path, Settings(rule.threads))
            inputs = arrays_of(example)
            samples: list[float] = []
            end = perf_counter() + rule.seconds
            while len(samples) < 7 or perf_counter() < end:
                start = perf_counter()
                runner.run(inputs)
                samples.append(perf_counter() - start)
        return 1e3 * float(np.median(samples[2:]))


@dataclass(frozen=True)
class LayerTimes(LayerCosts):
    """A model's layers and the table of their times."""

    rule: Latency
    layers: Mapping[str, list[Layer]]
    table: Table
    found: dict[tuple[str, Shape], float] = field(default_factory=dict, compare=False)
    unit = "milliseconds"

    def of(self, name: str, shape: Shape) -> float:
        rounded = self._rounded(name, shape)
        if (name, rounded) not in self.found:
            self.found[name, rounded] = sum(self.table.time(each, rounded) for each in self.layers.get(name, ()))
        return self.found[name, rounded]

    def _rounded(self, name: str, shape: Shape) -> Shape:
        """With numbers of channels rounded up to the grid, to no more than the layer has; kernels as they are."""
        if name not in self.layers:
            return shape
        whole = self.layers[name][0].module.get_parameter("weight").shape
        grid = self.rule.grid
        channels = (min(-(-size // grid) * grid, top) for size, top in zip(shape[:2], whole[:2], strict=True))
        return (*channels, *shape[2:])
