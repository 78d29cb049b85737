"""Featherweight makes PyTorch models small and fast, within a loss of quality that you set.

The public names are imported when they are first used: the command line answers without waiting for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featherweight.compression import compress, load, save
    from featherweight.core.compressed import Compressed
    from featherweight.core.errors import (
        BudgetError,
        DataError,
        EngineError,
        FeatherweightError,
        FormatError,
        NoEffectError,
        SchemeError,
        SelectionError,
        TaskError,
    )
    from featherweight.core.plan import Plan, plan
    from featherweight.core.site import WEIGHTS, Sites
    from featherweight.core.stage import (
        Budget,
        Cubic,
        Iterative,
        Learn,
        Matching,
        Objective,
        OneShot,
        Recipe,
        Recurring,
        Stage,
        Training,
        everywhere,
    )
    from featherweight.core.task import ACCURACY, Example, Quality, Task
    from featherweight.result import Result, verify
    from featherweight.session import Session, begin

__version__ = "0.1.0"

_HOMES = {
    "featherweight.compression": ("compress", "load", "save"),
    "featherweight.core.compressed": ("Compressed",),
    "featherweight.core.errors": (
        "BudgetError", "DataError", "EngineError", "FeatherweightError", "FormatError",
        "NoEffectError", "SchemeError", "SelectionError", "TaskError",
    ),
    "featherweight.core.plan": ("Plan", "plan"),
    "featherweight.core.site": ("Sites", "WEIGHTS"),
    "featherweight.core.stage": (
        "Budget", "Cubic", "Iterative", "Learn", "Matching", "Objective",
        "OneShot", "Recipe", "Recurring", "Stage", "Training", "everywhere",
    ),
    "featherweight.core.task": ("ACCURACY", "Example", "Quality", "Task"),
    "featherweight.result": ("Result", "verify"),
    "featherweight.session": ("Session", "begin"),
}  # fmt: skip
"""Module -> the public names that live there. A test holds it against the imports above and against ``__all__``."""

__all__ = [
    "ACCURACY", "WEIGHTS",
    "Budget", "BudgetError", "Compressed", "Cubic", "DataError", "EngineError", "Example",
    "FeatherweightError", "FormatError",
    "Iterative", "Learn", "Matching", "NoEffectError", "Objective", "OneShot", "Plan", "Quality", "Recipe", "Recurring",
    "Result", "SchemeError", "SelectionError", "Session", "Sites", "Stage", "Task", "TaskError", "Training",
    "begin", "compress", "everywhere", "load", "plan", "save", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'featherweight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
