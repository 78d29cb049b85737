"""The tutorial's blocks run: each part in order, in an empty folder."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
PARTS = {part.splitlines()[0]: part for part in PAGE.split("\n## ")[1:]}
NEEDED = {"A model of your own": (), "A model from `transformers`": ("transformers",)}


def test_the_parts_are_known() -> None:
    assert set(PARTS) == set(NEEDED)


@pytest.mark.parametrize("part", NEEDED)
def test_blocks_run(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "onnxruntime", "openvino", *NEEDED[part]):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PARTS[part], re.DOTALL)
    assert len(blocks) > 2
    space: dict[str, object] = {"__name__": "tutorial"}
    for block in blocks:
        exec(compile(block, "docs/tutorial.md", "exec"), space)
    assert list(tmp_path.glob("*.onnx")) and list(tmp_path.glob("*.fwt"))
