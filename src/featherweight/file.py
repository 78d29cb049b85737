"""The ``.fwt`` file: saving and loading. ``docs/format.md`` is its specification."""

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import isfinite, prod
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featherweight.activations.dynamic import DynamicQuantizer
from featherweight.activations.learned import HalfWave
from featherweight.activations.logarithmic import LogQuantizer
from featherweight.activations.quantizers import Quantizer, Sign
from featherweight.activations.runtime import RuntimeGate
from featherweight.coding import Decoder, Encoder, Reader, Writer, cost, open_sealed, seal, write_atomic
from featherweight.core.code import Code, Layout
from featherweight.core.compressed import Compressed
from featherweight.core.edit import Edit
from featherweight.core.errors import FeatherweightError, FormatError, naming
from featherweight.core.shared import Reference, mapped, referenced, resolved
from featherweight.core.site import parameters
from featherweight.core.tap import Call, Function, Operator, Place, StoredFunction, TapSite
from featherweight.graph.attributes import SetSizes
from featherweight.graph.biases import Unbias
from featherweight.graph.cut import Cut
from featherweight.graph.depth import Skip
from featherweight.graph.fold import Fold
from featherweight.graph.groups import Group
from featherweight.graph.recurrent import Step
from featherweight.graph.rewrite import CutGraph
from featherweight.schemes.codebook import CodebookCode
from featherweight.schemes.fixed_point import FixedPointCode
from featherweight.schemes.floats import Exact, Float, Floats, Width
from featherweight.schemes.logarithmic import LogCode
from featherweight.schemes.lowrank import LowRankCode
from featherweight.schemes.mixture import MixtureCode
from featherweight.schemes.plus import PlusCode
from featherweight.schemes.product import ProductCode
from featherweight.schemes.split import SplitCode
from featherweight.schemes.supports import BoxSparseCode, RunSparseCode, SparseCode
from featherweight.schemes.tables import TableCode
from featherweight.schemes.ternary import TernaryCode
from featherweight.schemes.uniform import UniformCode

KINDS: dict[int, type[Code]] = {
    0: Floats,
    1: Exact,
    2: SparseCode,
    3: UniformCode,
    4: CodebookCode,
    5: LowRankCode,
    6: PlusCode,
    7: LogCode,
    8: TernaryCode,
    9: TableCode,
    10: Reference,
    12: MixtureCode,
    14: SplitCode,
    15: FixedPointCode,
    16: ProductCode,
    17: BoxSparseCode,
    18: RunSparseCode,
}
"""Number in a file -> class. A number is never given to another class."""

EDITS: dict[str, type[Edit]] = {
    each.identifier: each for each in (Cut, CutGraph, Fold, Group, SetSizes, Skip, Step, Unbias)
}
"""Name in a file -> class of a structural edit."""

FUNCTIONS: dict[str, type[StoredFunction]] = {
    each.identifier: each for each in (Quantizer, Sign, HalfWave, LogQuantizer, DynamicQuantizer, RuntimeGate)
}
"""Name in a file -> class of what activations are sent through."""

BUILT_IN, PLAIN, PACKED = 0, 1, 2
"""Kinds of headers: a task's number and claims; JSON; deflated JSON."""
HEADER_BYTES, HEADER_LISTS = 1 << 24, 1 << 18
"""A deflated header is no longer than this, and has no more lists and tables: reading it takes bounded memory."""
CALLS = 1 << 20
"""Calls of one operator by one module, and operands of one call, that a file can name."""
DEPTH, SETTINGS, PARTS = 6, 8, 4
"""Limits of a layout: nesting, integers and parts a code."""

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float32, torch.float16, torch.bfloat16, torch.float64,
        torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Claims:
    """What was measured before saving, as sums of the task's scores over ``samples`` evaluation samples.

    ``lost`` counts the samples on which the parent scores higher than the model, ``won`` the reverse; for accuracy
    these are the discordant pairs of McNemar's test.
    """

    samples: int
    total: float
    parent: float
    lost: int

    @property
    def won(self) -> int:
        """For scores of 0 and 1: samples that the parent got wrong and the model right."""
        return round(self.total - self.parent) + self.lost


