"""Running a quantized model on integers only, as hardware without floating point does.

A reference, not an engine: it proves that a student whose activations are tapped needs nothing but integers of 8 and 32
bits between its inputs and its outputs. Numbers are ``r = s (q − z)`` (Jacob et al. 2017, arXiv 1712.05877, section
2.1); layers add up products of 8 bits in 32 (sections 2.3, 2.4) and come back to 8 bits by fixed-point multipliers
(:mod:`featherweight.graph.fixed_point`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_arg

from featherweight.core.errors import SchemeError
from featherweight.graph.fixed_point import HIGHEST, LOWEST, Multiplier

LEFT_SHIFT = 20
"""Integers of 8 bits are multiplied by 2²⁰ before a multiplier, as TensorFlow Lite's addition does it.

A multiplier rounds twice. Of sums of many bits that is seldom seen; of small integers the first rounding would decide.
"""


@dataclass(frozen=True, eq=False)
class Units:
    """What the integers of a tensor stand for: ``scale · (q − zero)``, with no ``|q − zero|`` above ``reach``.

    ``highest`` is that of integers of at most 8 bits from zero, held in uint8; ``None`` where they have 32, in int32.
    """

    scale: Tensor  # float64: one number, or one a channel, broadcast against the integers
    zero: int
    reach: int
    highest: int | None = None

    @property
    def stored(self) -> bool:
        return self.highest is not None

    def real(self, q: Tensor) -> Tensor:
        """The numbers that the integers stand for, in float64."""
        return (q.double() - self.zero) * self.scale


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a program. Nodes among ``args`` and ``kwargs`` stand for values of earlier steps or inputs."""

    name: str
    module: str
    compute: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    units: Units | None
    """``None`` for sizes, and for inputs before they are quantized."""

    @property
    def reads(self) -> list[str]:
        """Names of the inputs and earlier steps that it takes, as often as it takes them."""
        found: list[str] = []
        map_arg((self.args, dict(self.kwargs)), lambda node: found.append(node.name))
        return found


