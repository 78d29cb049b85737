"""Parity against its formulas."""

from math import inf, log10

import numpy as np
import pytest

from featherweight.core.errors import EngineError
from featherweight.engines.parity import Parity, parity

R = np.array([[1.0, 2.0], [-4.0, 0.5]], np.float32)


def test_known_differences() -> None:
    y = R + np.array([[0.5, 0.0], [0.0, -0.25]], np.float32)
    found = parity([[R]], [[y]])
    assert (found.largest, found.agreement, found.samples) == (0.125, 1.0, 2)
    assert found.snr == pytest.approx(10 * log10((1 + 4 + 16 + 0.25) / (0.25 + 0.0625)))


def test_batches_count_together() -> None:
    y = R[::-1].copy()
    assert parity([[R[:1]], [R[1:]]], [[y[:1]], [y[1:]]]) == parity([[R]], [[y]])


def test_no_difference() -> None:
    assert parity([[R]], [[R.copy()]]) == Parity(0.0, inf, 1.0, 2)
    zeros = np.zeros((3, 1), np.float32)
    assert parity([[zeros]], [[zeros]]) == Parity(0.0, inf, None, 3)


def test_agreement_is_of_classes_alone() -> None:
    y = R[:, ::-1].copy()
    assert parity([[R]], [[y]]).agreement == 0.0
    assert parity([[R[:, :1]]], [[y[:, :1]]]).agreement is None
    assert parity([[R[None]]], [[y[None]]]).agreement is None


def test_numbers_that_are_none_are_infinitely_far() -> None:
    y = R.copy()
    y[0, 0] = np.nan
    found = parity([[R]], [[y]])
    assert (found.largest, found.snr) == (inf, -inf)
    assert parity([[y]], [[y.copy()]]).largest == 0.0


def test_whole_numbers() -> None:
    assert parity([[np.array([[200], [1]], np.uint8)]], [[np.array([[1], [1]], np.uint8)]]).largest == 199 / 200


@pytest.mark.parametrize("outputs", [[], [[R], [R]], [[R, R]], [[R[:1]]], [[]]])
def test_what_cannot_be_compared(outputs: list[list[np.ndarray]]) -> None:
    with pytest.raises(EngineError):
        parity([[R]], outputs)