@dataclass(frozen=True)
class Slot:
    """One tensor of a model's state: its first name, shape and type, and its other names where it is tied."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """What a file says besides its codes. ``slots`` is empty for a built-in task, whose architecture names them."""

    number: int | None = None
    claims: Claims | None = None
    slots: tuple[Slot, ...] = ()
    task: str | None = None
    recipe: str = ""
    edits: tuple[Edit, ...] = ()
    taps: tuple[TapSite, ...] = ()

    @classmethod
    def read(cls, reader: Reader) -> "Header":
        """Read a header of any kind; ``FormatError`` for anything that :func:`encode` does not write."""
        kind = reader.unsigned()
        if kind == BUILT_IN:
            return cls(number=reader.unsigned(), claims=_read_claims(reader))
        if kind == PLAIN:
            return cls.parse(reader.text())
        if kind == PACKED:
            return cls.parse(_inflated(reader.blob()))
        raise FormatError(f"a header of kind {kind} is unknown; a newer version may know it")

    @classmethod
    def parse(cls, text: str) -> "Header":
        """Read the JSON of a header."""
        try:
            record = json.loads(text)
            return cls(
                number=_optional(record, "number", int),
                claims=Claims(*_claims_record(record["claims"])) if "claims" in record else None,
                slots=_tensors(record),
                task=_optional(record, "task", str),
                recipe=_optional(record, "recipe", str) or "",
                edits=tuple(EDITS[name].from_json(value) for name, value in record.get("edits", [])),
                taps=_taps(record.get("taps", [])),
            )
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise FormatError(f"the header is not one that Featherweight writes ({reason})") from error


def _inflated(data: bytes) -> str:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, HEADER_BYTES + 1)
        if len(text) <= HEADER_BYTES and (not unpacker.eof or unpacker.unused_data):
            raise ValueError("it is cut short, or has something behind it")
        return _bounded(text).decode()
    except (zlib.error, ValueError) as error:
        raise FormatError(f"the packed header cannot be read ({error})") from error


def _deflated(text: str) -> bytes:
    return zlib.compress(_bounded(text.encode()), 9)


def _bounded(text: bytes) -> bytes:
    lists = text.count(b"[") + text.count(b"{")
    if len(text) > HEADER_BYTES or lists > HEADER_LISTS:
        raise FormatError(
            f"the header has {len(text)} bytes or more and {lists} lists or more; a .fwt file holds {HEADER_BYTES} and "
            f"{HEADER_LISTS}: split the model"
        )
    return text


def _tensors(record: Any) -> tuple[Slot, ...]:
    """None in a built-in task's file: its architecture, edited, names them."""
    if "tensors" not in record and record.get("number") is not None:
        return ()
    return _distinct(tuple(_slot(*each) for each in record["tensors"]))


def _taps(rows: Any) -> tuple[TapSite, ...]:
    if type(rows) is not list:
        raise TypeError("taps are no list")
    sites = tuple(site for row in rows for site in _tap_sites(*row))
    if len({site.place for site in sites}) < len(sites):
        raise ValueError("two functions have the same place")
    return sites


def _tap_sites(identifier: Any, settings: Any, places: Any) -> list[TapSite]:
    if type(settings) is not list or type(places) is not list:
        raise TypeError("settings or places of a function are no list")
    function = FUNCTIONS[identifier].from_json(settings)
    return [TapSite(read_place(*each), function) for each in places]


def read_place(module: Any, operator: Any, ordinal: Any, operand: Any) -> Place:
    """Inverse of :func:`place_record`."""
    if type(module) is not str or not all(type(number) is int for number in (ordinal, operand)):
        raise TypeError("a place is no text and two numbers")
    module.encode()
    if not 0 <= ordinal < CALLS or not -1 <= operand < CALLS:
        raise ValueError(f"there is no call {ordinal} and operand {operand}")
    return Place(Call(module, Operator(operator), ordinal), None if operand < 0 else operand)


def _optional(record: Any, key: str, kind: type) -> Any:
    value = record.get(key)
    if value is not None and type(value) is not kind:
        raise TypeError(f"{key} is {type(value).__name__}")
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair is a ValueError
    return value


def _claims_record(values: Any) -> tuple[int, float, float, int]:
    samples, total, parent, lost = values
    if type(samples) is not int or type(lost) is not int or not 0 <= lost <= samples:
        raise ValueError("claims that do not count")
    if not isfinite(total) or not isfinite(parent):
        raise ValueError("claims that are no numbers")
    return samples, float(total), float(parent), lost


