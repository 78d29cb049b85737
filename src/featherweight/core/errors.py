"""Everything that Featherweight raises on purpose.

::

    FeatherweightError
    ├── SelectionError    a name pattern that matches nothing, an unknown paper or task
    │   └── TraceError    a model whose operations cannot be traced
    ├── SchemeError       a tensor that a scheme cannot take, a setting out of range
    ├── NoEffectError     a stage that changed nothing
    ├── BudgetError       limits that cannot be met
    ├── TaskError         a task file or task record that cannot be used
    ├── DataError         data that is absent or damaged
    ├── EngineError       an engine that is missing, cannot take a model, or crashed
    └── FormatError       a file that is not a whole, valid ``.fwt`` file

Every message names the thing and says what to do next. A low layer states the fact; the outer layer adds the tensor's
name and the stage with :func:`naming`.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class FeatherweightError(Exception):
    """The root: catch this to catch all of ours."""


class SelectionError(FeatherweightError):
    """A selection by name is empty or names something unknown."""


class TraceError(SelectionError):
    """The model cannot be traced: nothing can be selected by its operations, only by names of parameters."""


class SchemeError(FeatherweightError):
    """A scheme cannot take this tensor, or its settings are out of range."""


class NoEffectError(FeatherweightError):
    """A stage ran and left every selected tensor as it was."""


class BudgetError(FeatherweightError):
    """The limits cannot be met; the message carries the nearest point that was reached."""


class TaskError(FeatherweightError):
    """A task's file or record cannot be used."""


class DataError(FeatherweightError):
    """Data is absent or damaged; the message says where it was looked for and how to get it."""


class EngineError(FeatherweightError):
    """An engine or its package is missing, cannot take this model or file, or crashed."""


class FormatError(FeatherweightError):
    """The bytes are not a whole, valid ``.fwt`` file for this model."""


class SeenDataWarning(UserWarning):
    """A limit on the loss of quality is judged on data that says too little of new data. No error: the run goes on."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Put ``what`` in front of any of our errors raised inside, keeping its class."""
    try:
        yield
    except FeatherweightError as error:
        raise type(error)(f"{what}: {error}") from error


def reason_of(error: BaseException | None) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
