"""Numbers that several codes share: one tensor in memory, one Parameter while learning, and written once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take
from featherweight.core.errors import FormatError, naming

Path = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Reference(Code):
    """Stands for a part that is written elsewhere: the ``number``-th of the leaves that :func:`leaves` finds.

    It is only met on the way to a file and back: :func:`referenced` puts it in, :func:`resolved` takes it out.
    """

    number: int = 0

    def decode(self) -> Tensor:
        raise FormatError("the numbers of a code are those of another tensor, and were not looked up")

    def settings(self) -> tuple[int, ...]:
        return (self.number,)

    def streams(self) -> Iterator[Stream]:
        yield from ()

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "Reference":
        if len(layout.settings) != 1 or layout.parts:
            raise FormatError("shared numbers have one setting, which says whose they are, and no parts")
        return cls(shape, dtype, layout.settings[0])


def leaves(code: Code, path: Path = ()) -> Iterator[tuple[Path, Code, int]]:
    """The parts without parts of a code, each with its place and the entries of the code that it is a part of."""
    for name, part in code.parts().items():
        if part.parts():
            yield from leaves(part, (*path, name))
        else:
            yield (*path, name), part, torch.Size(code.shape).numel()


def mapped(codes: Mapping[str, Code], function: Callable[[Tensor], Tensor]) -> dict[str, Code]:
    """Codes with ``function`` applied to every tensor: once to one that several have, so that they still share it."""
    done: dict[int, Tensor] = {}

    def once(tensor: Tensor) -> Tensor:
        if id(tensor) not in done:
            done[id(tensor)] = function(tensor)
        return done[id(tensor)]

    return {name: code.map(once) for name, code in codes.items()}


def referenced(codes: Mapping[str, Code]) -> dict[str, Code]:
    """The codes as they are written: of equal leaves with the very same tensors all but one are references to that one.

    The one is in the code of most entries, the first of these. Leaves that are written are numbered in the order of
    ``codes`` and of their fields.
    """
    found = [(name, path, leaf, entries) for name, code in codes.items() for path, leaf, entries in leaves(code)]
    holders: dict[Any, tuple[str, Path, int]] = {}
    for name, path, leaf, entries in found:
        key = _identity(leaf)
        if key not in holders or holders[key][2] < entries:
            holders[key] = (name, path, entries)
    written = [_identity(leaf) for name, path, leaf, _ in found if holders[_identity(leaf)][:2] == (name, path)]
    numbers = {key: number for number, key in enumerate(written)}
    changed = dict(codes)
    for name, path, leaf, _ in found:
        key = _identity(leaf)
        if holders[key][:2] != (name, path):
            changed[name] = _with(changed[name], path, Reference(leaf.shape, leaf.dtype, numbers[key]))
    return changed


def _identity(leaf: Code) -> Any:
    return leaf.layout(), leaf.shape, leaf.dtype, tuple(id(tensor) for tensor in leaf.tensors().values())


def resolved(codes: Mapping[str, Code]) -> dict[str, Code]:
    """Inverse of :func:`referenced`. ``FormatError`` for a reference to nothing, or to numbers of another shape."""
    written = [leaf for code in codes.values() for _, leaf, _ in leaves(code) if not isinstance(leaf, Reference)]
    changed = dict(codes)
    for name, code in codes.items():
        with naming(name):
            if isinstance(code, Reference):
                raise FormatError("a whole tensor cannot be another's numbers; only parts of codes are shared")
            for path, leaf, _ in leaves(code):
                if isinstance(leaf, Reference):
                    changed[name] = _with(changed[name], path, _looked_up(leaf, written))
    return changed


def _looked_up(reference: Reference, written: list[Code]) -> Code:
    if reference.number >= len(written):
        raise FormatError(f"there are no shared numbers {reference.number}: the file holds {len(written)}")
    found = written[reference.number]
    if (found.shape, found.dtype) != (reference.shape, reference.dtype):
        raise FormatError(
            f"shared numbers {reference.number} are {found.dtype} of shape {found.shape}, and the code needs "
            f"{reference.dtype} of shape {reference.shape}"
        )
    return found


def _with(code: Code, path: Path, part: Code) -> Code:
    """The code with another part at this place."""
    first, *rest = path
    changes: dict[str, Any] = {first: _with(code.parts()[first], tuple(rest), part) if rest else part}
    return replace(code, **changes)