def _slot(name: Any, shape: Any, dtype: Any, *also: Any) -> Slot:
    if not all(type(text) is str for text in (name, dtype, *also)):
        raise TypeError("a tensor's name is no text")
    "".join((name, *also)).encode()
    if not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 16:
        raise ValueError(f"{name} has shape {shape}")
    if prod(max(size, 1) for size in shape) >= 2**48:  # no array library goes further, even where another size is 0
        raise ValueError(f"{name} has shape {shape}")
    return Slot(name, tuple(shape), DTYPES[dtype], also)


def _distinct(found: tuple[Slot, ...]) -> tuple[Slot, ...]:
    names = [name for slot in found for name in (slot.name, *slot.also)]
    if len(set(names)) < len(names):
        raise ValueError("two tensors have the same name")
    return found


@dataclass(frozen=True)
class Contents:
    """A file as read: its header, and a code for every tensor of the model's state."""

    codes: dict[str, Code]
    slots: tuple[Slot, ...]
    header: Header
    overhead: int  # bytes of envelope and header
    size: int  # bytes of the file


def slots(model: nn.Module) -> tuple[Slot, ...]:
    """Every tensor of the model's state, tied parameters once. Raises ``FormatError`` for what a file cannot hold."""
    tied = {first: names[1:] for first, names, _ in parameters(model)}
    repeated = {name for names in tied.values() for name in names}
    found = []
    for name, value in model.state_dict().items():
        if name in repeated:
            continue
        if not isinstance(value, Tensor) or str(value.dtype).removeprefix("torch.") not in DTYPES:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise FormatError(f"{name!r} of the state is {kind}, which a .fwt file cannot hold; remove it first")
        found.append(Slot(name, tuple(value.shape), value.dtype, tied.get(name, ())))
    return tuple(found)


def state_codes(student: Compressed) -> dict[str, Code]:
    """A code for every tensor of the state: the student's, and for the others one that loses nothing."""
    state = student.base.state_dict()
    coded = mapped(student.codes, lambda tensor: tensor.detach().cpu())
    codes: dict[str, Code] = {}
    for slot in slots(student.base):
        codes[slot.name] = coded[slot.name] if slot.name in coded else exact(state[slot.name])
    return codes


def exact(value: Tensor) -> Code:
    """A code of a tensor that loses nothing."""
    value = value.detach().cpu()
    if value.is_floating_point():
        return Floats.holding(value, Width.of(value.dtype))
    return Exact(tuple(value.shape), value.dtype, value)


def encode(
    student: Compressed,
    *,
    number: int | None = None,
    claims: Claims | None = None,
    task: str | None = None,
    recipe: str = "",
) -> bytes:
    """The bytes of a file. With a built-in task's ``number``, names and shapes are left to its architecture."""
    if student.learning:
        raise FormatError("the model is still learning; settle it before saving")
    codes = state_codes(student)
    writer = Writer()
    if number is not None and not student.edits and not student.sites and _counted(claims):
        writer.unsigned(BUILT_IN)
        writer.unsigned(number)
        _write_claims(writer, claims)
    else:
        writer.unsigned(PACKED)
        writer.blob(_deflated(_header(student, number, claims, task, recipe)))
    return seal(writer.finish() + _encode_codes(codes))


def encode_each(student: Compressed, code: Callable[[str], Code], *, recipe: str = "") -> bytes:
    """The bytes of a file, with every tensor's code asked for when its turn comes, twice: no two are in memory.

    They are those of :func:`encode`, where no two codes share numbers.
    """
    writer = Writer()
    writer.unsigned(PACKED)
    writer.blob(_deflated(_header(student, None, None, None, recipe)))
    names = [slot.name for slot in slots(student.base)]
    layouts = [code(name).layout() for name in names]
    return seal(writer.finish() + _encoded(layouts, (code(name) for name in names)))


def _counted(claims: Claims | None) -> bool:
    """Whether scores are counts of what is right, which the shortest header holds."""
    return claims is None or (float(claims.total).is_integer() and float(claims.parent).is_integer())


def _write_claims(writer: Writer, claims: Claims | None) -> None:
    """For built-in tasks, whose scores are 0 or 1: four integers; no samples where nothing was measured."""
    if claims is None:
        writer.unsigned(0)
        return
    for value in (claims.samples, round(claims.total), round(claims.parent), claims.lost):
        writer.unsigned(value)


