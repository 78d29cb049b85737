"""Lite0 on photographs: how they are cut and split, and what the published weights make of the real ones."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from featherweight.architectures import EfficientNetLite
from featherweight.core.errors import DataError
from featherweight.core.task import Task, scores
from featherweight.search.budget import doubt_of_drop
from featherweight.tasks import Tensors, find, imagenet
from featherweight.tasks.packages import packaged_file

REAL = Path(os.environ.get("FEATHERWEIGHT_DATA", ""))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 images of one colour each, which tells their place in the order of names."""
    image = pytest.importorskip("PIL.Image", reason="Pillow (extra `images`) is not installed")
    root = tmp_path_factory.mktemp("data")
    folder = root / imagenet.FOLDER
    folder.mkdir()
    for place in range(500):
        colour = (place // 250 * 200 + 20, place % 250, 77)
        path = folder / f"{2 * place:04}_a_b.jpg"
        image.new("RGB", (20, 16), colour).save(path, quality=100, subsampling=0)
    return root


@pytest.fixture
def task(sample: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(sample))
    return find("imagenet-lite0")


def test_photographs_are_split_once_and_for_all(task: Task) -> None:
    (calibration, first), (evaluation, second) = map(imagenet.photographs, ("calibration", "evaluation"))
    assert calibration.shape == (100, 3, 224, 224) and evaluation.shape == (400, 3, 224, 224)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(0, 1000, 2))
    assert first.tolist() == sorted(first.tolist()) and second.tolist() == sorted(second.tolist())
    assert first[:5].tolist() == [2, 20, 24, 30, 42]  # another split would make figures of versions incomparable
    for pixels, labels in ((calibration, first), (evaluation, second)):
        red, green = pixels[:, 0, 112, 112].long(), pixels[:, 1, 112, 112].long()
        places = (red > 120).long() * 250 + green
        assert (places - labels // 2).abs().max() <= 2  # JPEG's rounding


def test_batches(task: Task) -> None:
    assert not task.unseen and task.selection is None and task.train is None
    assert "no selection data" in (doubt_of_drop(task) or "")
    batches = list(task.calibration_data())
    assert all(isinstance(each, torch.Tensor) for each in batches) and sum(map(len, batches)) == 100  # no labels
    assert task.evaluation is not None
    inputs, targets = next(iter(task.evaluation()))
    pixels = imagenet.photographs("evaluation")[0][: len(targets)]
    torch.testing.assert_close(inputs, (pixels.double() - 127).div(128).float())


def test_the_centre_is_cut_out(sample: Path, tmp_path: Path) -> None:
    """87.5 % of the shorter side, in the middle of both."""
    from PIL import Image

    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[4:60, 20:76] = 255  # the square of 56 = 0.875 * 64
    Image.fromarray(pixels).save(tmp_path / "square.png")
    assert imagenet.pixels_of(tmp_path / "square.png", 28).eq(255).all()
    pixels[4, 20] = 0
    Image.fromarray(pixels).save(tmp_path / "corner.png")
    found = imagenet.pixels_of(tmp_path / "corner.png", 56)
    assert found[:, 0, 0].eq(0).all() and found[:, 1:, 1:].eq(255).all()
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert imagenet.pixels_of(tmp_path / "grey.png", 56).shape == (3, 56, 56)


def test_what_is_no_sample_is_told(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"has 0 photographs, not the 500.*FEATHERWEIGHT_DATA"):
        imagenet.photographs("evaluation")
    (tmp_path / "0001_x.jpg").write_bytes(b"no photograph")
    with pytest.raises(DataError, match="no photograph that can be read"):
        imagenet.pixels_of(tmp_path / "0001_x.jpg", 224)
    for name in ("tench.jpg", "1000_x.jpg", "-1_x.jpg"):
        with pytest.raises(DataError, match="number of a class"):
            imagenet._label(tmp_path / name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"featherweight\[images\]"):
        imagenet.pixels_of(tmp_path / "0001_x.jpg", 224)


def test_every_published_name_has_one_of_ours() -> None:
    assert imagenet.renamed("_conv_stem.weight") == "stem.weight"
    assert imagenet.renamed("_blocks.3._bn1.running_mean") == "blocks.3.depthwise_norm.running_mean"
    try:
        path = packaged_file(imagenet.PACKAGE, imagenet.WEIGHTS)
    except DataError:
        pytest.skip(f"{imagenet.PACKAGE} (extra `models`) is not installed")
    names = [imagenet.renamed(name) for name in torch.load(path, map_location="cpu", weights_only=True)]
    with torch.device("meta"):
        assert sorted(names) == sorted(EfficientNetLite().state_dict())


def test_the_published_weights_know_the_photographs() -> None:
    pytest.importorskip("PIL", reason="Pillow (extra `images`) is not installed")
    if not (REAL / imagenet.FOLDER).is_dir():
        pytest.skip(f"{imagenet.FOLDER} is not in FEATHERWEIGHT_DATA")
    task = find("imagenet-lite0")
    try:
        model = task.model()
    except DataError:
        pytest.skip(f"{imagenet.PACKAGE} (extra `models`) is not installed")
    pixels, labels = imagenet.photographs("calibration")
    data = Tensors(pixels, labels, 50, augment=imagenet.normalized)
    assert 89 <= scores(model, data, task.quality).sum().item() <= 93  # 91, and 352 of the other 400
