"""The forms of a cut: the model's own class where that is proved, else its graph."""

import copy

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError
from featherweight.core.task import Example
from featherweight.graph.attributes import SetSizes
from featherweight.graph.cut import Cut
from featherweight.graph.edits import kept_by, proved, removal, walk
from featherweight.graph.resize import Resized
from featherweight.graph.rewrite import CutGraph, Graph, described
from featherweight.schemes.uniform import Uniform

from .zoo import Fused
from .zoo_checks import a_third, cast, cut, difference, outputs, randomised


class Literal(nn.Module):
    """A width that stands in the code itself, a norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(2, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Dropout(0.5)
        self.head = nn.Linear(12 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(self.drop(nn.functional.adaptive_avg_pool2d(x, 2).reshape(-1, 48)))


def test_a_number_of_heads_follows_in_the_class_itself() -> None:
    small, zeroed, edits, _ = cut(randomised(Fused()), cast(Example((torch.rand(2, 7, 6),))))
    assert [type(edit) for edit in edits] == [Cut, SetSizes] and type(small) is Fused
    assert small.heads == 3 and small.qkv.out_features == 54
    x = Example((torch.rand(5, 3, 6, dtype=torch.float64),))  # another batch and length than the example's
    assert difference(outputs(small, x), outputs(zeroed, x)) < 1e-12


def test_a_size_in_the_code_makes_the_graph_take_the_model_s_place() -> None:
    small, zeroed, edits, _ = cut(randomised(Literal()), cast(Example((torch.rand(2, 2, 8, 8),))))
    assert [type(edit) for edit in edits] == [CutGraph] and isinstance(small, Graph)
    x = Example((torch.rand(5, 2, 8, 8, dtype=torch.float64),))
    assert difference(outputs(small, x), outputs(zeroed, x)) < 1e-12
    kept = kept_by(edits)
    assert set(kept) == {"conv.weight", "conv.bias", "head.weight", *(f"norm.{name}" for name in (
        "weight", "bias", "running_mean", "running_var"))}  # fmt: skip


def test_a_graph_trains() -> None:
    """Norms follow their batches, dropout drops, and gradients arrive; in evaluation none of it."""
    torch.manual_seed(0)
    small, *_ = cut(Literal().eval(), Example((torch.rand(2, 2, 8, 8),)))
    x = torch.rand(6, 2, 8, 8)
    still = small(x)
    assert torch.equal(small(x), still)
    small.train()
    before = small.get_buffer("norm.running_mean").clone()
    small(x).square().sum().backward()
    assert not torch.equal(small.get_buffer("norm.running_mean"), before)
    assert not torch.equal(small(x), small(x))
    assert all(
        p.grad is not None and bool(p.grad.any()) for name, p in small.named_parameters() if "conv.b" not in name
    )
    again = copy.deepcopy(small).eval()
    assert isinstance(again, Graph) and torch.equal(again(x), again(x))


def test_a_cut_graph_is_learned_coded_saved_and_loaded() -> None:
    torch.manual_seed(0)
    model, example = Literal().eval(), Example((torch.rand(2, 2, 8, 8),))
    _, _, edits, _ = cut(model, example)
    student = Compressed(model).eval()
    for edit in edits:
        student.edit(edit)
    scheme = Uniform(4)
    student.encode({"head.weight": scheme.project(student.weight("head.weight"))}, {"head.weight": scheme})
    loaded, contents = file.load(file.encode(student), Literal())
    x = torch.rand(3, 2, 8, 8)
    assert torch.equal(loaded(x), student(x)) and contents.header.edits == tuple(edits)
    assert [slot.name for slot in contents.slots] == list(Literal().state_dict())
    assert torch.equal(student.finished()(x), student(x))


def test_a_cut_of_more_than_is_free_is_refused() -> None:
    given = described(Example((torch.rand(2, 2, 8, 8),)))
    with pytest.raises(FormatError, match="must stay"):
        CutGraph({"head.weight": {0: (0,)}}, given).replaced(Literal())
    with pytest.raises(FormatError, match="no tensor"):
        CutGraph({"nothing": {0: (0,)}}, given).replaced(Literal())


def test_what_is_not_the_same_graph_is_no_proof() -> None:
    """A model that runs on what stays, and computes something else."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second(x * x.shape[-1])

    model, example = Scaled(), Example((torch.rand(2, 4),))
    walked = walk(model, example)
    dead = a_third(walked.labels)
    resized = Resized(walked, dead)
    (edit,) = removal(walked, dead, model, example)
    assert isinstance(edit, CutGraph)
    assert not proved(model, [Cut(edit.kept)], resized, example)


def test_sizes_only_get_smaller() -> None:
    with pytest.raises(FormatError, match="heads"):
        SetSizes({"": {"heads": 5}}).apply(Fused())
    with pytest.raises(FormatError, match="training"):
        SetSizes({"": {"training": 0}}).apply(Fused())
