"""What the instructions of this machine's processor decide."""

import torch

REDUCED = 64
"""The largest level ``w`` of a weight with ``2 · 255 · w < 2¹⁵``: 7 bits."""


def saturates() -> bool:
    """Whether two products of an unsigned and a signed byte are added in 16 bits: on x86 without VNNI they are.

    There integer kernels saturate where levels of weights are beyond ``±REDUCED``.
    """
    return torch.cpu.get_capabilities().get("architecture") == "x86_64" and not _vnni()


def halves(device: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32: without AVX-512, PyTorch takes it number by number."""
    return device.type != "cpu" or _widest().startswith("AVX512")


def instructions() -> str:
    """What kernels find: processors of one name may differ in it, above all virtual ones."""
    return f"{_widest()} with VNNI" if _vnni() else _widest()


def _vnni() -> bool:
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_vnni") or able.get("avx_vnni"))


def _widest() -> str:
    return str(torch.backends.cpu.get_cpu_capability())
