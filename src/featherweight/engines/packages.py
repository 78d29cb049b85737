"""Packages of engines: optional, and imported where they are used."""

from importlib import import_module
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
