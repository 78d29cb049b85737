"""Modelled energy of a model's layers on a spatial accelerator: counts of operations and accesses, each at a price.

A model of relative costs, in units of one multiply-accumulate: nothing here was measured on a device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.hooks import hooked
from featherweight.core.site import parameters
from featherweight.core.task import Task, calibration_batches, call, evaluating
from featherweight.costs.layers import CostRule, LayerCosts, Shape
from featherweight.costs.operations import CONVOLUTIONS, COUNTED
from featherweight.metrics.responses import batch_size


@dataclass(frozen=True)
class EnergyTable:
    """What one multiply-accumulate costs, and one access to a word at each level of the memory hierarchy.

    ``array`` is a word passed between processing elements. All are for words of ``width`` bits.
    """

    mac: float = 1.0
    registers: float = 1.0
    array: float = 2.0
    buffer: float = 6.0
    dram: float = 200.0
    width: int = 16


EYERISS = EnergyTable()
"""Relative costs of a 65 nm process: Chen, Emer and Sze 2016 (Eyeriss, ISCA), table IV (memory)."""


@dataclass(frozen=True)
class Reuse:
    """How often a word is fetched from each level for one fetch from the level above; the product is its uses.

    The split of Chen, Emer and Sze 2016, section VI: ``a`` from DRAM, ``b`` from the buffer, ``c`` across the array,
    ``d`` from registers.
    """

    dram: float
    buffer: float
    array: float
    registers: float

    def moved(self, table: EnergyTable) -> float:
        """What a word that is read costs on its way to the registers: ``a E_dram + ab E_buffer + abc E_array``."""
        a, b, c = self.dram, self.buffer, self.array
        return a * table.dram + a * b * table.buffer + a * b * c * table.array

    def read(self, table: EnergyTable) -> float:
        """What its reads from registers cost: ``abcd E_registers``."""
        return self.dram * self.buffer * self.array * self.registers * table.registers

    def summed(self, table: EnergyTable) -> float:
        """What a sum costs above the registers: ``2a(b − 1) E_buffer + ab(c − 1) E_array``, where all stay on chip."""
        a, b, c = self.dram, self.buffer, self.array
        return 2 * a * (b - 1) * table.buffer + a * b * (c - 1) * table.array

    def accumulated(self, table: EnergyTable) -> float:
        """What its reads and writes in registers cost: ``2abc(d − 1) E_registers``."""
        return 2 * self.dram * self.buffer * self.array * (self.registers - 1) * table.registers


@dataclass(frozen=True)
class Use:
    """One call of a layer, for one sample.

    groups     of a convolution; 1 of a linear layer
    inputs     entries of one input channel; of a linear layer the vectors that it is given
    height     rows of an output channel; 1 of a linear layer
    width      entries of such a row; of a linear layer the vectors again
    density    the share of inputs that are not zero
    """

    groups: int
    inputs: float
    height: float
    width: float
    density: float


@dataclass(frozen=True)
class RowStationary:
    """Which reuse a layer gets: rows of filters stay in processing elements, rows of inputs and of sums pass by.

    Chen, Emer and Sze 2016, section V, idealised: the array holds a whole plane of ``R`` rows of the kernel by the
    ``E`` rows of the output, the buffer holds all inputs and sums of a sample, and so every weight and input comes from
    DRAM once and every output goes there once. An element holds rows of ``filters`` filters and ``channels`` input
    channels at once. Then, of a kernel [R, S], an output [E, F], and ``C`` inputs and ``M`` outputs of each group:

    - a weight has ``E · F`` uses: it is sent to the ``E`` elements of its row, and used ``F`` times in each;
    - an input has ``M R S E F / (inputs of a channel)`` uses: it is read from the buffer once for every ``filters``
      filters, sent along a diagonal to ``R`` elements, and used from their registers for the rest;
    - a sum has ``C R S`` terms: it is put off to the buffer once for every ``channels`` channels, passed along ``R``
      elements, and the rest is added up in registers.

    Both numbers of what an element holds are ours; the chip's own mapper chooses them layer by layer.
    """

    filters: int = 16
    channels: int = 4

    def __post_init__(self) -> None:
        if min(self.filters, self.channels) < 1:
            raise SchemeError(f"{self}: a processing element holds rows of 1 filter and 1 channel or more")

    def weights(self, shape: Shape, use: Use) -> Reuse:
        return Reuse(1, 1, use.height, use.width)

    def inputs(self, shape: Shape, use: Use) -> Reuse:
        filters, kernel = shape[0] / use.groups, _kernel(shape)
        uses = filters * prod(kernel) * use.height * use.width / use.inputs
        buffer = min(max(filters / self.filters, 1.0), uses)
        array = min(kernel[0], uses / buffer)
        return Reuse(1, buffer, array, uses / (buffer * array))

    def sums(self, shape: Shape, use: Use) -> Reuse:
        rows, columns = _kernel(shape)
        within = min(self.channels, shape[1])
        return Reuse(1, shape[1] / within, rows, columns * within)


def _kernel(shape: Shape) -> tuple[int, int]:
    """Rows and entries of a row: 1 by 1 of a linear layer, 1 by k of a convolution along one dimension."""
    spatial = shape[2:]
    return (spatial[0], prod(spatial[1:])) if len(spatial) > 1 else (1, prod(spatial))


@dataclass(frozen=True)
class Energy(CostRule):
    """Energy of linear layers and convolutions for one sample: operations and accesses by ``dataflow`` and ``table``.

    The sum over layers of ``MACs · E_mac + Σ_levels accesses · E_level`` (Yang, Chen and Sze 2017, arXiv 1611.05128,
    section 3), with

    - **bits**: an access costs by the word's ``weight_bits`` or ``input_bits``, a product by both, each relative to the
      table's width; sums have that width, and go to DRAM in ``input_bits``;
    - **zeros**: a product with a zero is skipped with its reads and writes of registers, as if weights and inputs were
      zero independently; between memories words travel without their zeros, with ``index_bits`` for each that is left,
      where that is shorter. Outputs are written in full.

    Densities of weights are the student's, those of inputs are of the first batch of calibration data. ``SchemeError``
    for a model with recurrent or transposed layers, whose dataflow is not described here.
    """

    table: EnergyTable = EYERISS
    dataflow: RowStationary = RowStationary()
    weight_bits: int = 16
    input_bits: int = 16
    index_bits: int = 4

    def __post_init__(self) -> None:
        if min(self.weight_bits, self.input_bits) < 1 or self.index_bits < 0:
            raise SchemeError(f"{self}: words have 1 bit or more, and indices 0 or more")

    @torch.no_grad()
    def measure(self, student: Compressed, task: Task) -> "LayerEnergies":
        densities = {
            name: float(student.weight(name).count_nonzero()) / student.weight(name).numel() for name in student.names
        }
        return LayerEnergies(self, _uses(student, task), densities)

    def compressed(self, density: float, bits: int) -> float:
        """The share of ``bits`` at which a word travels, zeros left out where that is shorter, in the table's words."""
        return min(1.0, density * (bits + self.index_bits) / bits) * bits / self.table.width


