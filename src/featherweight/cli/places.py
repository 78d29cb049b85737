"""Where a command writes: looked at before the long work, not after it."""

import tempfile
from pathlib import Path

from featherweight.core.errors import FeatherweightError


def check_output(path: Path, force: bool, option: str = "-o") -> None:
    """Raise unless a file can be written at ``path``, which ``option`` names; an existing one only with ``force``."""
    if path.is_dir():
        raise FeatherweightError(f"{path} is a folder; name a file with {option}")
    if path.exists() and not force:
        raise FeatherweightError(f"{path} exists; name another file with {option}, or overwrite it with --force")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Raise unless ``folder`` exists and a file can be made in it."""
    if not folder.is_dir():
        raise FeatherweightError(f"there is no folder {folder}; make it first, or name another place")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FeatherweightError(f"{folder} cannot be written to: {error.strerror or error}") from error


def check_checkpoint(folder: Path) -> None:
    """Raise unless ``folder`` is a folder that can be written to, or can be made in one."""
    if folder.exists() and not folder.is_dir():
        raise FeatherweightError(f"{folder} is a file; name a folder with --checkpoint")
    present = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    check_folder(present)
