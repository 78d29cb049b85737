"""Fixed point: the nearest of all numbers of a word, rounding without bias, and as few bits as the numbers need."""

import pytest
import torch

from featherweight import file
from featherweight.core.errors import SchemeError
from featherweight.schemes.fixed_point import FixedPoint, Rounding


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("integer, fraction", [(1, 0), (2, 3), (3, 4), (8, 0), (0, 4), (-1, 6)])
def test_the_nearest_of_all_numbers_of_the_word(integer: int, fraction: int) -> None:
    grid = FixedPoint(integer, fraction)
    count = 2 ** (integer + fraction)
    numbers = (torch.arange(count, dtype=torch.float64) - count // 2) / 2**fraction
    assert (grid.low, grid.high) == (float(numbers[0]), float(numbers[-1]))
    w = 2.0**integer * draw(500).double()
    distance = (w[:, None] - numbers).abs().amin(1)
    for found in (grid.project(w).decode(), grid.rounded(w)):
        torch.testing.assert_close((found - w).abs(), distance, rtol=0, atol=0)


@pytest.mark.parametrize("fraction", [2, 8])
def test_stochastic_rounding_is_without_bias_and_goes_to_a_neighbour(fraction: int) -> None:
    """Gupta et al. 2015, section 3.1: E[round(x)] = x, up with the probability of the distance from below."""
    grid = FixedPoint(4, fraction)
    x = torch.tensor([0.3, -0.3, 1.1, -2.77, 0.5, 3.9999]) / 2 ** (fraction - 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = grid.rounded(x.expand(40_000, -1), Rounding.STOCHASTIC)
    below = (x / grid.step).floor() * grid.step
    assert bool(((drawn == below) | (drawn == below + grid.step)).all())
    assert torch.equal(drawn[:, 4] == 0.5 / 2 ** (fraction - 2), torch.ones(40_000, dtype=torch.bool))
    error = (drawn.double().mean(0) - x).abs()
    assert float((error / grid.step).max()) < 4 * 0.5 / 40_000**0.5
    nearest = grid.rounded(x)
    assert float((nearest - x).abs().max() / grid.step) > 0.1  # whose bias does not average out


def test_what_is_beyond_the_ends_saturates() -> None:
    grid = FixedPoint(2, 6)
    for rounding in Rounding:
        assert grid.rounded(torch.tensor([7.0, -7.0]), rounding).tolist() == [2 - 2**-6, -2.0]


@pytest.mark.parametrize("fraction", [4, 10, 14, 22])
def test_a_file_holds_every_number_in_few_bits(fraction: int) -> None:
    """Within 4 % of what the entropy of rounded Gaussian numbers says, ``h(w) + fraction`` bits each."""
    w = 0.05 * draw(300, 400)
    code = FixedPoint(2, fraction).project(w)
    read = type(code).from_streams(code.layout(), code.shape, code.dtype, _reader(code))
    assert torch.equal(read.decode(), code.decode()) and read.width == code.width <= fraction
    if fraction >= 10:
        entropy = float(torch.log2(torch.tensor(0.05 * (2 * torch.pi * torch.e) ** 0.5))) + fraction
        assert sum(file.stream_bits(code).values()) < 1.04 * entropy * w.numel()


def _reader(code):
    streams = {stream.name: stream for stream in code.streams()}

    def take(name: str, shape: tuple[int, ...], alphabet: int) -> torch.Tensor:
        values = streams[name].values
        assert alphabet == streams[name].alphabet and values.shape == shape and int(values.max()) < alphabet
        return values

    return take


@pytest.mark.parametrize("integer, fraction", [(0, 0), (20, 5), (2, -1), (2, 64)])
def test_words_that_are_none(integer: int, fraction: int) -> None:
    with pytest.raises(SchemeError, match="words of"):
        FixedPoint(integer, fraction)
