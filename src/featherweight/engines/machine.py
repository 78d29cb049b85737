"""The machine that something was measured on."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from featherweight.core.processor import instructions
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
    if platform.system() == "Linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
