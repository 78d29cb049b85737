"""A change of structure, as data that can be replayed on a fresh model of the same class."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from featherweight.core.code import Code
from featherweight.core.tap import Place


class Edit(ABC):
    """Names parameters and index sets, never nodes of a graph. Subclasses are frozen dataclasses."""

    identifier: ClassVar[str]
    """What files call the class."""
    again: ClassVar[bool] = False
    """Whether tensors whose codes cannot follow are projected again, by their schemes, or stay without a code."""

    @abstractmethod
    def apply(self, model: nn.Module) -> None:
        """Change ``model`` in place; its tensors are replaced by new ones, never written to."""

    def replaced(self, model: nn.Module) -> nn.Module:
        """What stands in place of ``model`` after the edit: the model itself, but where no change of it would do."""
        self.apply(model)
        return model

    def recode(self, model: nn.Module, name: str, code: Code) -> Code | None:
        """What becomes of the code of a tensor called ``name``, with ``model`` as it is before the edit.

        ``None`` where the tensor changes and the code cannot follow: it is projected again.
        """
        return code

    def retap(self, model: nn.Module, place: Place) -> Place:
        """Where the activation at ``place`` is after the edit, with ``model`` as it is before.

        ``SelectionError`` where it is gone.
        """
        return place

    @abstractmethod
    def to_json(self) -> dict[str, object]:
        """Everything that :meth:`from_json` needs, as JSON values."""

    @classmethod
    @abstractmethod
    def from_json(cls, record: dict[str, object]) -> "Edit":
        """Inverse of :meth:`to_json`; ``FormatError`` on anything else."""