@dataclass(frozen=True)
class Spent:
    """Energy of one call of a layer by what it is spent on.

    macs                   products
    registers              reads and writes within processing elements
    weights, inputs, sums  their ways between DRAM, buffer and elements
    """

    macs: float
    registers: float
    weights: float
    inputs: float
    sums: float

    @property
    def total(self) -> float:
        return self.macs + self.registers + self.weights + self.inputs + self.sums


@dataclass(frozen=True)
class LayerEnergies(LayerCosts):
    """The layers of a model, and how dense they were."""

    rule: Energy
    uses: Mapping[str, tuple[Use, ...]]
    densities: Mapping[str, float]
    unit = "multiply-accumulates' energy"

    def of(self, name: str, shape: Shape) -> float:
        return sum(self.spent(shape, use, self.densities[name]).total for use in self.uses.get(name, ()))

    def spent(self, shape: Shape, use: Use, density: float) -> Spent:
        """Of one call of a layer with a weight of this shape and density."""
        rule, table, flow = self.rule, self.rule.table, self.rule.dataflow
        weights, inputs, sums = (reuse(shape, use) for reuse in (flow.weights, flow.inputs, flow.sums))
        words = shape[1] * use.groups * use.inputs
        outputs = shape[0] * use.height * use.width
        done = density * use.density  # of the products
        wide, narrow = rule.weight_bits / table.width, rule.input_bits / table.width
        registers = (
            prod(shape) * weights.read(table) * wide
            + words * inputs.read(table) * narrow
            + outputs * sums.accumulated(table)
        )
        return Spent(
            macs=prod(shape) * use.height * use.width * done * wide * narrow * table.mac,
            registers=done * registers,
            weights=prod(shape) * weights.moved(table) * rule.compressed(density, rule.weight_bits),
            inputs=words * inputs.moved(table) * rule.compressed(use.density, rule.input_bits),
            sums=outputs * (sums.summed(table) + sums.dram * table.dram * narrow),
        )


def _uses(student: Compressed, task: Task) -> dict[str, tuple[Use, ...]]:
    """Every weight's calls, by its first name, on the first batch of calibration data."""
    found: dict[str, tuple[Use, ...]] = {}
    first = {name: names[0] for _, names, _ in parameters(student.base) for name in names}

    def watch(path: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            name = first[f"{path}.weight" if path else "weight"]
            found[name] = (*found.get(name, ()), _use(module, args[0], output, samples))

        return note

    layers = {path: module for path, module in student.base.named_modules() if isinstance(module, COUNTED)}
    for path, module in layers.items():
        if not isinstance(module, (nn.Linear, *CONVOLUTIONS)):
            raise SchemeError(f"the energy of a {type(module).__name__} ({path}) is not modelled; count Macs instead")
    (batch,) = calibration_batches(student, task, 1)
    samples = batch_size(batch)
    with hooked(module.register_forward_hook(watch(path)) for path, module in layers.items()), evaluating(student):
        call(student, batch)
    return found


def _use(module: nn.Module, given: Tensor, output: Tensor, samples: int) -> Use:
    density = float(given.count_nonzero()) / given.numel()
    if isinstance(module, nn.Linear):
        vectors = given.numel() / module.in_features / samples
        return Use(1, vectors, 1, vectors, density)
    assert isinstance(module, CONVOLUTIONS)
    spatial = output.shape[2 - module.weight.ndim :]
    height = spatial[0] if len(spatial) > 1 else 1
    channel = output.numel() / module.out_channels / samples
    return Use(module.groups, given.numel() / module.in_channels / samples, height, channel / height, density)
