"""Quantization in portions: what is frozen stays to the last bit, the next portion is the largest of the rest."""

import pytest
import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN
from featherweight.core.scheme import Scheme
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.incremental import Choice, Incremental
from featherweight.schemes.logarithmic import LogCode, incremental
from featherweight.schemes.lowrank import LowRank, Rank
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.schemes.split import SplitCode
from featherweight.schemes.uniform import PerChannel, Uniform

SHARES = (0.5, 0.75, 0.875, 1.0)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("choice", Choice)
@pytest.mark.parametrize("inner", [incremental(5), incremental(3), Codebook(6), Uniform(3), Uniform(4, False)], ids=str)
def test_frozen_entries_never_change_and_more_join_them(inner: Scheme, choice: Choice) -> None:
    """With weights that move after every portion, as learning moves them."""
    scheme = Incremental(inner, choice)
    w = draw(8, 16)
    code = scheme.at(SHARES[0]).project(w)
    levels = set(inner.project(torch.linspace(-9, 9, 2000), warm=inner.project(w)).decode().tolist())
    masks = []
    for number, share in enumerate(SHARES[1:], 1):
        assert isinstance(code, SplitCode)
        masks.append(code.mask)
        assert int(code.mask.sum()) == round(SHARES[number - 1] * w.numel())
        assert set(code.decode()[code.mask].tolist()) <= levels
        assert torch.equal(code.decode()[~code.mask], w[~code.mask])
        w = scheme.carried(w + 0.3 * draw(8, 16, seed=number), code)
        assert torch.equal(w[code.mask], code.decode()[code.mask])
        after = scheme.at(share).advance({"w": w}, {"w": EUCLIDEAN}, {"w": code})["w"]
        assert torch.equal(after.decode()[code.mask], code.decode()[code.mask])
        if choice is Choice.LARGEST and isinstance(after, SplitCode):
            joined = after.mask & ~code.mask
            assert w[joined].abs().min() >= w[~after.mask].abs().max()
        code = after
    assert type(code) is type(inner.project(w)) and code.shape == (8, 16)
    assert set(code.decode().unique().tolist()) <= levels
    assert all(bool((later | ~earlier).all()) for earlier, later in zip(masks, masks[1:], strict=False))
    still = scheme.advance({"w": w + 1}, {"w": EUCLIDEAN}, {"w": code})["w"]
    assert torch.equal(still.decode(), code.decode())


def test_the_levels_are_those_of_the_weights_at_the_start() -> None:
    """Zhou et al. 2017, equations 1 to 3: n₁ from the largest weight, once; 5 bits are 17 levels."""
    w = draw(40, 40)
    code = Incremental(incremental(5)).at(0.5).project(w)
    assert isinstance(code, SplitCode) and isinstance(code.inside, LogCode)
    n1 = int(torch.floor(torch.log2(4 * w.abs().max() / 3)))
    magnitudes = code.decode()[code.mask].abs()
    assert float(magnitudes.max()) == 2.0**n1
    assert float(magnitudes[magnitudes > 0].min()) >= 2.0 ** (n1 - 7)
    assert code.inside.bits == 5


def test_random_entries_are_those_of_the_seed() -> None:
    w = draw(20, 20)
    codes = [Incremental(Uniform(4), Choice.RANDOM, 0.5, seed).project(w) for seed in (0, 0, 1)]
    masks = [code.mask for code in codes if isinstance(code, SplitCode)]
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    largest = Incremental(Uniform(4), share=0.5).project(w)
    assert isinstance(largest, SplitCode) and 0.3 < float((largest.mask == masks[0]).float().mean()) < 0.7


@pytest.mark.parametrize("inner", [Uniform(4, True, PerChannel()), Sparse(Fraction(0.5)), LowRank(Rank(1))], ids=str)
def test_numbers_of_parts_of_a_tensor_cannot_be_kept(inner: Scheme) -> None:
    with pytest.raises(SchemeError):
        Incremental(inner, share=0.5).project(draw(6, 8))


def test_settings_out_of_range() -> None:
    for share in (0.0, 1.5):
        with pytest.raises(SchemeError, match="share"):
            Incremental(Uniform(4), share=share)