@dataclass(frozen=True, eq=False)
class IntegerProgram:
    """A model as operations on integers. Inputs are what the model takes, or the integers that stand for it.

    Integers are taken for an input that is quantized before all else, in one way.
    """

    inputs: Mapping[str, Units | None]
    """Name of each input -> what integers given for it mean; ``None`` where only numbers can be given."""
    steps: tuple[Step, ...]
    output: str
    dtype: torch.dtype

    @property
    def units(self) -> Mapping[str, Units]:
        """What the integers of each step mean, by its name."""
        return {step.name: step.units for step in self.steps if step.units is not None}

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Tensor:
        """The model's output: the last integers as numbers."""
        last = {name: number for number, step in enumerate(self.steps) for name in step.reads}
        last[self.output] = len(self.steps)
        values: dict[str, Any] = {}
        for number, (name, value) in enumerate(self._run(inputs, values)):
            values[name] = value
            for done in [each for each in values if last.get(each, number) <= number]:
                del values[done]
        return self.units[self.output].real(values[self.output]).to(self.dtype)

    def values(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The integers of every step, by its name; :attr:`units` says what they mean."""
        found = self.results(*inputs)
        return {name: found[name] for name in self.units}

    @torch.no_grad()
    def results(self, *inputs: Tensor) -> dict[str, Any]:
        """What is given for every input and comes of every step, sizes too, by its name."""
        values: dict[str, Any] = {}
        for name, value in self._run(inputs, values):
            values[name] = value
        return values

    def _run(self, inputs: Sequence[Tensor], values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        if len(inputs) != len(self.inputs):
            raise SchemeError(f"the program takes {len(self.inputs)} inputs ({', '.join(self.inputs)})")
        for (name, units), x in zip(self.inputs.items(), inputs, strict=True):
            if not x.is_floating_point() and units is None:
                raise SchemeError(
                    f"integers mean nothing for the input {name}, which is quantized in no or several ways"
                )
            values[name] = x
        for step in self.steps:
            args, kwargs = map_arg((step.args, dict(step.kwargs)), lambda node: values[node.name])
            yield step.name, step.compute(*args, **kwargs)


def int32(x: Tensor) -> Tensor:
    """The same integers held in 32 bits; ``SchemeError`` where they do not fit. Never wraps."""
    if x.numel() and (x.min() < LOWEST or x.max() > HIGHEST):
        raise SchemeError(f"integers up to {float(x.abs().max()):.0f} do not fit 32 bits")
    return x.to(torch.int32)


@dataclass(frozen=True, eq=False)
class Quantize:
    """``clamp(round(x / s) + z, 0, h)`` of an input, as the model's own quantizer does; integers are checked alone."""

    scale: Tensor
    zero: int
    highest: int

    def __call__(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            return torch.div(x, self.scale).round().add(self.zero).clamp(0, self.highest).to(torch.uint8)
        if x.numel() and (x.min() < 0 or x.max() > self.highest):
            raise SchemeError(f"integers of an input are in 0..{self.highest}, not {int(x.min())}..{int(x.max())}")
        return x.to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Requantize:
    """``clamp(z' + M 2ᵏ (q − z), 0, h)`` with a multiplier ``M = 2⁻ᵏ s / s'`` (section 2.4); ``k`` is 0 for sums."""

    multiplier: Multiplier
    left: int
    before: int
    after: int
    highest: int

    def __call__(self, q: Tensor) -> Tensor:
        scaled = self.multiplier((q.long() - self.before) << self.left)
        return scaled.add_(self.after).clamp_(0, self.highest).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class WeightedSum:
    """A convolution or linear layer: ``Σ w (q − z) + b``, zeros of a border being zero points.

    ``operator`` adds up in float64, where integers below 2⁵³ are exact in any order.
    """

    operator: Callable[..., Tensor]
    weight: Tensor  # int8
    bias: Tensor  # int32, of a channel, broadcast against the result
    zero: int
    settings: tuple[Any, ...]

    def __call__(self, q: Tensor) -> Tensor:
        total = self.operator(q.double() - self.zero, self.weight.double(), None, *self.settings)
        return int32(total.add_(self.bias))


@dataclass(frozen=True, eq=False)
class Add:
    """``M₁ 2²⁰ (q₁ − z₁) + M₂ 2²⁰ (q₂ − z₂)`` with ``Mᵢ = sᵢ / 2 max(s₁, s₂)``, in units of ``2⁻²⁰ · 2 max(s₁, s₂)``.

    Both operands come to one scale before they are added (appendix A.2), by shifts and multipliers alone.
    """

    multipliers: tuple[Multiplier, Multiplier]
    zeros: tuple[int, int]

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        pairs = zip((first, second), self.zeros, self.multipliers, strict=True)
        left, right = (times((q.long() - zero) << LEFT_SHIFT) for q, zero, times in pairs)
        return int32(left + right)


@dataclass(frozen=True, eq=False)
class Sum:
    """``2ᵏ Σ (q − z)`` over dimensions or windows: an average is that in units of ``2⁻ᵏ s / n``.

    Nothing is rounded before the result is brought to 8 bits, and ``k`` is the largest that 32 bits have room for.
    """

    over: Callable[[Tensor], Tensor]
    left: int
    zero: int

    def __call__(self, q: Tensor) -> Tensor:
        return int32(self.over(q.double() - self.zero) * 2**self.left)


@dataclass(frozen=True, eq=False)
class Clamp:
    """``clamp(q, low, high)``, of 8 or 32 bits: ReLU and ReLU6 before or after requantization."""

    low: Tensor  # of the type of q, as is high
    high: Tensor

    def __call__(self, q: Tensor) -> Tensor:
        return q.clamp(self.low, self.high)
