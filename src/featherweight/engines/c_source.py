"""A program of integers (:mod:`featherweight.graph.integer`) as C: kernels, constant tables, and a call for each step.

The kernels are those of ``kernels.c`` that the network needs. What a sum goes through before it is stored, clamps and
requantization, is done where it is made, so that sums of 32 bits are seldom in memory: multipliers are positive and
roundings never fall, so that bounds of sums are bounds of what they become. Entries that only move are not moved until
a kernel wants them in a row.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from math import prod
from textwrap import fill
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_arg

from featherweight.core.errors import EngineError, FeatherweightError
from featherweight.core.task import Example
from featherweight.engines.arena import Lifetime, share
from featherweight.graph.fixed_point import HIGHEST, LOWEST, Multiplier
from featherweight.graph.integer import (
    LEFT_SHIFT,
    Add,
    Clamp,
    IntegerProgram,
    Quantize,
    Requantize,
    Step,
    Sum,
    WeightedSum,
)
from featherweight.graph.lower import PADS
from featherweight.graph.sites import PARTS, VIEWS

aten = torch.ops.aten
WIDTHS = (2, 4, 8)
"""Bits that weights are packed in."""
DIMENSIONS = 4
"""Of the kernel that moves entries."""
CHANNEL_BYTES = 12
"""Of ``struct channel``."""


@dataclass(frozen=True)
class Source:
    """A network's C: its text, and the bytes of its weights and biases with multipliers, and of its arena."""

    text: str
    weights: int
    channels: int
    arena: int


@dataclass(eq=False)
class Buffer:
    """Entries of 8 or 32 bits in a row, and what C calls the first, which is known when all buffers are."""

    size: int
    wide: bool
    place: str = ""

    @property
    def bytes(self) -> int:
        return self.size * (4 if self.wide else 1)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor: entry ``i`` of ``layout`` says which entry of the buffer it is."""

    buffer: Buffer
    layout: Tensor  # int32: a view of 0, 1, 2 ... so that strides and offset tell all
    given: str | None = None
    """The input that it is part of, where that is not quantized yet."""

    @classmethod
    def new(cls, shape: Sequence[int], wide: bool, given: str | None = None) -> "Value":
        size = prod(shape)
        return cls(Buffer(size, wide), torch.arange(size, dtype=torch.int32).reshape(*shape), given)

    @property
    def in_a_row(self) -> bool:
        return self.layout.is_contiguous() and self.layout.storage_offset() == 0


@dataclass(frozen=True, eq=False)
class _Call:
    function: str
    arguments: tuple[str | Buffer, ...]

    def __str__(self) -> str:
        return f"{self.function}({', '.join(a if isinstance(a, str) else a.place for a in self.arguments)});"


@dataclass(frozen=True, eq=False)
class _Finish:
    """What sums become: the step whose result it is, and the table of what is done with each channel's."""

    last: Step
    channels: list[tuple[int, ...]]
    wide: bool


def c_source(program: IntegerProgram, example: Example) -> Source:
    """The program as one C file for one sample at a time; the same program gives the same text.

    ``EngineError`` with the operator and its module for a step that has no C, and for a model that is not a function
    of each sample of float32 by itself.
    """
    return _Writer(program, _one_sample(program, example)).source()


def _one_sample(program: IntegerProgram, example: Example) -> dict[str, Any]:
    """What every input and step of the program gives for a sample, which decides on shapes."""
    given = [x for x in (*example.args, *example.kwargs.values()) if isinstance(x, Tensor)]
    if program.dtype != torch.float32 or any(x.dtype != torch.float32 or x.ndim == 0 for x in given):
        raise EngineError("C takes and gives samples of float32 alone; convert the model with .float()")
    generator = torch.Generator().manual_seed(0)
    two = [torch.randn(2, *x.shape[1:], generator=generator) for x in given]
    try:
        first, second = (program(*(x[k : k + 1] for x in two)) for k in range(2))
        same = torch.equal(torch.cat([first, second]), program(*two))
    except (FeatherweightError, RuntimeError) as error:
        raise EngineError(
            f"C takes one sample at a time, and the model does not ({error}); let its first dimension be free"
        ) from error
    if not same or len(first) != 1:
        raise EngineError("C takes one sample at a time, and the model mixes samples; export it for ONNX Runtime")
    return program.results(*(x[:1] for x in two))


