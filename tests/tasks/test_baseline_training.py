"""Baselines: trained once, kept, found again, and without a trace in the caller's random state."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from featherweight.core.errors import DataError
from featherweight.tasks.data import Tensors
from featherweight.tasks.training import Baseline, baseline, rise_and_fall, train_baseline

SETTINGS = Baseline(epochs=4, batch_size=16, learning_rate=0.05, weight_decay=0.0, seed=3, shift=0)
INPUTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
DATA = Tensors(INPUTS, (INPUTS[:, 0] > 0).long(), SETTINGS.batch_size, shuffle=True)


class Net(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 2)


def no_data() -> Tensors:
    raise AssertionError("a model that is kept needs no data")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    return tmp_path


def test_training_learns_and_the_model_is_kept(folder: Path) -> None:
    first = baseline("net", Net, lambda: DATA, SETTINGS)
    assert (first(INPUTS).argmax(1) == DATA.targets).float().mean() > 0.9
    assert not first.training
    path = folder / "models" / f"net-{SETTINGS.key()}.safetensors"
    assert list((folder / "models").iterdir()) == [path]
    again = baseline("net", Net, no_data, SETTINGS)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


def test_the_same_seed_gives_the_same_bits(folder: Path) -> None:
    first = baseline("net", Net, lambda: DATA, SETTINGS).state_dict()
    next((folder / "models").iterdir()).unlink()
    again = baseline("net", Net, lambda: DATA, SETTINGS).state_dict()
    other = baseline("net", Net, lambda: DATA, replace(SETTINGS, seed=4)).state_dict()
    assert torch.equal(first["weight"], again["weight"])
    assert not torch.equal(first["weight"], other["weight"])


def test_the_callers_random_state_stays_as_it_is() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for _ in ("trained", "loaded"):
        baseline("net", Net, lambda: DATA, SETTINGS)
        assert torch.equal(torch.get_rng_state(), before)


def test_every_setting_is_part_of_the_key() -> None:
    changed = [
        replace(SETTINGS, **{name: getattr(SETTINGS, name) + 1})
        for name in ("epochs", "batch_size", "learning_rate", "weight_decay", "seed", "shift", "turn", "zoom")
    ]
    assert len({settings.key() for settings in [SETTINGS, *changed]}) == 9
    assert Baseline(**vars(SETTINGS)).key() == SETTINGS.key()


@pytest.mark.parametrize("content", [b"damaged", safetensors.torch.save({"weight": torch.zeros(3)})])
def test_a_damaged_file_is_told(folder: Path, content: bytes) -> None:
    path = folder / "models" / f"net-{SETTINGS.key()}.safetensors"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match="Delete it and it will be trained again") as caught:
        baseline("net", Net, no_data, SETTINGS)
    assert str(path) in str(caught.value)


def test_a_folder_that_cannot_be_written_is_told_before_training(folder: Path) -> None:
    (folder / "models").write_bytes(b"a file, where a folder should be")
    with pytest.raises(DataError, match="cannot be kept.*FEATHERWEIGHT_DATA"):
        baseline("net", Net, no_data, SETTINGS)


def test_an_interrupted_training_keeps_nothing(folder: Path) -> None:
    def interrupt(inputs: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        baseline("net", Net, lambda: replace(DATA, augment=interrupt), SETTINGS)
    assert list((folder / "models").iterdir()) == []


@dataclass(frozen=True, eq=False)
class Killed:
    """Data that end the process, as it were, after some rounds."""

    rounds: int
    seen: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(DATA)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if len(self.seen) == self.rounds:
            raise KeyboardInterrupt
        self.seen.append(len(self.seen))
        return iter(DATA)


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_killed_training_goes_on_to_the_same_bits(rounds: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = baseline("whole", Net, lambda: DATA, SETTINGS)
    monkeypatch.setattr("featherweight.tasks.training.KEPT", 0.0)
    with pytest.raises(KeyboardInterrupt):
        baseline("net", Net, lambda: Killed(rounds), SETTINGS)
    assert [path.suffix for path in (folder / "models").glob("net*")] == [".partial"]
    rest = Killed(SETTINGS.epochs)
    went_on = baseline("net", Net, lambda: rest, SETTINGS)
    assert len(rest.seen) == SETTINGS.epochs - rounds
    assert all(torch.equal(value, went_on.state_dict()[name]) for name, value in whole.state_dict().items())
    assert [path.suffix for path in (folder / "models").glob("net*")] == [".safetensors"]


@pytest.mark.parametrize("content", [b"damaged", b""])
def test_a_damaged_partial_training_is_told(folder: Path, content: bytes) -> None:
    path = folder / "models" / f"net-{SETTINGS.key()}.partial"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match="Delete it and it will be trained anew") as caught:
        baseline("net", Net, lambda: DATA, SETTINGS)
    assert str(path) in str(caught.value)


def test_of_two_that_need_a_model_one_trains(folder: Path) -> None:
    """The second waits, and takes what the first has made."""
    begun, trained = threading.Event(), []

    def data() -> Tensors:
        trained.append(1)
        begun.set()
        time.sleep(0.3)
        return DATA

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(baseline, "net", Net, data, SETTINGS)
        assert begun.wait(10)
        second = pool.submit(baseline, "net", Net, no_data, SETTINGS)
        models = first.result(), second.result()
    assert trained == [1] and torch.equal(models[0].weight, models[1].weight)  # type: ignore[arg-type]
    assert [path.suffix for path in (folder / "models").iterdir()] == [".safetensors"]


def test_nothing_is_printed_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    train_baseline(Net(), DATA, SETTINGS)
    assert capfd.readouterr() == ("", "")


def test_the_learning_rate_rises_for_a_tenth_and_falls_to_nothing() -> None:
    rates = [rise_and_fall(step, 200) for step in range(201)]
    assert rates[0] == pytest.approx(1 / 20) and rates[19] == rates[20] == 1.0 == max(rates)
    assert rates[200] == pytest.approx(0.0) and min(rates[:200]) > 0
    assert rates[:20] == sorted(rates[:20]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert rise_and_fall(0, 1) == 1.0