def _read_claims(reader: Reader) -> Claims | None:
    samples = reader.unsigned()
    if samples == 0:
        return None
    total, parent, lost = reader.unsigned(), reader.unsigned(), reader.unsigned()
    if max(total, parent, lost) > samples:
        raise FormatError(f"the claims count {max(total, parent, lost)} of {samples} samples")
    return Claims(samples, total, parent, lost)


def _header(student: Compressed, number: int | None, claims: Claims | None, task: str | None, recipe: str) -> str:
    record: dict[str, Any] = {}
    if number is None:
        record["tensors"] = [
            [slot.name, list(slot.shape), str(slot.dtype).removeprefix("torch."), *slot.also]
            for slot in slots(student.base)
        ]
        if task is not None:
            record["task"] = task
    else:
        record["number"] = number
    if claims is not None:
        record["claims"] = [claims.samples, claims.total, claims.parent, claims.lost]
    if recipe:
        record["recipe"] = recipe
    if student.edits:
        record["edits"] = [[edit.identifier, edit.to_json()] for edit in student.edits]
    if student.sites:
        record["taps"] = _taps_record(student.sites)
    return json.dumps(record, separators=(",", ":"), sort_keys=True)


def _taps_record(sites: Mapping[Place, Function]) -> list[Any]:
    """A row for each function: its name, its settings and its places."""
    rows = []
    for function in dict.fromkeys(sites.values()):
        places = [place for place, other in sites.items() if other is function]
        if not isinstance(function, StoredFunction) or type(function) not in FUNCTIONS.values():
            name = type(function).__name__
            raise FormatError(
                f"{places[0]} is sent through {name}, which a .fwt file cannot hold; use one of FUNCTIONS"
            )
        settings = function.to_json()
        with naming(str(places[0])):
            if type(function).from_json(settings).to_json() != settings:
                raise FormatError(f"{function} would be rounded in a .fwt file; make its numbers float32")
        rows.append([function.identifier, settings, [place_record(place) for place in places]])
    return rows


def place_record(place: Place) -> list[Any]:
    """A place as JSON values."""
    call = place.call
    return [call.module, call.operator.value, call.ordinal, -1 if place.operand is None else place.operand]


def _encode_codes(codes: Mapping[str, Code]) -> bytes:
    """Layouts as a palette and one index a tensor, then all streams, in one coder; shared numbers once."""
    written = referenced(codes)
    return _encoded([code.layout() for code in written.values()], written.values())


def _encoded(layouts: Sequence[Layout], codes: Iterable[Code]) -> bytes:
    encoder = Encoder()
    palette = list(dict.fromkeys(layouts))
    encoder.put_number(len(palette))
    for layout in palette:
        _put_layout(encoder, layout)
    encoder.put(np.array([palette.index(layout) for layout in layouts], dtype=np.int64), max(len(palette), 1))
    for code in codes:
        for stream in code.streams():
            encoder.put(_array(stream.values), stream.alphabet)
    return encoder.finish()


