"""The sentence encoder's task: its quality against the formula, its data, and the published model itself."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from featherweight.architectures import SentenceEncoder
from featherweight.core.errors import DataError
from featherweight.core.task import Task, call, measure, scores
from featherweight.tasks import find, minilm
from featherweight.tasks.packages import packaged_file


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """With fewer sentences, for speed."""
    pytest.importorskip("transformers", reason="transformers (extra `models`) is not installed")
    try:
        packaged_file(minilm.PACKAGE, "model.safetensors")
    except DataError:
        pytest.skip(f"{minilm.PACKAGE} (extra `models`) is not installed")
    for name, value in (("SELECTION", 4), ("EVALUATION", 8), ("BATCH_SIZE", 5)):
        monkeypatch.setattr(minilm, name, value)
    minilm._judged.cache_clear()
    yield find("minilm")
    minilm._judged.cache_clear()


def test_quality_is_the_cosine_of_two_directions() -> None:
    angles = torch.tensor([0.0, 0.3, 2.0])
    outputs = torch.stack((angles.cos(), angles.sin()), dim=1)
    targets = torch.tensor([[1.0, 0.0]] * 3)
    torch.testing.assert_close(minilm.COSINE.score(outputs, ({}, targets)), angles.cos())
    assert minilm.COSINE.drop(1.0, 0.9) == pytest.approx(0.1)


def test_the_parent_agrees_with_itself_and_others_do_not(task: Task) -> None:
    assert task.evaluation is not None and task.selection is not None
    model = task.model()
    for data, count in ((task.evaluation(), 8), (task.selection(), 4)):
        found = scores(model, data, task.quality)
        torch.testing.assert_close(found, torch.ones(count), atol=1e-5, rtol=0)
    torch.manual_seed(0)
    assert measure(SentenceEncoder(), task.evaluation(), task.quality) < 0.5


@torch.no_grad()
def test_sentences_that_mean_the_same_are_near(task: Task) -> None:
    model = task.model()
    texts = ["A man is eating food.", "Someone eats a meal.", "The stock market fell sharply on Monday."]
    found = model(**minilm.encoded(texts))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    near, far = found[0] @ found[1], found[0] @ found[2]
    assert near > 0.6 and far < 0.2


def test_batches_are_mappings_with_targets_beside_them(task: Task) -> None:
    assert task.evaluation is not None and task.selection is not None
    seen: list[list[int]] = []
    for data in (task.evaluation(), task.selection()):
        for inputs, targets in data:
            assert set(inputs) == {"input_ids", "attention_mask", "token_type_ids"}
            assert len({value.shape for value in inputs.values()}) == 1 and targets.shape == (
                len(inputs["input_ids"]),
                384,
            )
            seen += [row[row > 0].tolist() for row in inputs["input_ids"]]
    assert len(seen) == 12 and len({tuple(row) for row in seen}) == 12  # no text in both


def test_a_pair_of_a_mapping_and_targets_gives_keyword_arguments() -> None:
    class Sum(nn.Module):
        def forward(self, a: int, b: int) -> int:
            return a + b

    assert call(Sum(), ({"a": 1, "b": 2}, "targets")) == call(Sum(), {"a": 1, "b": 2}) == 3


def test_long_texts_are_cut_and_short_ones_padded(task: Task) -> None:
    found = minilm.encoded(["word " * 500, "one word"])
    assert found["input_ids"].shape == (2, 128)
    assert found["attention_mask"].sum(dim=1).tolist() == [128, 4]  # with a token at either end
    assert found["input_ids"][1, 4:].eq(0).all()


def test_lines_of_shakespeare_calibrate(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{number} is the number of this line" for number in range(3_000)]
    monkeypatch.setattr(minilm, "shakespeare", lambda: "\n".join([*lines, "", "ROMEO:", *lines]))
    minilm.calibration.cache_clear()
    batches = list(task.calibration_data())
    minilm.calibration.cache_clear()
    assert all(isinstance(each, dict) for each in batches)
    first = torch.cat([each["input_ids"][:, 1] for each in batches])
    assert len(first) == 512
