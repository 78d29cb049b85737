"""The entropy calibration, against a slow one that follows the slides bin by bin, in plain Python."""

from math import inf, log

import numpy as np
import pytest
import torch
from torch import Tensor

from featherweight.activations.entropy import Entropy, divergence
from featherweight.activations.least_squares import LeastSquares
from featherweight.activations.observers import Histogram
from featherweight.core.errors import SchemeError


def smooth(counts: list[float]) -> list[float] | None:
    zeros = sum(each == 0 for each in counts)
    others = len(counts) - zeros
    if others == 0:
        return None
    result = [0.0001 if each == 0 else each - 0.0001 * zeros / others for each in counts]
    return result if min(result) > 0 else None


def slow_divergence(reference: list[float], kept: list[float], levels: int) -> float:
    """``KL`` of the reference distribution and of the kept bins after a round trip through the levels."""
    size = len(kept)
    bins_of: dict[int, list[int]] = {}
    for k in range(size):
        middle = (2 * k + 1) * levels  # over 2 · size: in exact integers
        bins_of.setdefault(middle // (2 * size), []).append(k)
    assert sorted(bins_of) == list(range(levels))
    candidate = [0.0] * size
    for members in bins_of.values():
        used = [k for k in members if reference[k] != 0]
        for k in used:
            candidate[k] = sum(kept[j] for j in members) / len(used)
    p, q = smooth(reference), smooth(candidate)
    if p is None or q is None:
        return inf
    return sum(a / sum(p) * log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))


def slow_threshold(x: Tensor, bins: int, width: float, levels: int, one_sided: bool) -> float:
    """From the samples themselves, exact zeros left out."""
    positive, negative = [0.0] * bins, [0.0] * bins
    for value in x.tolist():
        if value > 0:
            positive[int(value / width)] += 1
        elif value < 0:
            negative[int(-value / width)] += 1
    used = max(k for k in range(bins) if positive[k] or negative[k]) + 1
    best, threshold = inf, 0
    for i in range(1, used + 1):
        if one_sided:
            every = [a + b for a, b in zip(positive, negative, strict=True)]
            kept, reference = every[:i], every[:i]
            reference[-1] += sum(every[i:])
        else:
            kept = negative[:i][::-1] + positive[:i]
            reference = list(kept)
            reference[0] += sum(negative[i:])
            reference[-1] += sum(positive[i:])
        if len(kept) < levels:
            continue
        found = slow_divergence(reference, kept, levels)
        if found < best - 1e-12:
            best, threshold = found, i
    return threshold * width


def samples(kind: str) -> Tensor:
    torch.manual_seed(5)
    x = torch.randn(600, dtype=torch.float64)
    match kind:
        case "normal":
            return x
        case "rectified":
            return (x + 0.2).relu()
        case "negative":
            return -x.relu()
        case "outliers":
            return torch.cat([x, torch.tensor([25.0, -11.0], dtype=torch.float64)])
        case _:
            return torch.tensor([0.0, 1.0, 1.0, -7.0, 3.5, 0.001], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["normal", "rectified", "negative", "outliers", "few"])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_threshold_is_that_of_the_slides(kind: str, bits: int, symmetric: bool) -> None:
    x = samples(kind)
    watch = Entropy(bins=64).start()
    watch.add(x)
    found = watch.range(bits, symmetric)
    one_sided = not symmetric and (bool((x >= 0).all()) or bool((x <= 0).all()))
    count = 2**bits if one_sided else 2**bits - 1
    threshold = slow_threshold(x, 64, watch.statistics.width, count, one_sided)
    seen = watch.statistics
    if symmetric:
        assert found.high == min(threshold, seen.largest)
    else:
        assert found.high == max(min(threshold, seen.high), 0)
        assert found.low == min(max(-threshold, seen.low), 0)


def test_the_example_of_the_slides() -> None:
    """Bins 1 0 2 3 5 3 1 7 in two levels: 6 over three bins that are not empty, 16 over four."""
    reference = [1.0, 0, 2, 3, 5, 3, 1, 7]
    candidate = [2.0, 0, 2, 2, 4, 4, 4, 4]
    p, q = smooth(reference), smooth(candidate)
    assert p is not None and q is not None
    expected = sum(a / 22 * log(a / b) for a, b in zip(p, q, strict=True))
    assert slow_divergence(reference, reference, 2) == pytest.approx(expected, rel=1e-9)
    assert divergence(np.array(reference), 0, 8, 2) == pytest.approx(expected, rel=1e-9)


def test_a_long_tail_is_clipped_and_a_flat_one_is_not() -> None:
    torch.manual_seed(0)
    tail = torch.distributions.Laplace(0.0, 1.0).sample((100_000,))
    watch = Entropy().start()
    watch.add(tail)
    assert watch.range(4, symmetric=True).high < 0.8 * float(tail.abs().max())
    flat = torch.rand(100_000) * 2 - 1
    watch = Entropy().start()
    watch.add(flat)
    assert watch.range(8, symmetric=True).high > 0.99


def test_dead_activations_do_not_move_the_threshold() -> None:
    x = samples("rectified")
    alive, dead = Entropy(bins=512).start(), Entropy(bins=512).start()
    alive.add(x[x > 0])
    dead.add(torch.cat([x, torch.zeros(10_000, dtype=torch.float64)]))
    assert alive.range(4) == dead.range(4)


def test_a_finer_histogram_is_merged() -> None:
    x = samples("normal")
    fine, coarse = Histogram(1024), Histogram(64)
    fine.add(x)
    coarse.add(x)
    rule = Entropy(bins=64)
    assert rule.range(fine, 4) == rule.range(coarse, 4)
    assert rule.range(fine, 4) != Entropy(bins=1024).range(fine, 4)


def test_too_few_activations_for_the_bins() -> None:
    watch = Entropy(bins=1 << 14).start()
    watch.add(torch.tensor([2.01]))
    with pytest.raises(SchemeError, match="too few activations"):
        watch.range(14, symmetric=True)


def test_more_levels_than_bins() -> None:
    watch = Entropy(bins=64).start()
    watch.add(samples("normal"))
    with pytest.raises(SchemeError, match="255 levels; use fewer bits"):
        watch.range(8)
    assert LeastSquares().range(watch.statistics, 8).high > 1
