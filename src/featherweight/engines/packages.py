"""Packages of engines: optional, imported where they are used, and kept from talking."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import StringIO
from types import ModuleType

from featherweight.core.errors import EngineError


def needed(package: str, extra: str) -> ModuleType:
    """Import an optional package; ``EngineError`` that names the extra where it is missing."""
    try:
        return import_module(package)
    except ImportError as error:
        raise EngineError(
            f"{package} is not installed ({error}); pip install 'featherweight[{extra}]' brings it"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No warning, log line below an error, or print of the libraries used within gets out."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
