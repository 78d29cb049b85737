"""What is decided by the processor's instructions, for processors that are not here."""

import pytest
import torch

from featherweight.core.processor import REDUCED, halves, instructions, saturates


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx_vnni": False, "avx512_vnni": False}, True),
        ({"architecture": "x86_64", "avx2": True, "avx_vnni": True, "avx512_vnni": False}, False),
        ({"architecture": "x86_64", "avx2": True, "avx_vnni": False, "avx512_vnni": True}, False),
        ({"architecture": "aarch64", "neon": True}, False),
    ],
)
def test_x86_without_vnni_saturates(
    able: dict[str, bool | str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert saturates() is expected


def test_levels_within_the_reduced_range_fit_sixteen_bits() -> None:
    assert 2 * 255 * REDUCED < 2**15 <= 2 * 255 * (REDUCED + 1)


@pytest.mark.parametrize(("vnni", "expected"), [(False, "AVX2"), (True, "AVX2 with VNNI")])
def test_instructions_are_told(vnni: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx_vnni": vnni})
    assert instructions() == expected


@pytest.mark.parametrize(("capability", "expected"), [("DEFAULT", False), ("AVX2", False), ("AVX512", True)])
def test_bfloat16_needs_avx512(capability: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert halves(torch.device("cpu")) is expected
    assert halves(torch.device("meta"))
