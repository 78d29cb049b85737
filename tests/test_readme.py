"""The README's code runs, and the sizes in its table are the files'."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_python_session_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(BLOCKS[0], "README.md", "exec"), names)
    assert (tmp_path / "small.fwt").stat().st_size <= 12_000
    assert re.fullmatch(r"\d+ bytes\n", capsys.readouterr().out)


@pytest.mark.parametrize("number", range(1, len(BLOCKS)))
def test_other_blocks_compile(number: int) -> None:
    compile(BLOCKS[number], "README.md", "exec")


@pytest.mark.parametrize("name", ["deep-compression-lenet300", "deep-compression-lenet5", "lenet5-small"])
def test_the_table_tells_the_files_sizes(name: str) -> None:
    size = (ROOT / "evidence" / f"{name}.fwt").stat().st_size
    assert f"**{size:,} B**" in README


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
