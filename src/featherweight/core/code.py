"""What is stored for one tensor: a code is a frozen record of tensors that decodes to it.

Codes nest: a field that holds real numbers is itself a code, so a sparse code's survivors can be a codebook, and the
codebook's centroids float16 numbers. The leaves with real numbers are :class:`featherweight.schemes.floats.Floats`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, Protocol, Self

import torch
from torch import Tensor


def number_type(dtype: torch.dtype) -> torch.dtype:
    """What the real numbers of a tensor's code are computed and held in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Role(Enum):
    """What a field of a code does while the model learns."""

    FIXED = "fixed"  # never changes between projections: supports, assignments
    LATENT = "latent"  # integers that follow a dense weight: re-projected at every step
    DIRECT = "direct"  # real numbers that may be Parameters themselves: centroids, scales, survivors


def fixed() -> Any:
    return field(metadata={"role": Role.FIXED})


def latent() -> Any:
    return field(metadata={"role": Role.LATENT})


def direct() -> Any:
    return field(metadata={"role": Role.DIRECT})


@dataclass(frozen=True, eq=False)
class Stream:
    """Integers to be entropy coded: ``0 <= values < alphabet``; the shape of ``values`` gives a coder its axes."""

    name: str
    values: Tensor
    alphabet: int


class Take(Protocol):
    """Reads the next stream of a file: integers in ``[0, alphabet)`` of the given shape."""

    def __call__(self, name: str, shape: tuple[int, ...], alphabet: int, /) -> Tensor: ...


@dataclass(frozen=True)
class Layout:
    """What a file must know of a code before its streams: its class, a few small integers, the same of its parts."""

    kind: type["Code"]
    settings: tuple[int, ...] = ()
    parts: tuple["Layout", ...] = ()


@dataclass(frozen=True, eq=False)
class Code(ABC):
    """A tensor that can be written cheaply.

    Fields hold exactly what a file holds: numbers are rounded to their stored width inside ``project``, so that
    ``from_streams(layout, streams)`` decodes bit for bit. A code is never changed; learning makes another.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @abstractmethod
    def decode(self) -> Tensor:
        """The tensor that this code stands for, of ``shape`` and ``dtype``; differentiable in the direct fields."""

    @abstractmethod
    def streams(self) -> Iterator[Stream]:
        """Everything that must be stored besides :meth:`layout`, in the order in which it is read."""

    @abstractmethod
    def settings(self) -> tuple[int, ...]:
        """Small non-negative integers without which the streams cannot be read."""

    @classmethod
    @abstractmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "Code":
        """Inverse of :meth:`streams`. Raises ``FormatError`` on settings that no code of this class writes."""

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors().values())).device

    @property
    def bits(self) -> int:
        """Width of the widest symbol that a weight is multiplied with, in bits: what an engine's kernel would see."""
        return max((part.bits for part in self.parts().values()), default=32)

    @property
    def columnwise(self) -> bool:
        """Whether columns of a matrix can be projected by themselves with this code as their start."""
        return False

    def parts(self) -> dict[str, "Code"]:
        """The codes among the fields."""
        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Code)}

    def select(self, dim: int, indices: Tensor) -> "Code | None":
        """The code of ``decode().index_select(dim, indices)``, with the same numbers; ``None`` where there is none."""
        return None

    def layout(self) -> Layout:
        return Layout(type(self), self.settings(), tuple(part.layout() for part in self.parts().values()))

    def tensors(self, *roles: Role) -> dict[str, Tensor]:
        """Dotted path -> tensor for every field of this code and its parts, with the given roles (none: all)."""
        found: dict[str, Tensor] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Code):
                found |= {f"{f.name}.{path}": tensor for path, tensor in value.tensors(*roles).items()}
            elif isinstance(value, Tensor) and (not roles or f.metadata["role"] in roles):
                found[f.name] = value
        return found

    def with_tensors(self, tensors: dict[str, Tensor]) -> Self:
        """The same code with the tensors at these dotted paths replaced; nothing is rounded."""
        changes: dict[str, Any] = {}
        for name, part in self.parts().items():
            inner = {path.removeprefix(name + "."): t for path, t in tensors.items() if path.startswith(name + ".")}
            if inner:
                changes[name] = part.with_tensors(inner)
        changes |= {path: tensor for path, tensor in tensors.items() if "." not in path}
        return replace(self, **changes)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same code with ``function`` applied to every tensor: to move it, detach it, copy it."""
        return self.with_tensors({path: function(tensor) for path, tensor in self.tensors().items()})

    def stored(self) -> Self:
        """The same code with every number rounded to its stored width; what learning ends with."""
        parts: dict[str, Any] = {name: part.stored() for name, part in self.parts().items()}
        return replace(self, **parts)


def read_part(layout: Layout, index: int, shape: tuple[int, ...], dtype: torch.dtype, take: Take, name: str) -> Code:
    """Read the ``index``-th part of a code, its streams named ``name.…``."""
    part = layout.parts[index]

    def within(stream: str, shape: tuple[int, ...], alphabet: int) -> Tensor:
        return take(f"{name}.{stream}", shape, alphabet)

    return part.kind.from_streams(part, shape, dtype, within)


def part_streams(name: str, part: Code) -> Iterator[Stream]:
    """The streams of a part, renamed ``name.…`` as :func:`read_part` reads them."""
    return (replace(stream, name=f"{name}.{stream.name}") for stream in part.streams())
