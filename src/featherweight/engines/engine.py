"""What an engine is: something that runs an exported model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featherweight.core.errors import EngineError

if TYPE_CHECKING:
    from torch import nn

    from featherweight.core.compressed import Compressed
    from featherweight.core.task import Example

Arrays = Sequence["np.ndarray[Any, Any]"]
"""Inputs or outputs in order: tensors of the arguments, then those of the keyword arguments."""


class Precision(Enum):
    """What an engine computes float operations in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Settings:
    """How a model is run: threads of the engine's own, and the precision of what is not quantized.

    ``rounding`` lets the engine round float activations that meet weights with a scale for each group to eight bits,
    by ranges that it finds as it runs: several times faster, and no longer what the model says.
    """

    threads: int = 1
    precision: Precision = Precision.FLOAT32
    rounding: bool = False

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise EngineError(f"{self.threads} threads; give 1 or more")


@dataclass(frozen=True)
class Capabilities:
    """What an engine makes of a file, for messages and documentation.

    integers    it computes with quantized weights and activations as integers, not with what they stand for
    dynamic     the same where ranges are found as the model runs; else such layers are right, and slower than floats
    nibbles     its files hold four-bit weights in four bits
    precisions  what it can compute float operations in
    floats      it takes float models, not only those that are quantized throughout
    recurrent   its files hold integer weights of recurrent layers as integers
    """

    integers: bool
    dynamic: bool
    nibbles: bool
    precisions: frozenset[Precision]
    floats: bool = True
    recurrent: bool = True


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    ``any_batch``: it takes batches of any size, or of any up to ``most``, and not only of the example's. ``unsigned``
    is how many weights have levels around 128, as a processor on which byte products saturate needs them.
    """

    path: Path
    bytes: int
    any_batch: bool
    most: int | None = None
    unsigned: int = 0

    @property
    def notice(self) -> str:
        """What its user should know, or nothing."""
        if not self.unsigned:
            return ""
        return (
            f"{self.unsigned} weights have more than 7 bits. On processors without VNNI they are exact in this file, "
            "and no faster than floats; recipe int7 gives 7 bits, which are exact and faster"
        )


class Runner(ABC):
    """An opened model."""

    @abstractmethod
    def run(self, inputs: Arrays) -> list["np.ndarray[Any, Any]"]:
        """The outputs for a batch of inputs, which is neither copied nor changed."""


class Engine(ABC):
    """Exports and opens models. Subclasses are frozen dataclasses without state; packages are imported when needed.

    So is PyTorch, where files are opened without it: a process that runs one starts in a tenth of the time, and its
    memory is the engine's.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    """Of the files that it opens."""
    extra: ClassVar[str | None]
    """The optional extra that brings its packages."""
    capabilities: ClassVar[Capabilities]

    @abstractmethod
    def export(self, model: "nn.Module", example: "Example", path: Path) -> Exported:
        """Write ``model``, in evaluation mode, as a file that :meth:`open` takes, whole or not at all.

        The batch, the first dimension of every input, may be of any size where the model allows it. ``EngineError``
        for a model that cannot be traced or has an operator that the file cannot hold.
        """

    def prepared(self, student: "Compressed") -> "nn.Module":
        """A compressed model as :meth:`export` takes it: one whose integer weights are operators when it is traced."""
        from featherweight.engines.integers import deployed

        return deployed(student, recurrent=self.capabilities.recurrent)

    @abstractmethod
    def open(self, path: Path, settings: Settings) -> Runner:
        """Raises ``EngineError`` for a file or settings that it cannot take."""

    @abstractmethod
    def version(self) -> str:
        """The version of the engine's package."""

    def check(self, settings: Settings) -> None:
        """``EngineError`` for a precision that it does not compute in."""
        if settings.precision not in self.capabilities.precisions:
            able = ", ".join(sorted(each.value for each in self.capabilities.precisions))
            raise EngineError(
                f"{self.name} does not compute in {settings.precision.value} here; it computes in {able}: "
                "choose that, or another engine"
            )
