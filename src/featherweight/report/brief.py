"""Settings in short: what differs from a class's defaults, and nothing else."""

from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any


def brief(value: Any) -> str:
    """``Sparse(Fraction(0.9), Codebook(32))``: first fields by position, others by name, most defaults left out."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, tuple | list):
        return ", ".join(map(brief, value))
    if isinstance(value, type) or (callable(value) and not is_dataclass(value)):
        return str(getattr(value, "__name__", type(value).__name__))
    if not is_dataclass(value):
        return f"{value:g}" if isinstance(value, float) else str(value)
    parts, positional = [], True
    for index, each in enumerate(sorted(fields(value), key=lambda each: each.kw_only is True)):
        given = getattr(value, each.name)
        telling = index == 0 and isinstance(given, int | float)  # a codebook's size, even where it is the usual one
        if _is_default(each, given) and not telling:
            positional = False
        else:
            parts.append(brief(given) if positional and not each.kw_only else f"{each.name}={brief(given)}")
    return f"{type(value).__name__}({', '.join(parts)})" if parts else type(value).__name__


def _is_default(each: "Field[Any]", given: Any) -> bool:
    if each.default_factory is not MISSING:
        return bool(given == each.default_factory())
    return each.default is not MISSING and bool(given == each.default)
