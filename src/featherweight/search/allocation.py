"""One scheme a tensor by a rate-distortion rule: ``min Σ D_t + λ Σ R_t``, tensor by tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.coding import entropy
from featherweight.core.code import Code
from featherweight.core.metric import Metric
from featherweight.core.scheme import Scheme
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float
from featherweight.schemes.sparse import Fraction, Sparse

SPARSITIES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
SIZES = (4, 8, 16, 32, 64)
SAMPLE = 1 << 18


@dataclass(frozen=True)
class Point:
    """What one scheme makes of one tensor: rate in bits, distortion in the metric."""

    scheme: Scheme
    bits: float
    distortion: float


def candidates(sparsities: Sequence[float] = SPARSITIES, sizes: Sequence[int] = SIZES) -> list[Scheme]:
    """Codebooks, dense and on sparse supports, and the tensor as it is."""
    shared: list[Scheme] = [Codebook(size) for size in (*sizes, 256)]
    return [Float(), *shared, *(Sparse(Fraction(s), Codebook(k)) for s in sparsities if s > 0 for k in sizes)]


def order_zero_bits(code: Code) -> float:
    """Order-0 entropy of the symbols plus side values at their stored width: a quick stand-in for the file's bytes."""
    total = 0.0
    for stream in code.streams():
        values = stream.values.detach().cpu().numpy()
        if stream.alphabet > 4096:
            total += values.size * (stream.alphabet - 1).bit_length()
        else:
            total += entropy(values, stream.alphabet)
    return total


def measure_points(
    weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], schemes: Sequence[Scheme]
) -> dict[str, list[Point]]:
    """Rate and distortion of every scheme on every tensor; those below the lower convex hull are left out."""
    points = {}
    for name, w in weights.items():
        sample, metric, share = sampled(w, metrics[name])
        found = []
        for scheme in schemes:
            code = scheme.project(sample, metric)
            error = float(metric.distance(sample, code.decode()))
            found.append(Point(scheme, order_zero_bits(code) / share, error / share))
        points[name] = hull(found)
    return points


def sampled(w: Tensor, metric: Metric, most: int = SAMPLE) -> tuple[Tensor, Metric, float]:
    """At most about ``most`` entries, evenly spaced, their metric, and their share: enough to place a curve."""
    stride = -(-w.numel() // most)
    if stride == 1:
        return w, metric, 1.0
    chosen = torch.zeros(w.numel(), dtype=torch.bool, device=w.device)
    chosen[::stride] = True
    mask = chosen.reshape(w.shape)
    return w[mask], metric.select(mask), float(chosen.sum()) / w.numel()


def hull(points: Sequence[Point]) -> list[Point]:
    """The lower convex hull of (bits, distortion), by falling bits: the only points that some λ chooses."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bits, p.distortion)):
        if kept and point.distortion >= kept[-1].distortion:
            continue
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) >= _slope(kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept[::-1]


def _slope(a: Point, b: Point) -> float:
    return (b.distortion - a.distortion) / max(b.bits - a.bits, 1e-9)


def allocate(points: Mapping[str, Sequence[Point]], price: float) -> dict[str, Point]:
    """The point of every tensor that minimises ``distortion + price · bits`` (Shoham and Gersho 1988)."""
    return {name: min(each, key=lambda p: p.distortion + price * p.bits) for name, each in points.items()}


def prices(points: Mapping[str, Sequence[Point]]) -> list[float]:
    """All positive λ at which the allocation changes, rising; between neighbours it is constant."""
    slopes = {-_slope(b, a) for each in points.values() for a, b in zip(each, each[1:], strict=False)}
    return sorted(slope for slope in slopes if slope > 0)
