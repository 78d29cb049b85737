"""Batches of tensors, the data folder, and the random changes of images."""

import sys
from pathlib import Path

import pytest
import torch

from featherweight.core.errors import DataError
from featherweight.tasks.augment import Jitter, Shift, ShiftAndFlip
from featherweight.tasks.data import Tensors, data_folder

INPUTS, TARGETS = torch.arange(20.0).view(10, 2), torch.arange(10)


def test_batches_in_order_again_and_again() -> None:
    data = Tensors(INPUTS, TARGETS, batch_size=4)
    assert (len(data), data.samples) == (3, 10)
    for _ in range(2):
        batches = list(data)
        assert [len(targets) for _, targets in batches] == [4, 4, 2]
        assert torch.equal(torch.cat([inputs for inputs, _ in batches]), INPUTS)
        assert torch.equal(torch.cat([targets for _, targets in batches]), TARGETS)


def test_order_needs_no_random_numbers_unless_shuffled() -> None:
    before = torch.get_rng_state()
    list(Tensors(INPUTS, TARGETS))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_seed_decides_the_order() -> None:
    data = Tensors(INPUTS, TARGETS, batch_size=3, shuffle=True)

    def order(seed: int) -> list[int]:
        torch.manual_seed(seed)
        pairs = [(inputs, targets) for inputs, targets in data]
        assert all(torch.equal(inputs, INPUTS[targets]) for inputs, targets in pairs)
        return torch.cat([targets for _, targets in pairs]).tolist()

    with torch.random.fork_rng(devices=[]):
        assert order(1) == order(1) != order(2)
        assert sorted(order(3)) == list(range(10))
        assert order(1) != torch.cat([targets for _, targets in data]).tolist()  # a second round, without a seed


def test_augmentation_is_applied_to_inputs_only() -> None:
    (inputs, targets), *_ = Tensors(INPUTS, TARGETS, augment=torch.neg)
    assert torch.equal(inputs, -INPUTS) and torch.equal(targets, TARGETS)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(DataError, match="10 inputs but 9 targets"):
        Tensors(INPUTS, TARGETS[:9])
    with pytest.raises(DataError, match="batch of 0 samples"):
        Tensors(INPUTS, TARGETS, batch_size=0)


def test_the_environment_names_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    assert data_folder() == tmp_path


@pytest.mark.parametrize(
    ("platform", "variable", "folder"),
    [
        ("linux", "XDG_CACHE_HOME", "cache/featherweight"),
        ("linux", None, "home/.cache/featherweight"),
        ("darwin", None, "home/Library/Caches/featherweight"),
        ("win32", "LOCALAPPDATA", "cache/featherweight"),
        ("win32", None, "home/AppData/Local/featherweight"),
    ],
)
def test_the_usual_place_of_each_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, variable: str | None, folder: str
) -> None:
    for name in ("FEATHERWEIGHT_DATA", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    assert data_folder() == tmp_path / folder


def test_a_shift_moves_each_image_by_its_own_pixels() -> None:
    images = torch.zeros(200, 2, 7, 7)
    images[:, 0, 3, 3], images[:, 1, 3, 3] = 1.0, 2.0
    moved = Shift(2, (-5.0, -6.0))(images)
    assert moved.shape == images.shape
    places = (moved[:, 0] == 1).nonzero()
    assert torch.equal(places, (moved[:, 1] == 2).nonzero())  # the channels stay together
    assert len(places) == 200
    assert {tuple(place) for place in (places[:, 1:] - 3).tolist()} == {
        (down, right) for down in range(-2, 3) for right in range(-2, 3)
    }


def test_a_shift_brings_in_the_background() -> None:
    images = torch.zeros(50, 2, 4, 4)
    moved = Shift(1, (-5.0, -6.0))(images)
    assert set(moved[:, 0].unique().tolist()) == {0.0, -5.0}
    assert set(moved[:, 1].unique().tolist()) == {0.0, -6.0}
    assert torch.equal(Shift(0, (1.0, 1.0))(images), images)


def test_a_flip_mirrors_half_of_the_images() -> None:
    images = torch.arange(3.0).expand(400, 1, 3, 3)
    flipped = ShiftAndFlip(Shift(0, (0.0,)))(images)
    mirrored = (flipped == images.flip(3)).flatten(1).all(dim=1)
    assert torch.equal(flipped[~mirrored], images[~mirrored])
    assert 140 < mirrored.sum() < 260


def test_a_jitter_of_nothing_changes_nothing() -> None:
    images = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(Jitter(0, 0, 0, background=-0.8)(images), images)


def test_a_jitter_moves_by_parts_of_pixels_and_brings_in_the_background() -> None:
    images = torch.full((300, 1, 8, 8), -2.0)
    images[:, :, 3:5, 3:5] = 1.0
    moved = Jitter(0, 0, 0.5, background=-2.0)(images)
    weight = (moved[:, 0] + 2) / 3  # the square of 2 x 2 pixels has 4 in all, wherever it is
    torch.testing.assert_close(weight.sum(dim=(1, 2)), torch.full((300,), 4.0))
    centre = (weight.sum(dim=1) * torch.arange(8.0)).sum(dim=1) / 4 - 3.5
    assert 0.4 < centre.max() <= 0.501 and -0.501 <= centre.min() < -0.4


def test_a_jitter_turns_and_zooms_within_its_limits() -> None:
    bar = torch.zeros(300, 1, 32, 32)
    bar[:, :, 15:17, 4:28] = 1.0
    turned, zoomed = Jitter(10, 0, 0, 0.0)(bar)[:, 0], Jitter(0, 0.1, 0, 0.0)(bar)[:, 0]
    places = torch.arange(32.0) - 15.5
    slope = (turned * places[:, None] * places).sum(dim=(1, 2)) / (turned * places**2).sum(dim=(1, 2))
    limit = torch.tensor(10.0).deg2rad().tan()
    assert limit * 0.8 < slope.max() < limit * 1.1 and -limit * 1.1 < slope.min() < -limit * 0.8
    length = zoomed.sum(dim=(1, 2)) / zoomed.sum(dim=1).amax(dim=1)
    assert 24 / 1.1 - 1 < length.min() < 23 and 25 < length.max() < 24 / 0.9 + 1
