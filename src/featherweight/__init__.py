"""Featherweight makes PyTorch models small and fast, within a loss of quality that you set."""

from featherweight.compression import compress
from featherweight.core.compressed import Compressed
from featherweight.core.errors import (
    BudgetError,
    DataError,
    FeatherweightError,
    FormatError,
    NoEffectError,
    SchemeError,
    SelectionError,
    TaskError,
)
from featherweight.core.plan import Plan, plan
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Budget, Cubic, Iterative, Learn, Objective, OneShot, Recipe, Stage, Training, everywhere
from featherweight.core.task import ACCURACY, Example, Quality, Task
from featherweight.result import Result, verify

__version__ = "0.1.0"
