"""What the instructions of this machine's processor decide. PyTorch is asked where nothing else knows."""

import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

REDUCED = 64
"""The largest level ``w`` of a weight with ``2 · 255 · w < 2¹⁵``: 7 bits."""
VNNI = {"avx512_vnni", "avx_vnni"}


def saturates() -> bool:
    """Whether two products of an unsigned and a signed byte are added in 16 bits: on x86 without VNNI they are.

    There integer kernels saturate where levels of weights are beyond ``±REDUCED``.
    """
    return platform.machine().lower() in ("x86_64", "amd64") and not VNNI & _able()


def halves(device: "torch.device") -> bool:
    """Whether bfloat16 is faster there than float32: without AVX-512, PyTorch takes it number by number."""
    return device.type != "cpu" or _widest().startswith("AVX512")


def instructions() -> str:
    """What kernels find: processors of one name may differ in it, above all virtual ones."""
    return f"{_widest()} with VNNI" if VNNI & _able() else _widest()


def told(key: str) -> str | None:
    """What Linux tells of the first processor; ``None`` elsewhere, and for what it does not tell."""
    if platform.system() == "Linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return None


def _able() -> frozenset[str]:
    """Names of what the processor has; of those in :data:`VNNI` at least.

    Linux tells at once, where importing PyTorch to ask takes the seconds that a process for a small model has.
    """
    flags = told("flags")
    if flags is not None:
        return frozenset(flags.split())
    import torch

    return frozenset(name for name, has in torch.cpu.get_capabilities().items() if has is True)


def _widest() -> str:
    import torch

    return str(torch.backends.cpu.get_cpu_capability())
