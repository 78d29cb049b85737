"""Law 4: a model with channels cut computes what the model with every slice of those labels masked computes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.architectures import ResNetCifar
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SelectionError
from featherweight.core.task import Example
from featherweight.graph.cut import Cut, cut, masked
from featherweight.graph.edits import removal, walk
from featherweight.graph.labels import Labels
from featherweight.schemes.uniform import Uniform


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Conv2d(inside, outside, 1, stride) if inside != outside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        out += self.shortcut(x)
        return torch.relu(out)


class Residual(nn.Module):
    """Residual additions, a depthwise convolution, a concatenation, and a flatten into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, 1, 1)
        self.blocks = nn.Sequential(Block(6, 6, 1), Block(6, 10, 2))
        self.depthwise = nn.Conv2d(10, 10, 3, 1, 1, groups=10)
        self.side = nn.Conv2d(10, 4, 1)
        self.head = nn.Linear(14 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.blocks(self.stem(x)))
        x = torch.cat([x, torch.sigmoid(self.side(x))], dim=1)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


class Normed(nn.Module):
    """A layer norm over the width: nobody may cut it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 8), nn.LayerNorm(8)
        self.second, self.last = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(self.norm(self.first(x)))))


def find_labels(model: nn.Module, example: Example) -> Labels:
    return walk(model, example).labels


CASES = {
    "residual": (Residual, (2, 1, 8, 8)),
    "resnet-20": (lambda: ResNetCifar(20), (1, 3, 32, 32)),
    "layer norm": (Normed, (2, 4)),
}


def randomised(model: nn.Module) -> nn.Module:
    """In float64, with nothing at zero: with zero biases a wrong mask passes."""
    model = model.double().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.copy_(torch.rand_like(tensor) + 0.1)
    return model


def every_third(labels: Labels) -> list[int]:
    return [label for group in labels.groups() for label in group[: len(group) // 3]]


@pytest.mark.parametrize("name", CASES)
def test_cut_equals_masked(name: str) -> None:
    torch.manual_seed(0)
    make, shape = CASES[name]
    model, x = randomised(make()), torch.rand(shape, dtype=torch.float64)
    walked = walk(model, Example((x,)))
    labels = walked.labels
    dead = every_third(labels)
    assert dead
    small, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    masked(labels, dead, zeroed)
    for edit in removal(walked, dead, model, Example((x,))):
        small = edit.replaced(small)
    torch.testing.assert_close(small(x), zeroed(x), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(small(x), model(x), rtol=1e-6)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def test_labels_couple_what_a_residual_addition_couples() -> None:
    labels = find_labels(Residual().eval(), Example((torch.rand(1, 1, 8, 8),)))
    of_stem = next(places for places in labels.free.values() if ("stem.weight", 0, 0) in places)
    names = {name for name, _, _ in of_stem}
    assert {"stem.bias", "blocks.0.conv2.weight", "blocks.0.norm2.running_mean", "blocks.1.conv1.weight"} <= names
    assert "blocks.0.conv1.weight" in names  # as its input
    assert ("blocks.0.conv1.weight", 0, 0) not in of_stem


def test_an_unknown_operator_is_a_named_barrier() -> None:
    labels = find_labels(Normed().eval(), Example((torch.rand(2, 4),)))
    assert any("layer_norm" in barrier for barrier in labels.barriers)
    names = {name for places in labels.free.values() for name, _, _ in places}
    assert names == {"second.weight", "second.bias", "last.weight"}


def test_attributes_stay_true() -> None:
    model = randomised(Residual())
    labels = find_labels(model, Example((torch.rand(1, 1, 8, 8, dtype=torch.float64),)))
    cut(labels, every_third(labels), model).apply(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        if isinstance(module, nn.BatchNorm2d):
            assert len(module.running_mean) == module.num_features


def test_a_cut_model_saves_and_loads_onto_its_class() -> None:
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.rand(2, 1, 8, 8)
    labels = find_labels(model, Example((x,)))
    student = Compressed(model).eval()
    student.edit(cut(labels, every_third(labels), model))
    scheme = Uniform(4)
    student.encode({"head.weight": scheme.project(student.weight("head.weight"))}, {"head.weight": scheme})
    loaded, contents = file.load(file.encode(student), Residual())
    assert isinstance(contents.header.edits[0], Cut)
    assert torch.equal(loaded(x), student(x))
    assert model.head.in_features == 56


def test_a_cut_that_does_not_fit_is_a_format_error() -> None:
    student = Compressed(Residual())
    with pytest.raises(FormatError, match=r"stem\.weight"):
        Cut({"stem.weight": {0: (0, 99)}}).apply(student.base)
    with pytest.raises(FormatError, match="ascend"):
        Cut.from_json({"stem.weight": {"0": [1, 0]}})


def test_what_cannot_be_traced_says_so() -> None:
    class Dynamic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(SelectionError, match="cannot be traced"):
        find_labels(Dynamic(), Example((torch.rand(2),)))
