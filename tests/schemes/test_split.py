"""Tensors in two parts: every entry has its own part's code, and outliers that are kept apart leave finer levels."""

import pytest
import torch

from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Diagonal
from featherweight.schemes.codebook import Codebook, Optimal
from featherweight.schemes.floats import Float, Floats, Width
from featherweight.schemes.split import Split
from featherweight.schemes.uniform import Uniform


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_each_part_is_what_its_scheme_makes_of_its_entries() -> None:
    w = draw(6, 10)
    code = Split(Float(Width.FLOAT16), Codebook(3, Optimal()), 0.2).project(w)
    least = w.abs().flatten().sort(descending=True).values[11]
    assert torch.equal(code.mask, w.abs() >= least)
    assert torch.equal(code.decode()[code.mask], w[code.mask].half().float())
    assert torch.equal(code.decode()[~code.mask], Codebook(3, Optimal()).project(w[~code.mask]).decode())


def test_the_metric_says_what_is_large() -> None:
    w, d = torch.ones(8), torch.ones(8)
    d[5] = 4
    code = Split(Float(), Uniform(2), 1 / 8).project(w, Diagonal(d))
    assert code.mask.nonzero().tolist() == [[5]]


def test_outliers_kept_as_floats_leave_the_rest_a_finer_step() -> None:
    w = draw(32, 32)
    w[3, 4], w[20, 1] = 40.0, -55.0
    apart = Split(Float(Width.FLOAT16), Uniform(4), 2 / 1024).project(w)
    together = Uniform(4).project(w)
    errors = [float(EUCLIDEAN.distance(w, code.decode())) for code in (apart, together)]
    assert errors[0] < errors[1] / 20


def test_a_part_of_nothing_is_floats() -> None:
    code = Split(Uniform(1), Uniform(4), 0.01).project(draw(5))
    assert not bool(code.mask.any()) and isinstance(code.inside, Floats) and code.inside.shape == (0,)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_all_or_nothing_is_no_split(share: float) -> None:
    with pytest.raises(SchemeError, match="not between 0 and 1"):
        Split(Float(), Uniform(4), share)
