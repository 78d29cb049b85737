"""Giving freed memory back never fails, whatever the C library."""

import ctypes

import pytest

from featherweight.core.memory import give_back


def test_it_may_be_asked_at_any_time() -> None:
    give_back()


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_other_systems_are_left_alone(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str | None) -> None:
        raise error("no such library")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    give_back()
