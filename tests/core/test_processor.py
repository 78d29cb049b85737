"""What is decided by the processor's instructions, for processors that are not here."""

import platform

import pytest
import torch

from featherweight.core import processor
from featherweight.core.processor import REDUCED, VNNI, halves, instructions, saturates


@pytest.mark.parametrize(
    ("machine", "able", "expected"),
    [
        ("x86_64", {"avx2"}, True),
        ("AMD64", {"avx2"}, True),
        ("x86_64", {"avx2", "avx_vnni"}, False),
        ("x86_64", {"avx2", "avx512f", "avx512_vnni"}, False),
        ("aarch64", {"asimd"}, False),
    ],
)
def test_x86_without_vnni_saturates(
    machine: str, able: set[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "_able", lambda: frozenset(able))
    assert saturates() is expected


def test_the_system_tells_of_this_processor_what_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    told = processor._able()
    monkeypatch.setattr(platform, "system", lambda: "Another")
    assert told & VNNI == processor._able() & VNNI
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx_vnni": True, "amx": 0})
    assert processor._able() == {"avx_vnni"}


def test_levels_within_the_reduced_range_fit_sixteen_bits() -> None:
    assert 2 * 255 * REDUCED < 2**15 <= 2 * 255 * (REDUCED + 1)


@pytest.mark.parametrize(("vnni", "expected"), [(False, "AVX2"), (True, "AVX2 with VNNI")])
def test_instructions_are_told(vnni: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(processor, "_able", lambda: frozenset({"avx2", "avx_vnni"} if vnni else {"avx2"}))
    assert instructions() == expected


@pytest.mark.parametrize(("capability", "expected"), [("DEFAULT", False), ("AVX2", False), ("AVX512", True)])
def test_bfloat16_needs_avx512(capability: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert halves(torch.device("cpu")) is expected
    assert halves(torch.device("meta"))
