"""Sizes as people write them: 17kB, 17 KiB, 1.5MB, 17200."""

import re

import typer

UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}
_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([kmg]i?)?b?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes: kB, MB and GB are powers of 1000, KiB, MiB and GiB of 1024; a bare number is bytes."""
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * UNITS[(match[2] or "").lower()]) if match else 0
    if size < 1:
        raise typer.BadParameter(f"{text!r} is no size; write it as 17kB, 17KiB, 1.5MB or 17200")
    return size


_SHARE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(%?)", re.ASCII)


def parse_share(text: str) -> float:
    """A part of a whole: 50% or 0.5."""
    match = _SHARE.fullmatch(text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < share < 1:
        raise typer.BadParameter(f"{text!r} is no part of a whole; write it as 50% or 0.5")
    return share
