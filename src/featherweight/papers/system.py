"""What is known of a system: an engine, a compiler, a framework. It has no recipe, and is not reproduced."""

from dataclasses import dataclass

from featherweight.core.stage import Reference

__all__ = ["Part", "System"]


@dataclass(frozen=True)
class Part:
    """Something of a system, and ``where`` in Featherweight it is, or that it is nowhere."""

    what: str
    where: str


@dataclass(frozen=True)
class System:
    """A published system: what of it is here, what was ``checked`` here and with which command, and what was not.

    ``successor`` is what replaced it, or that nothing did; ``read`` says where all that was read.
    """

    name: str
    reference: Reference
    idea: str
    parts: tuple[Part, ...]
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]
    successor: str
    read: str