def _array(values: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    return values.detach().cpu().contiguous().numpy()


def _put_layout(encoder: Encoder, layout: Layout) -> None:
    encoder.put_number(next(number for number, kind in KINDS.items() if kind is layout.kind))
    encoder.put_number(len(layout.settings))
    for value in layout.settings:
        encoder.put_number(value)
    encoder.put_number(len(layout.parts))
    for part in layout.parts:
        _put_layout(encoder, part)


def _take_layout(decoder: Decoder, depth: int = 0) -> Layout:
    kind = KINDS.get(decoder.take_number())
    if kind is None:
        raise FormatError("the file holds a code of an unknown kind; a newer version may know it")
    settings = tuple(decoder.take_number() for _ in range(_at_most(decoder.take_number(), SETTINGS)))
    if depth == DEPTH:
        raise FormatError(f"codes are nested more than {DEPTH} deep")
    parts = tuple(_take_layout(decoder, depth + 1) for _ in range(_at_most(decoder.take_number(), PARTS)))
    return Layout(kind, settings, parts)


def _at_most(value: int, limit: int) -> int:
    if value > limit:
        raise FormatError(f"a count of {value} is over the limit of {limit}")
    return value


def _decode_codes(data: bytes, expected: Sequence[Slot]) -> dict[str, Code]:
    decoder = Decoder(data)
    size = _at_most(decoder.take_number(), len(expected))
    palette = [_take_layout(decoder) for _ in range(size)]
    if not palette and expected:
        raise FormatError("the file holds no codes")
    chosen = decoder.take((len(expected),), max(size, 1))
    codes: dict[str, Code] = {}

    def take(name: str, shape: tuple[int, ...], alphabet: int) -> Tensor:
        values = decoder.take(shape, alphabet)
        return torch.from_numpy(values.astype(np.uint8 if alphabet <= 256 else np.int64, copy=False))

    for slot, index in zip(expected, chosen.tolist(), strict=True):
        layout = palette[index]
        with naming(slot.name):
            codes[slot.name] = layout.kind.from_streams(layout, slot.shape, slot.dtype, take)
    decoder.finish()
    return resolved(codes)


def decode(data: bytes, model: nn.Module | None, *, max_bytes: int = 1 << 30) -> Contents:
    """Read a file's bytes for ``model``, of which only names, shapes and types matter.

    Without a model the file must name its tensors itself, and they may take ``max_bytes`` decoded. Memory is bounded
    by a small multiple of the model's, or of ``max_bytes``. Any malformed file raises ``FormatError``; a file never
    causes an import.
    """
    body = open_sealed(data)
    reader = Reader(body)
    header = Header.read(reader)
    expected = _checked(header, model, max_bytes)
    start = len(body) - reader.remaining
    codes = _decode_codes(body[start:], expected)
    return Contents(codes, expected, header, len(data) - reader.remaining, len(data))


def _checked(header: "Header", model: nn.Module | None, max_bytes: int) -> tuple[Slot, ...]:
    """The file's own tensors, held against the model's where there is one, else against ``max_bytes``."""
    if model is not None:
        edited = model
        if header.edits:
            edited = Compressed(model).base
            for edit in header.edits:
                edited = edit.replaced(edited)
        modules = dict(edited.named_modules())
        for site in header.taps:
            if site.place.call.module not in modules:
                raise FormatError(f"the file is for another model: it has no module {site.place.call.module!r}")
        ours = slots(edited)
        named = ours if header.number is not None and not header.slots else header.slots
        for theirs, own in zip_longest(named, ours):
            if theirs != own:
                raise FormatError(f"the file is for another model: it holds {theirs}, the model has {own}")
        return ours
    if header.number is not None and not header.slots:
        raise FormatError(f"the file is of built-in task {header.number}: give that task's architecture to read it")
    size = sum(prod(slot.shape) * slot.dtype.itemsize for slot in header.slots)
    if size > max_bytes:
        raise FormatError(
            f"the file's tensors take {size} bytes, over the limit of {max_bytes}; raise max_bytes "
            "(--max-bytes) if the file is yours"
        )
    return header.slots


def load(data: bytes, model: nn.Module, *, max_bytes: int = 1 << 30) -> tuple[Compressed, Contents]:
    """Put a file's tensors onto a model of the class that it was saved from. ``model`` itself stays as it is."""
    contents = decode(data, model, max_bytes=max_bytes)
    student = Compressed(model)
    for edit in contents.header.edits:
        student.edit(edit)
    state = dict(student.base.named_buffers(remove_duplicate=False))
    codes = mapped(contents.codes, lambda tensor: tensor.to(student.device))
    for slot in contents.slots:
        code = codes[slot.name]
        if slot.name in state:
            state[slot.name].copy_(code.decode())
        else:
            student.encode({slot.name: code}, {slot.name: Float()})
    for site in contents.header.taps:
        site.function.to(student.device)
    student.tap(contents.header.taps)
    return student.eval(), contents


def read(path: str | PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from error


def save(path: str | PathLike[str], data: bytes) -> int:
    """Write the file whole or not at all; its size in bytes."""
    try:
        write_atomic(path, data)
    except OSError as error:
        reason = error.strerror or error
        raise FeatherweightError(f"{path} cannot be written: {reason}; choose another place") from error
    return len(data)


def stream_bits(code: Code) -> dict[str, float]:
    """Bits that each stream of a code takes in a file, by the model that the coder would choose."""
    return {stream.name: cost(_array(stream.values), stream.alphabet) for stream in code.streams()}
