"""The machine that something was measured on."""

import os
import platform
from dataclasses import dataclass

import torch

from featherweight.core.processor import instructions, told
from featherweight.engines.packages import needed


@dataclass(frozen=True)
class Machine:
    """``cpu`` ends in its widest instructions. ``cores`` are those that the system shows, hyper-threads counted.

    ``memory`` is in bytes.
    """

    cpu: str
    cores: int
    memory: int
    platform: str
    python: str
    torch: str


def machine() -> Machine:
    """This one, now."""
    return Machine(
        cpu=f"{_cpu()}, {instructions()}",
        cores=os.cpu_count() or 1,
        memory=int(needed("psutil", "engines").virtual_memory().total),
        platform=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
    )


def _cpu() -> str:
    """The model's name; on Linux ``platform`` knows the architecture alone."""
    return told("model name") or platform.processor() or platform.machine()
