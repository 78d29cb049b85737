"""Models of Shakespeare's characters: windows, bits, splits, and that their training learns."""

import math
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from featherweight.architectures.characters import CharacterLSTM, CharacterTransformer
from featherweight.core.errors import DataError
from featherweight.core.task import measure
from featherweight.tasks import find, shakespeare
from featherweight.tasks.shakespeare import BITS, Windows, loss
from featherweight.tasks.text import CHARACTERS
from featherweight.tasks.training import Baseline, baseline

TEXT = torch.arange(100)


def test_windows_follow_each_other() -> None:
    batches = list(Windows(TEXT, 8, 5))
    assert len(batches) == len(Windows(TEXT, 8, 5)) == 3
    inputs, targets = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
    assert inputs.flatten().tolist() == list(range(96)) and torch.equal(targets, inputs + 1)
    assert Windows(TEXT[:97], 8, 5).windows == 12 and Windows(TEXT[:96], 8, 5).windows == 11


def test_shuffled_windows_begin_anywhere_and_leave_little_out() -> None:
    data = Windows(TEXT, 8, 5, shuffle=True)
    starts, seen = set(), set()
    for seed in range(60):
        torch.manual_seed(seed)
        rows = torch.cat([inputs for inputs, targets in data if torch.equal(targets, inputs + 1)])
        assert rows.shape == (11, 8) and len(data) == 3
        starts.add(int(rows.min()))
        seen |= set(rows.flatten().tolist())
        assert sorted(rows.flatten().tolist()) == list(range(int(rows.min()), int(rows.min()) + 88))
        assert rows[:, 0].tolist() != sorted(rows[:, 0].tolist())
    assert starts == set(range(8)) and {0, 94} <= seen
    torch.manual_seed(3)
    first = [inputs for inputs, _ in data]
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, (b, _) in zip(first, data, strict=True))


def test_a_text_without_a_window_is_told() -> None:
    with pytest.raises(DataError, match="8 characters has no window of 8"):
        Windows(TEXT[:8], 8, 5)


def test_bits_are_those_of_the_formula() -> None:
    logits, targets = torch.randn(3, 5, 7, dtype=torch.float64), torch.randint(0, 7, (3, 5))
    found = BITS.score(logits, (None, targets))
    for row in range(3):
        bits = [-math.log2(logits[row, t].softmax(0)[targets[row, t]].item()) for t in range(5)]
        assert found[row].item() == pytest.approx(sum(bits) / 5)
    assert loss(logits, (None, targets)).item() == pytest.approx(found.mean().item() * math.log(2))
    assert BITS.score(torch.zeros(1, 5, 8), (None, targets[:1])).item() == pytest.approx(3.0)
    assert BITS.drop(2.0, 2.5) == 0.5  # more bits are worse


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A text of as many characters, of as many kinds, in the place of the real one."""
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    kinds = "\n !$&',-.3:;?" + string.ascii_letters
    text = (kinds * (CHARACTERS // len(kinds) + 1))[:CHARACTERS]
    (tmp_path / "tinyshakespeare.txt").write_text(text, newline="")
    yield text
    shakespeare._characters.cache_clear()


def test_the_text_is_split_in_its_order(made: str) -> None:
    parts = [shakespeare.characters(part) for part in ("train", "selection", "evaluation")]
    assert [len(each) for each in parts] == [948_084, 55_770, 111_540] and sum(map(len, parts)) == CHARACTERS
    kinds = sorted(set(made))
    assert "".join(kinds[number] for number in torch.cat(parts)[:2_000]) == made[:2_000]
    assert int(parts[2][-1]) == kinds.index(made[-1])
    for name in ("shakespeare-lstm", "shakespeare-transformer"):
        task = find(name)
        assert task.train is not None and task.evaluation is not None
        inputs, targets = next(iter(task.train()))
        assert inputs.shape == targets.shape == (32, 128) and torch.equal(inputs[:, 1:], targets[:, :-1])
        assert sum(len(targets) for _, targets in task.evaluation()) == 111_539 // 128
        assert sum(len(targets) for _, targets in task.calibration_data()) == 512


def test_a_text_of_other_kinds_is_told(made: str, tmp_path: Path) -> None:
    (tmp_path / "tinyshakespeare.txt").write_text("ab" * (CHARACTERS // 2), newline="")
    with pytest.raises(DataError, match="2 kinds of characters, not 65"):
        shakespeare.characters("train")


@pytest.mark.parametrize(
    "architecture", [lambda: CharacterLSTM(5, 8, 24), lambda: CharacterTransformer(5, 24, 2, 2, 16)], ids=["lstm", "tf"]
)
def test_training_learns_a_text_with_a_rule(
    architecture: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each character follows from the two before it: one bit or more without memory, almost none with it."""
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))
    numbers = [0, 1]
    for _ in range(3_000):
        numbers.append((2 * numbers[-2] + numbers[-1] + 1) % 5)
    text: Tensor = torch.tensor(numbers)
    settings = Baseline(epochs=12, batch_size=16, learning_rate=1e-2, weight_decay=0.0, seed=0, shift=0)
    data = Windows(text, 16, 16, shuffle=True)
    model = baseline("rule", architecture, lambda: data, settings, loss)  # type: ignore[arg-type]
    assert measure(model, Windows(text, 16, 64), BITS) < 0.5
    assert len(list((tmp_path / "models").iterdir())) == 1
