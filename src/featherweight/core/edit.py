"""A change of structure, as data that can be replayed on a fresh model of the same class."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class Edit(ABC):
    """Names parameters and index sets, never nodes of a graph. Subclasses are frozen dataclasses."""

    identifier: ClassVar[str]
    """What files call the class."""

    @abstractmethod
    def apply(self, model: nn.Module) -> None:
        """Change ``model`` in place; its tensors are replaced by new ones, never written to."""

    @abstractmethod
    def slice(self, name: str, tensor: Tensor) -> Tensor:
        """What becomes of a tensor of the state called ``name``."""

    @abstractmethod
    def to_json(self) -> dict[str, object]:
        """Everything that :meth:`from_json` needs, as JSON values."""

    @classmethod
    @abstractmethod
    def from_json(cls, record: dict[str, object]) -> "Edit":
        """Inverse of :meth:`to_json`; ``FormatError`` on anything else."""
