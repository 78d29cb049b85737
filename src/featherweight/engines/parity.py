"""How far an engine's outputs are from the reference's."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log10
from typing import Any

import numpy as np

from featherweight.core.errors import EngineError
from featherweight.engines.engine import Arrays


@dataclass(frozen=True)
class Parity:
    """Outputs ``y`` of an engine beside those ``r`` of a reference, all batches and outputs together.

    largest    ``max |y − r| / max |r|``
    snr        signal to noise, ``10 log₁₀(Σ r² / Σ (y − r)²)`` dB
    agreement  the share of samples whose largest entry is the same, where the first output is ``[n, classes]`` with
               two classes or more; else ``None``
    samples    ``n``

    No difference at all is an ``snr`` of infinity. Numbers that are infinite or none in one alone count as infinitely
    far.
    """

    largest: float
    snr: float
    agreement: float | None
    samples: int


def parity(reference: Sequence[Arrays], outputs: Sequence[Arrays]) -> Parity:
    """Compare batches of outputs, each in the engine's order; ``EngineError`` where numbers or shapes differ."""
    if len(reference) != len(outputs) or not reference:
        raise EngineError(f"{len(outputs)} batches of outputs beside {len(reference)} of the reference; give as many")
    pairs = [pair for r, y in zip(reference, outputs, strict=True) for pair in _pairs(r, y)]
    noise = [_difference(r, y) for r, y in pairs]
    signal = [np.where(np.isfinite(r), r, 0).astype(np.float64) for r, _ in pairs]
    largest = _ratio(_largest(noise), _largest(signal))
    noise_power = _power(noise)
    power = _ratio(_power(signal), noise_power) if noise_power else inf
    firsts = [(r[0], y[0]) for r, y in zip(reference, outputs, strict=True)]
    samples = sum(len(r) if r.ndim else 1 for r, _ in firsts)
    return Parity(largest, 10 * log10(power) if power else -inf, _agreement(firsts), samples)


def _pairs(reference: Arrays, outputs: Arrays) -> list[tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]]:
    if [each.shape for each in reference] != [each.shape for each in outputs] or not reference:
        shapes = " and ".join(str([each.shape for each in arrays]) for arrays in (reference, outputs))
        raise EngineError(f"outputs of shapes {shapes} cannot be compared; give both the same inputs")
    return list(zip(reference, outputs, strict=True))


def _difference(r: "np.ndarray[Any, Any]", y: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    same = (r == y) | (np.isnan(r) & np.isnan(y))
    finite = np.isfinite(r) & np.isfinite(y)
    difference = np.where(finite, y, 0).astype(np.float64) - np.where(finite, r, 0)
    return np.where(same, 0.0, np.where(finite, difference, inf))


def _largest(arrays: Sequence["np.ndarray[Any, Any]"]) -> float:
    return max(float(np.abs(each).max(initial=0)) for each in arrays)


def _power(arrays: Sequence["np.ndarray[Any, Any]"]) -> float:
    return sum(float(np.square(each).sum()) for each in arrays)


def _ratio(above: float, below: float) -> float:
    """``above / below``, zero of nothing and infinity of something beside nothing."""
    return above / below if below else inf if above else 0.0


def _agreement(pairs: Sequence[tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]]) -> float | None:
    if any(r.ndim != 2 or r.shape[1] < 2 for r, _ in pairs):
        return None
    same = np.concatenate([r.argmax(1) == y.argmax(1) for r, y in pairs])
    return float(same.mean()) if len(same) else None
