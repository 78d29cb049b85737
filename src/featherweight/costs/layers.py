"""What a model costs as its layers change their sizes: sums over weights, for searches."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import nn

from featherweight.core.compressed import Compressed
from featherweight.core.task import Task
from featherweight.costs.operations import uses

Shape = tuple[int, ...]


class LayerCosts(ABC):
    """A cost that is a sum over the weights of a model, each by its shape."""

    unit: str

    @abstractmethod
    def of(self, name: str, shape: Shape) -> float:
        """What the layer of this weight costs with a weight of this shape; 0 for a weight that costs nothing."""

    def total(self, shapes: Mapping[str, Shape]) -> float:
        return sum(self.of(name, shape) for name, shape in shapes.items())


class CostRule(ABC):
    """How a cost is measured, on the student as it stands.

    ``tolerance`` is how near to a limit a search comes, as a share of it, where the sum over layers is an estimate.
    """

    tolerance: float = 0.0

    @abstractmethod
    def measure(self, student: Compressed, task: Task) -> LayerCosts:
        """The cost of every layer by its shape."""

    def actual(self, model: nn.Module, original: nn.Module, task: Task) -> float | None:
        """What the whole model costs as a share of the original; ``None`` where the sum over layers is the cost."""
        return None


@dataclass(frozen=True)
class _Macs(LayerCosts):
    times: Mapping[str, float]
    unit = "multiply-accumulates"

    def of(self, name: str, shape: Shape) -> float:
        return self.times.get(name, 0.0) * prod(shape)


@dataclass(frozen=True)
class Macs(CostRule):
    """Multiply-accumulates of linear, convolution and recurrent layers for one sample of the example input."""

    def measure(self, student: Compressed, task: Task) -> LayerCosts:
        return _Macs(uses(student.base, task.example()))


@dataclass(frozen=True)
class _Parameters(LayerCosts):
    unit = "parameters"

    def of(self, name: str, shape: Shape) -> float:
        return prod(shape)


@dataclass(frozen=True)
class Parameters(CostRule):
    """Numbers of parameters."""

    def measure(self, student: Compressed, task: Task) -> LayerCosts:
        return _Parameters()
