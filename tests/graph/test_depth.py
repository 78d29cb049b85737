"""Blocks that are left out."""

import copy

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.architectures import ResNetCifar
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SelectionError
from featherweight.core.task import Example, Task
from featherweight.graph.depth import Skip, SkipBlocks, skippable


def task(model: nn.Module) -> Task:
    x = torch.rand(4, 3, 32, 32)
    return Task("blocks", lambda: ResNetCifar(20), lambda: model, lambda: Example((x,)), calibration=lambda: [x, x + 1])


def test_blocks_that_change_the_shape_stay() -> None:
    found = skippable(ResNetCifar(20), Example((torch.rand(1, 3, 32, 32),)))
    assert found == ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"]


def test_a_block_within_a_block_and_one_that_runs_twice_are_not_counted() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inner = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
            self.blocks = nn.ModuleList([nn.Sequential(inner, nn.Linear(4, 4)), copy.deepcopy(inner)])

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks[1](self.blocks[1](self.blocks[0](x)))

    assert skippable(Twice(), Example((torch.rand(2, 4),))) == ["blocks.0"]


def test_the_block_that_does_nothing_goes_first() -> None:
    torch.manual_seed(0)
    model = ResNetCifar(20).eval()
    model.layer2[1].bn2.weight.data.zero_()  # what it adds is a zero
    model.layer2[1].bn2.bias.data.zero_()
    student = Compressed(model).eval()
    (skip,) = SkipBlocks(1).decide(student, task(model))
    assert skip == Skip(("layer2.1",))
    student.edit(skip)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(student(x), model(x))
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in model.parameters())


def test_a_model_without_blocks_saves_and_loads_onto_its_class() -> None:
    torch.manual_seed(0)
    model = ResNetCifar(20).eval()
    student = Compressed(model).eval()
    for skip in SkipBlocks(3).decide(student, task(model)):
        student.edit(skip)
    x = torch.rand(2, 3, 32, 32)
    loaded, contents = file.load(file.encode(student), ResNetCifar(20))
    assert torch.equal(loaded(x), student(x))
    assert contents.header.edits == student.edits and len(student.edits[0].blocks) == 3  # type: ignore[attr-defined]


def test_more_blocks_than_there_are() -> None:
    model = ResNetCifar(20).eval()
    with pytest.raises(SelectionError, match="7 that could be"):
        SkipBlocks(8).decide(Compressed(model), task(model))


def test_records_that_are_none() -> None:
    with pytest.raises(FormatError, match="twice"):
        Skip.from_json({"blocks": ["a", "a"]})
    with pytest.raises(FormatError, match="list"):
        Skip.from_json({"blocks": "a"})
    with pytest.raises(FormatError, match="no block"):
        Skip(("layer9",)).apply(ResNetCifar(20))