class _Writer:
    """Goes through a program in order, and collects tables and calls."""

    def __init__(self, program: IntegerProgram, results: dict[str, Any]) -> None:
        self.program, self.results = program, results
        self.users: dict[str, list[Step]] = {}
        for step in program.steps:
            for name in step.reads:
                self.users.setdefault(name, []).append(step)
        self.values = {name: Value.new(results[name].shape, False, name) for name in program.inputs}
        self.inputs = {name: value.buffer for name, value in self.values.items()}
        self.quantizers: dict[str, Quantize] = {}
        self.tables: list[str] = []
        self.packed: dict[tuple[int, bytes], str] = {}
        self.calls: list[_Call] = []
        self.done: set[str] = set()
        self.weights = self.channels = 0

    def source(self) -> Source:
        for step in self.program.steps:
            if step.name not in self.done and isinstance(self.results[step.name], Tensor):
                _rule(step)(self, step)
        unread = [name for name in self.inputs if name not in self.quantizers]
        if unread:
            raise EngineError(f"nothing quantizes the input {', '.join(unread)}; leave it out of the model's forward")
        output = self._output()
        arena = self._place(output)
        return Source(self._text(output, arena), self.weights, self.channels, arena)

    # Steps

    def quantize(self, step: Step) -> None:
        x, compute = self._value(step), step.compute
        assert isinstance(compute, Quantize) and x.given is not None
        first = self.quantizers.setdefault(x.given, compute)
        if any(getattr(first, key) != getattr(compute, key) for key in ("scale", "zero", "highest")):
            raise _refusal(step, "the input is quantized in several ways; quantize it once, before all else")
        self.values[step.name] = replace(x, given=None)

    def convolve(self, step: Step) -> None:
        compute = step.compute
        assert isinstance(compute, WeightedSum)
        if compute.operator is aten.linear.default:
            return self._multiply(step, compute)
        plane = compute.weight.ndim - 2
        if plane > 2:
            raise _refusal(step, "it runs over three dimensions; use two")
        x, y = self._in_a_row(step, self._value(step)), self._result(step)
        given = list(compute.settings)
        stride, padding, dilation, groups = given + [1, 0, 1, 1][len(given) :]
        taps, steps, gaps = compute.weight.shape[2:], _pair(stride, plane), _pair(dilation, plane)
        if padding == "valid":
            before = [0] * plane
        elif padding == "same":
            before = [gap * (tap - 1) // 2 for gap, tap in zip(gaps, taps, strict=True)]
        else:
            before = _pair(padding, plane)
        finish = self._finish(step, len(compute.weight), compute.bias)
        bits, weight = self._pack(step, compute.weight)
        table = self._table(
            "convolution", step, weight=weight, channels=self._channels(step, finish),
            inputs=self._shape(step)[1], outputs=len(compute.weight), groups=groups,
            zero=compute.zero, wide=int(finish.wide),
            over=_window(self._shape(step), y.shape, taps, steps, before, gaps, plane),
        )  # fmt: skip
        self._call(f"convolve{bits}", table, [x], finish, y.shape)

    def _multiply(self, step: Step, compute: WeightedSum) -> None:
        x, y = self._in_a_row(step, self._value(step)), self._result(step)
        outputs, inputs = compute.weight.shape
        finish = self._finish(step, outputs, compute.bias)
        bits, weight = self._pack(step, compute.weight)
        table = self._table(
            "dense", step, weight=weight, channels=self._channels(step, finish), rows=y.numel() // outputs,
            inputs=inputs, outputs=outputs, zero=compute.zero, wide=int(finish.wide),
        )  # fmt: skip
        self._call(f"multiply{bits}", table, [x], finish, y.shape)

    def add(self, step: Step) -> None:
        compute, y = step.compute, self._result(step)
        assert isinstance(compute, Add)
        operands = [self.values[node.name] for node in step.args]
        given = [self._in_a_row(step, replace(x, layout=x.layout.expand(y.shape))) for x in operands]
        finish = self._finish(step)
        table = self._table(
            "addition", step, to=finish.channels[0], size=y.numel(), left=1 << LEFT_SHIFT, wide=int(finish.wide),
            zeros=compute.zeros, multipliers=[int(m.mantissas) for m in compute.multipliers],
            shifts=[int(m.shifts) for m in compute.multipliers],
        )  # fmt: skip
        self._call("add", table, given, finish, y.shape)

    def total(self, step: Step) -> None:
        compute, y = step.compute, self._result(step)
        assert isinstance(compute, Sum) and isinstance(compute.over, partial)
        x, shape, settings = self._in_a_row(step, self._value(step)), self._shape(step), compute.over.keywords
        if compute.over.func is torch.sum:
            axes = settings["dim"]
            if axes != list(range(axes[0], axes[-1] + 1)):
                raise _refusal(step, f"it averages over dimensions {axes}, which are no neighbours; permute before it")
            count, inner = prod(shape[axes[0] : axes[-1] + 1]), prod(shape[axes[-1] + 1 :])
            maps, taps, steps, before = prod(shape[: axes[0]]), [count, 1], [1, 1], [0, 0]
            over = _window((count, inner), (1, inner), taps, steps, before, [1, 1], 2)
        else:
            taps = _pair(settings["kernel_size"], 2)
            steps, before = _pair(settings.get("stride") or taps, 2), _pair(settings.get("padding", 0), 2)
            maps, over = prod(shape[:-2]), _window(shape, y.shape, taps, steps, before, [1, 1], 2)
        finish = self._finish(step)
        table = self._table(
            "pooling", step, to=finish.channels[0], maps=maps, zero=compute.zero, left=1 << compute.left,
            wide=int(finish.wide), over=over,
        )  # fmt: skip
        self._call("total", table, [x], finish, y.shape)

    def largest(self, step: Step) -> None:
        value, y = self._value(step), self._result(step)
        x, shape = self._in_a_row(step, value), self._shape(step)
        given = list(step.args[1:5])
        taps, stride, padding, dilation = given + [None, (), 0, 1][len(given) :]
        over = _window(
            shape, y.shape, _pair(taps, 2), _pair(stride or taps, 2), _pair(padding, 2), _pair(dilation, 2), 2
        )
        table = self._table(
            "pooling", step, to=(0,) * 6, maps=prod(shape[:-2]), zero=0, left=1, wide=int(x.wide), over=over
        )
        result = Value.new(y.shape, x.wide, value.given)
        self.calls.append(_Call("largest", (f"&{table}", x, result.buffer)))
        self.values[step.name] = result

    def requantize(self, step: Step) -> None:
        compute, x, y = step.compute, self._in_a_row(step, self._value(step)), self._result(step)
        assert isinstance(compute, Requantize)
        shape = compute.multiplier.mantissas.shape
        channels = _become(compute, [], prod(shape))
        finish = _Finish(step, channels, False)
        table = self._table(
            "requantization", step, channels=self._channels(step, finish), size=y.numel(), count=len(channels),
            inner=_inner(shape, y.shape), zero=compute.before, left=1 << compute.left, wide=int(x.wide),
        )  # fmt: skip
        self._call("requantize", table, [x], finish, y.shape)

    def clamp(self, step: Step) -> None:
        compute, x, y = step.compute, self._in_a_row(step, self._value(step)), self._result(step)
        assert isinstance(compute, Clamp)
        rows = list(zip(compute.low.flatten().tolist(), compute.high.flatten().tolist(), strict=True))
        bounds = self._array("int32_t", step, "bounds", map(_initializer, rows), "[2]")
        table = self._table(
            "clamping", step, bounds=bounds, size=y.numel(), count=len(rows), inner=_inner(compute.low.shape, y.shape),
            wide=int(x.wide),
        )  # fmt: skip
        result = Value.new(y.shape, x.wide)
        self.calls.append(_Call("clamp", (f"&{table}", x, result.buffer)))
        self.values[step.name] = result

    def concatenate(self, step: Step) -> None:
        (nodes, *rest), y = step.args, self._result(step)
        axis = (rest[0] if rest else 0) % y.ndim
        parts = [self.values[node.name] for node in nodes]
        result = Value.new(y.shape, parts[0].buffer.wide)
        places = torch.split(result.layout, [part.layout.shape[axis] for part in parts], axis)
        for part, place in zip(parts, places, strict=True):
            self._move(step, part, replace(result, layout=place))
        self.values[step.name] = result

    def pad(self, step: Step) -> None:
        """Zero points around a tensor; sides below zero cut it."""
        x, y, compute = self._value(step), self._result(step), step.compute
        assert isinstance(compute, partial)
        result = Value.new(y.shape, x.buffer.wide)
        inside, kept = result.layout, x.layout
        pairs = list(zip(step.args[1][::2], step.args[1][1::2], strict=True))
        for axis, (low, high) in enumerate(pairs, 1):
            inside = inside.narrow(-axis, max(low, 0), y.shape[-axis] - max(low, 0) - max(high, 0))
            kept = kept.narrow(-axis, max(-low, 0), kept.shape[-axis] - max(-low, 0) - max(-high, 0))
        self.calls.append(_Call("memset", (result.buffer, str(compute.keywords["value"]), str(result.buffer.bytes))))
        self._move(step, replace(x, layout=kept), replace(result, layout=inside))
        self.values[step.name] = result

    def view(self, step: Step) -> None:
        """Entries stay where they are, if strides can tell it; else they are put in a row before."""
        x = self._value(step)
        moved = self._moved(step, x.layout)
        if moved.shape == x.layout.shape and torch.equal(moved, x.layout):
            self.values[step.name] = x
            return
        if moved.untyped_storage().data_ptr() != x.layout.untyped_storage().data_ptr():
            x = self._gathered(step, x)
            moved = self._moved(step, x.layout)
        self.values[step.name] = replace(x, layout=moved)

    def _moved(self, step: Step, layout: Tensor) -> Tensor:
        args, kwargs = map_arg((step.args[1:], dict(step.kwargs)), lambda node: self.results[node.name])
        moved: Tensor = step.compute(layout, *args, **kwargs)
        return moved

    # What steps are made of

    def _value(self, step: Step) -> Value:
        return self.values[_operand(step)]

    def _shape(self, step: Step) -> Sequence[int]:
        """Of the operand."""
        shape: Sequence[int] = self.results[_operand(step)].shape
        return shape

    def _result(self, step: Step) -> Tensor:
        found: Tensor = self.results[step.name]
        return found

    def _in_a_row(self, step: Step, x: Value) -> Buffer:
        return x.buffer if x.in_a_row else self._gathered(step, x).buffer

    def _gathered(self, step: Step, x: Value) -> Value:
        whole = Value.new(x.layout.shape, x.buffer.wide, x.given)
        self._move(step, x, whole)
        return whole

    def _move(self, step: Step, x: Value, to: Value) -> None:
        sizes, strides = _merged(x.layout.shape, x.layout.stride(), to.layout.stride())
        if len(sizes) > DIMENSIONS:
            raise _refusal(
                step, f"entries lie in an order of {len(sizes)} dimensions, and {DIMENSIONS} is the most; permute fewer"
            )
        missing = DIMENSIONS - len(sizes)
        table = self._table(
            "moving", step, sizes=[1] * missing + sizes, **{"from": [0] * missing + [a for a, _ in strides]},
            to=[0] * missing + [b for _, b in strides], from_first=x.layout.storage_offset(),
            to_first=to.layout.storage_offset(), wide=int(x.buffer.wide),
        )  # fmt: skip
        self.calls.append(_Call("move", (f"&{table}", x.buffer, to.buffer)))

    def _finish(self, step: Step, count: int = 1, bias: Tensor | None = None) -> _Finish:
        """The requantization that alone reads a step's sums, directly or through clamps; else sums stay as they are."""
        biases = [0] * count if bias is None else bias.flatten().tolist()
        clamps: list[Clamp] = []
        last, passed = step, set()
        while len(self.users.get(last.name, [])) == 1 and last.name != self.program.output:
            last = self.users[last.name][0]
            passed.add(last.name)
            if isinstance(last.compute, Requantize):
                self.done |= passed
                rows = _become(last.compute, clamps, count)
                return _Finish(last, [(b, *row[1:]) for b, row in zip(biases, rows, strict=True)], False)
            if not isinstance(last.compute, Clamp):
                break
            clamps.append(last.compute)
        return _Finish(step, [(b, 0, 0, 0, 0, 0) for b in biases], True)

    def _call(self, function: str, table: str, given: list[Buffer], finish: _Finish, shape: Sequence[int]) -> None:
        result = Value.new(shape, finish.wide)
        self.calls.append(_Call(function, (f"&{table}", *given, result.buffer)))
        self.values[finish.last.name] = result

    def _pack(self, step: Step, levels: Tensor) -> tuple[int, str]:
        """The fewest bits that hold all levels, and the table of them, which layers with the same levels share."""
        low, high = int(levels.min()), int(levels.max())
        bits = next(b for b in WIDTHS if -(2 ** (b - 1)) <= low and high < 2 ** (b - 1))
        flat = levels.flatten().to(torch.int64)
        per = 8 // bits
        rows = torch.nn.functional.pad(flat, (0, -len(flat) % per)).reshape(-1, per) & (2**bits - 1)
        packed = (rows << (bits * torch.arange(per))).sum(1).to(torch.uint8).numpy()
        key = bits, packed.tobytes()
        if key not in self.packed:
            entries = packed.view("int8") if bits == 8 else packed
            kind = "int8_t" if bits == 8 else "uint8_t"
            self.packed[key] = self._array(kind, step, "weight", map(str, entries.tolist()))
            self.weights += len(packed)
        return bits, self.packed[key]

    def _channels(self, step: Step, finish: _Finish) -> str:
        self.channels += CHANNEL_BYTES * len(finish.channels)
        return self._array("struct channel", step, "channels", map(_initializer, finish.channels))

    def _array(self, kind: str, step: Step, what: str, entries: Iterable[str], each: str = "") -> str:
        found = list(entries)
        name = f"{self._label(step)}_{what}"
        self.tables.append(f"static const {kind} {name}[{len(found)}]{each} = {{\n{_lines(found)}\n}};")
        return name

    def _table(self, kind: str, step: Step, **fields: Any) -> str:
        name = self._label(step)
        entries = [f".{key} = {_initializer(value)}" for key, value in fields.items()]
        self.tables.append(f"static const struct {kind} {name} = {{\n{_lines(entries)}\n}};")
        return name

    def _label(self, step: Step) -> str:
        """A name that is no other's, and that nothing but letters, digits and underscores get into."""
        return f"t{len(self.tables)}_{_identifier(step.module or step.name)}"

    # The file

    def _output(self) -> Buffer:
        """The output's buffer, which is the caller's: what is an input's, or not in a row, is moved there."""
        value = self.values[self.program.output]
        whole = value.in_a_row and value.layout.numel() == value.buffer.size
        if whole and value.buffer not in self.inputs.values():
            return value.buffer
        last = next(step for step in self.program.steps if step.name == self.program.output)
        return self._gathered(last, value).buffer

    def _place(self, output: Buffer) -> int:
        """Give every buffer its place; the bytes of the arena."""
        uses: dict[Buffer, list[int]] = {}
        for number, call in enumerate(self.calls):
            for each in call.arguments:
                if isinstance(each, Buffer):
                    uses.setdefault(each, []).append(number)
        for name, buffer in self.inputs.items():
            buffer.place = f"q_{_identifier(name)}"
        output.place = "output"
        inner = [buffer for buffer in uses if not buffer.place]
        arena = share([Lifetime(each.bytes, uses[each][0], uses[each][-1]) for each in inner])
        for buffer, offset in zip(inner, arena.offsets, strict=True):
            buffer.place = f"arena + {offset // 4}" if buffer.wide else f"memory + {offset}"
        return arena.bytes

    def _text(self, output: Buffer, arena: int) -> str:
        names = [_identifier(name) for name in self.inputs]
        if len(set(names)) < len(names):
            raise EngineError(f"inputs called {', '.join(self.inputs)} have one name in C; rename them in forward")
        shapes = [_shape(self.results[name].shape) for name in self.inputs]
        last = _shape(self.results[self.program.output].shape)
        kind = "int32_t" if output.wide else "uint8_t"
        run = f"void network_run({''.join(f'const uint8_t *q_{name}, ' for name in names)}{kind} *output)"
        quantizers = [
            (f"void network_quantize_{name}(const float *x, uint8_t *q)", buffer.size, self.quantizers[given])
            for name, (given, buffer) in zip(names, self.inputs.items(), strict=True)
        ]
        dequantize = f"void network_dequantize(const {kind} *q, float *y)"
        head = [
            "/* A quantized network in integers of 8 and 32 bits, written by Featherweight.",
            " *",
            *(f" * input {name}: {shape} of 8 bits" for name, shape in zip(names, shapes, strict=True)),
            f" * output: {last} of {32 if output.wide else 8} bits",
            f" * constants: {self.weights} bytes of weights, {self.channels} of biases and multipliers",
            f" * memory: {arena} bytes, static, beside inputs and output, which are the caller's",
            " *",
            " * One sample at a time, its last dimension running fastest; not for two threads at once. Numbers are",
            " * scale * (q - zero): the functions that quantize inputs and dequantize the output know which. For two",
            " * networks in a program, compile one with -Dnetwork_run=..., and so on. C99, no library but string.h. */",
            "#include <stdint.h>",
            "#include <string.h>",
            "",
            *(f"{prototype};" for prototype, _, _ in quantizers),
            f"{run};",
            f"{dequantize};",
        ]  # fmt: skip
        tail = [*(_quantizer(*each) for each in quantizers), self._dequantizer(dequantize, output)]
        uses_bytes = any("memory" in str(call) for call in self.calls)
        body = [
            *([f"static int32_t arena[{arena // 4}];\n"] if arena else []),
            run,
            "{",
            *(["    uint8_t *const memory = (uint8_t *)arena;"] if uses_bytes else []),
            *(f"    {call}" for call in self.calls),
            "}",
        ]
        own = "\n\n".join([*self.tables, "\n".join(body), *tail])
        return "\n".join([*head, "", *_kernels(own), own, ""])

    def _dequantizer(self, prototype: str, output: Buffer) -> str:
        units = self.program.units[self.program.output]
        scales = [repr(scale) for scale in units.scale.flatten().tolist()]
        inner = _inner(units.scale.shape, self.results[self.program.output].shape)
        table = f"    static const double scales[{len(scales)}] = {{\n{_lines(scales, 8)}\n    }};"
        one = len(scales) == 1
        scale = scales[0] if one else f"scales[i / {inner} % {len(scales)}]"
        return "\n".join([
            prototype,
            "{",
            *([] if one else [table]),
            "    int32_t i;",
            f"    for (i = 0; i < {output.size}; i++)",
            f"        y[i] = (float)(((double)q[i] - {units.zero}) * {scale});",
            "}",
        ])  # fmt: skip


def _quantizer(prototype: str, size: int, settings: Quantize) -> str:
    scale = f"{float(settings.scale.float())!r}f"
    return "\n".join([
        prototype,
        "{",
        "    int32_t i;",
        f"    for (i = 0; i < {size}; i++)",
        f"        q[i] = quantized(x[i], {scale}, {settings.zero}, {settings.highest});",
        "}",
    ])  # fmt: skip


def _kernels(own: str) -> list[str]:
    """The sections of ``kernels.c`` that the text needs, and those that they need, in their order."""
    text = files("featherweight.engines").joinpath("kernels.c").read_text("ascii")
    parts = re.split(r"/\* section (\w+) \*/\n", text)[1:]
    sections: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        for bits in WIDTHS if "BITS" in name else (0,):
            sections[name.replace("BITS", str(bits))] = body.strip().replace("BITS", str(bits))
    needed: set[str] = set()
    new = [own]
    while new:
        code = re.sub(r"/\*.*?\*/", "", new.pop(), flags=re.DOTALL)
        found = (set(re.findall(r"\w+", code)) & sections.keys()) - needed
        needed |= found
        new += [sections[name] for name in sorted(found)]
    return [f"{body}\n" for name, body in sections.items() if name in needed]


def _become(compute: Requantize, clamps: Iterable[Clamp], count: int) -> list[tuple[int, ...]]:
    """Rows of ``struct channel`` for sums that are clamped in 32 bits and then requantized."""
    low, high = (torch.full((count,), end, dtype=torch.int32) for end in (LOWEST, HIGHEST))
    for each in clamps:
        low, high = (end.clamp(each.low.flatten(), each.high.flatten()) for end in (low, high))
    m = compute.multiplier
    flat = Multiplier(*(each.flatten().expand(count) for each in (m.mantissas, m.shifts)))
    if compute.left:  # of 8 bits, which no clamp of 32 came before
        ends = [torch.zeros(count), torch.full((count,), compute.highest)]
    else:
        ends = [replace(compute, multiplier=flat)(end) for end in (low, high)]
    columns = (flat.mantissas, flat.shifts, torch.full((count,), compute.after), *ends)
    return [(0, *map(int, row)) for row in zip(*(each.tolist() for each in columns), strict=True)]


def _window(
    given: Sequence[int],
    made: Sequence[int],
    taps: Sequence[int],
    steps: Sequence[int],
    before: Sequence[int],
    gaps: Sequence[int],
    plane: int,
) -> list[int]:
    """The fields of ``struct window``; one dimension is a map of height one."""
    pairs = (given[-plane:], made[-plane:], taps, steps, before, gaps)
    return [n for k, pair in enumerate(pairs) for n in ([0 if k == 4 else 1] * (2 - plane) + list(pair))]


def _merged(sizes: Sequence[int], given: Sequence[int], made: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Sizes, and pairs of strides, of the fewest dimensions that run over the same entries in the same order."""
    kept: list[int] = []
    strides: list[tuple[int, int]] = []
    for size, a, b in zip(sizes, given, made, strict=True):
        if size == 1:
            continue
        if kept and strides[-1] == (a * size, b * size):
            kept[-1] *= size
            strides[-1] = (a, b)
        else:
            kept.append(size)
            strides.append((a, b))
    return kept, strides


def _inner(channels: Sequence[int], shape: Sequence[int]) -> int:
    """Entries in a row that share a channel: ``channels`` is broadcast against ``shape``."""
    axis = next((k for k, size in enumerate(channels) if size > 1), 0)
    return prod(shape[len(shape) - len(channels) + axis + 1 :]) if prod(channels) > 1 else 1


def _operand(step: Step) -> str:
    return str(step.args[0].name)


def _pair(value: Any, count: int) -> list[int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * count if len(values) == 1 else values


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[1:])) or "1"


def _identifier(name: str) -> str:
    """Letters, digits and underscores, and so nothing that C could take for more than a part of a name."""
    return re.sub(r"[^0-9A-Za-z]+", "_", name)[:40].strip("_") or "unnamed"


def _word(value: int) -> str:
    """A number of 32 bits: the lowest is no literal in C."""
    return "INT32_MIN" if value == LOWEST else str(value)


def _initializer(value: Any) -> str:
    return f"{{{', '.join(map(_word, value))}}}" if isinstance(value, list | tuple) else str(value)


def _lines(entries: Iterable[str], indent: int = 4) -> str:
    space = " " * indent
    return fill(
        ", ".join(each.replace(" ", "\0") for each in entries),
        110, initial_indent=space, subsequent_indent=space, break_long_words=False, break_on_hyphens=False,
    ).replace("\0", " ")  # fmt: skip


def _name(step: Step) -> str:
    compute: Any = step.compute
    operator = {WeightedSum: lambda: compute.operator, Sum: lambda: compute.over.func}.get(type(compute))
    target = operator() if operator else _target(compute) if _target(compute) else type(compute).__name__
    return f"{target} in {step.module or 'the model'}"


def _refusal(step: Step, reason: str) -> EngineError:
    return EngineError(f"{_name(step)} cannot be written as C: {reason}, or export it for ONNX Runtime (.onnx)")


def _target(compute: Callable[..., Any]) -> Any:
    found = compute.func if isinstance(compute, partial) else compute
    return found if isinstance(found, torch._ops.OpOverload) else None


_Rule = Callable[[_Writer, Step], None]
RULES: dict[Any, _Rule] = {
    Quantize: _Writer.quantize,
    Requantize: _Writer.requantize,
    WeightedSum: _Writer.convolve,
    Add: _Writer.add,
    Sum: _Writer.total,
    Clamp: _Writer.clamp,
    aten.max_pool2d.default: _Writer.largest,
    aten.cat.default: _Writer.concatenate,
    **dict.fromkeys(PADS, _Writer.pad),
    **dict.fromkeys((VIEWS | PARTS) - PADS - {aten.max_pool2d.default}, _Writer.view),
}  # fmt: skip
"""What is computed -> how it is written."""


def _rule(step: Step) -> _Rule:
    rule = RULES.get(type(step.compute)) or RULES.get(_target(step.compute))
    if rule is None:
        raise _refusal(step, "no rule writes it; replace it in the model by operations that have one")
    return rule
