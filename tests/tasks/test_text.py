"""Texts: tiny Shakespeare where it is whole, and docstrings in a fixed order."""

import sysconfig
from pathlib import Path

import pytest

from featherweight.core.errors import DataError
from featherweight.tasks import text
from featherweight.tasks.text import docstring_paragraphs, shakespeare

SOURCE = '''
"""The module has a docstring of six words.

And a second paragraph that is not taken.
"""

class Big:
    """The class   has a docstring
    over two lines."""

    def short(self):
        """Too short."""

    def method(self):
        """The method has one of at least six words."""

        def inner():
            """The inner function has a docstring of its own."""

async def last():
    """The class has a docstring over two lines."""

def undocumented():
    pass
'''
PARAGRAPHS = [
    "The module has a docstring of six words.",
    "The class has a docstring over two lines.",
    "The method has one of at least six words.",
    "The inner function has a docstring of its own.",
]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of two modules."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(text, "MODULES", ("first", "second"))
    (tmp_path / "first.py").write_text(SOURCE)
    (tmp_path / "second.py").write_text('"""Another module that has a docstring of its own."""' + SOURCE)
    return tmp_path


def test_first_paragraphs_come_once_each_in_the_order_of_the_source(library: Path) -> None:
    another = "Another module that has a docstring of its own."
    assert docstring_paragraphs(5) == [*PARAGRAPHS, another]
    assert docstring_paragraphs(3) == PARAGRAPHS[:3]
    assert docstring_paragraphs(3, most=2) == [*PARAGRAPHS[:2], another]
    assert docstring_paragraphs(1, words=9) == PARAGRAPHS[2:3]


def test_too_few_or_none_are_told(library: Path) -> None:
    with pytest.raises(DataError, match="has 5 such paragraphs, not 6"):
        docstring_paragraphs(6)
    (library / "second.py").unlink()
    with pytest.raises(DataError, match="second.py of Python's standard library is not there"):
        docstring_paragraphs(5)


def test_this_pythons_library_has_enough() -> None:
    found = docstring_paragraphs(750)
    assert len(set(found)) == 750 and docstring_paragraphs(750) == found
    assert all(len(each.split()) >= 6 and "\n" not in each for each in found)


@pytest.mark.parametrize(("content", "said"), [(b"To be, or not", "13 characters"), (b"\xff", "cannot be read")])
def test_another_text_is_told(content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    (tmp_path / "tinyshakespeare.txt").write_bytes(content)
    with pytest.raises(DataError, match=f"{said}.*Delete it and it will be fetched again"):
        shakespeare()
