"""Calibration samples mixed anew."""

import pytest
import torch

from featherweight.core.errors import TaskError
from featherweight.training.mixing import Mixed


def test_every_sample_comes_once_a_round_in_another_order() -> None:
    x = torch.arange(10)
    data = Mixed([(x[:4, None], x[:4]), (x[4:, None], x[4:])], 3)
    rounds = [list(data) for _ in range(2)]
    assert len(data) == 4 and [len(y) for _, y in rounds[0]] == [3, 3, 3, 1]
    for batches in rounds:
        assert all(torch.equal(inputs[:, 0], targets) for inputs, targets in batches)
        assert sorted(torch.cat([targets for _, targets in batches]).tolist()) == list(range(10))
    assert [y.tolist() for _, y in rounds[0]] != [y.tolist() for _, y in rounds[1]]


def test_mappings_and_plain_tensors_too() -> None:
    words = [{"ids": torch.arange(6).reshape(3, 2), "mask": torch.ones(3, 2)}] * 2
    assert [sorted(batch) for batch in Mixed(words, 4)] == [["ids", "mask"]] * 2
    assert [len(batch) for batch in Mixed([torch.zeros(5, 3)], 2)] == [2, 2, 1]


def test_batches_that_cannot_be_joined_only_change_their_order() -> None:
    data = [torch.zeros(2, 3), torch.ones(2, 4), torch.ones(1, 5)]
    mixed = Mixed(data, 1)
    assert len(mixed) == 3 and sorted(batch.shape[1] for batch in mixed) == [3, 4, 5]


def test_the_same_seed_gives_the_same_order() -> None:
    data = Mixed([torch.arange(20)], 7)
    rounds = []
    for _ in range(2):
        torch.manual_seed(5)
        rounds.append(torch.cat(list(data)))
    assert torch.equal(*rounds)


def test_a_batch_holds_something() -> None:
    with pytest.raises(TaskError):
        Mixed([torch.zeros(2)], 0)
