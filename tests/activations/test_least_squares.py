"""The least squared error, against brute force on the samples themselves."""

import pytest
import torch
from torch import Tensor

from featherweight.activations.least_squares import LeastSquares, SquaredError
from featherweight.activations.observers import Histogram
from featherweight.activations.ranges import MinMax, levels


def error(x: Tensor, low: Tensor, high: Tensor, count: int) -> Tensor:
    """Mean squared error of the samples, to the nearest of all ``count`` levels that are listed one by one."""
    errors = []
    for a, b in zip(low.tolist(), high.tolist(), strict=True):
        step = (b - a) / (count - 1)
        start = a if a == -b else -int(-a / step + 0.5) * step
        grid = start + step * torch.arange(count, dtype=torch.float64)
        edges = (grid[1:] + grid[:-1]) / 2
        errors.append(float((x - grid[torch.searchsorted(edges, x)]).square().mean()))
    return torch.tensor(errors, dtype=torch.float64)


def samples(kind: str, count: int = 4000) -> Tensor:
    torch.manual_seed(3)
    x = torch.randn(count, dtype=torch.float64)
    match kind:
        case "normal":
            return x
        case "shifted":
            return x * 0.7 + 0.9
        case "rectified":
            return x.relu()
        case "negative":
            return -x.relu() * 5
        case "heavy":
            return x.sign() * x.abs() ** 3
        case _:
            return x.clamp(0, 1)


KINDS = ("normal", "shifted", "rectified", "negative", "heavy", "clamped")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 7, 16, 255, 256])
def test_the_error_is_that_of_the_samples(kind: str, count: int) -> None:
    x = samples(kind)
    seen = Histogram()
    seen.add(x)
    largest = seen.largest
    shares = torch.tensor([[1.0], [0.63], [0.2]], dtype=torch.float64)
    low, high = shares * min(seen.low, 0), shares * max(seen.high, 0)
    found = SquaredError(seen, count)(low / seen.width, high / seen.width) * seen.width**2
    # Within a bin a sample is known to half a width, and its error to what that makes of it.
    expected = error(x, low[:, 0], high[:, 0], count)
    torch.testing.assert_close(found, expected, rtol=0.05 if count > 100 else 5e-3, atol=largest**2 * 1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [1, 2, 4, 6])
@pytest.mark.parametrize("symmetric", [False, True])
def test_no_share_of_the_range_does_better(kind: str, bits: int, symmetric: bool) -> None:
    x = samples(kind)
    watch = LeastSquares().start()
    watch.add(x)
    found = watch.range(bits, symmetric)
    whole = MinMax().range(watch.statistics, bits, symmetric)
    shares = torch.linspace(0.02, 1, 99, dtype=torch.float64)
    if symmetric:
        low, high = whole.low * shares, whole.high * shares
    else:
        some = shares[4::10]
        low, high = (each.reshape(-1) for each in torch.meshgrid(whole.low * some, whole.high * some, indexing="ij"))
        low, high = torch.cat([low, whole.low * shares]), torch.cat([high, whole.high * shares])
        keep = high > low
        low, high = low[keep], high[keep]
    brute = float(error(x, low, high, levels(bits, symmetric)).min())
    ends = torch.tensor([[found.low], [found.high]], dtype=torch.float64)
    mine = float(error(x, *ends, levels(bits, symmetric)))
    assert mine <= brute * 1.02


def test_one_symmetric_bit_is_the_mean_magnitude() -> None:
    """``min_a E[(x − a sign x)²]`` has the solution ``a = E|x|``."""
    x = samples("normal")
    watch = LeastSquares().start()
    watch.add(x)
    assert watch.range(1, symmetric=True).high == pytest.approx(float(x.abs().mean()), rel=0.02)


def test_more_bits_clip_less() -> None:
    watch = LeastSquares().start()
    watch.add(samples("normal", 100_000))
    highs = [watch.range(bits, symmetric=True).high for bits in range(2, 9)]
    assert highs == sorted(highs) and highs[0] < 0.6 * highs[-1]


def test_the_zero_point_is_an_integer() -> None:
    watch = LeastSquares().start()
    watch.add(samples("shifted"))
    found = watch.range(4)
    zero = -found.low / (found.high - found.low) * 15
    assert zero == pytest.approx(round(zero), abs=1e-9) and 0 < zero < 15


def test_a_lone_outlier_is_clipped_though_bins_are_wider_than_steps() -> None:
    x = torch.cat([samples("normal", 200_000), torch.tensor([30.0], dtype=torch.float64)])
    watch = LeastSquares(bins=64).start()
    watch.add(x)
    found = watch.range(8, symmetric=True)
    ends = torch.tensor([[found.low], [found.high]], dtype=torch.float64)
    assert float(error(x, *ends, 255)) < 0.8 * float(error(x, *(ends / found.high * 30), 255))
