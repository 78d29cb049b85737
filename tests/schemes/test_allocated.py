"""Bits by equal noise: no other allocation of the same size has less; sums stay within the budget."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN
from featherweight.schemes.allocated import EqualNoise, equal_noise_bits, whole_bits
from featherweight.schemes.uniform import Uniform, UniformCode

SIZES = {"a": 9, "b": 400, "c": 5000, "d": 120}


def noise(bits: dict[str, float]) -> float:
    return sum(4.0**-each for each in bits.values())


@pytest.mark.parametrize("mean", [2.5, 4.0, 6.5])
def test_no_allocation_of_the_same_size_has_less_noise(mean: float) -> None:
    bits = equal_noise_bits(SIZES, mean)
    total = mean * sum(SIZES.values())
    assert sum(SIZES[name] * each for name, each in bits.items()) == pytest.approx(total)
    assert all(2 <= each <= 8 for each in bits.values())
    generator = torch.Generator().manual_seed(0)
    for scale in (0.01, 0.3, 2.0):
        for _ in range(300):
            step = scale * torch.randn(3, generator=generator, dtype=torch.float64)
            other = {name: each + float(s) for (name, each), s in zip(bits.items(), [*step, 0.0], strict=True)}
            other["d"] = (total - sum(SIZES[name] * other[name] for name in "abc")) / SIZES["d"]
            if all(2 <= each <= 8 for each in other.values()):
                assert noise(other) >= noise(bits) - 1e-12


def test_inside_the_bounds_bits_differ_by_half_the_logarithm_of_the_ratio_of_sizes() -> None:
    bits = equal_noise_bits({"small": 64, "large": 1024}, 4.0)
    assert bits["small"] - bits["large"] == pytest.approx(2.0)
    assert whole_bits({"small": 5.5, "large": 3.5}, {"small": 64, "large": 1024}) == {"small": 6, "large": 3}


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.text(max_size=3), st.integers(1, 10**6), min_size=1), st.floats(2, 8))
def test_whole_bits_keep_to_bounds_and_budget(sizes: dict[str, int], mean: float) -> None:
    whole = whole_bits(equal_noise_bits(sizes, mean), sizes)
    assert list(whole) == list(sizes) and all(2 <= each <= 8 for each in whole.values())
    assert sum(sizes[name] * each for name, each in whole.items()) <= mean * sum(sizes.values()) + 1e-3


def test_tensors_that_are_projected_together_share_the_budget() -> None:
    weights = {"small": torch.randn(4, 16), "large": torch.randn(64, 64)}
    codes = EqualNoise(4.0).project_all(weights, dict.fromkeys(weights, EUCLIDEAN))
    assert isinstance(codes["small"], UniformCode) and isinstance(codes["large"], UniformCode)
    assert codes["small"].bits == 7 and codes["large"].bits == 3
    again = EqualNoise(4.0).project_all(weights, dict.fromkeys(weights, EUCLIDEAN), warm=codes)
    for name, code in codes.items():
        assert torch.equal(again[name].decode(), code.decode())
    latent = weights["small"].clone().requires_grad_()
    seen = EqualNoise(4.0).through(latent, codes["small"])
    torch.testing.assert_close(seen, codes["small"].decode())


def test_settings_out_of_range() -> None:
    for make in (lambda: EqualNoise(9.0), lambda: EqualNoise(1.5), lambda: EqualNoise(4.0, least=0)):
        with pytest.raises(SchemeError):
            make()
    with pytest.raises(SchemeError, match="not in 2..8"):
        equal_noise_bits(SIZES, 1.0)
    with pytest.raises(SchemeError, match="uniform code"):
        EqualNoise(4.0, Uniform()).through(torch.ones(2, 2), None)  # type: ignore[arg-type]
