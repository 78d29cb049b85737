"""The reference networks: their published sizes, their shapes, their starting values."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from featherweight.architectures import DigitsNet, LeNet5, LeNet300, ResNetCifar
from featherweight.architectures.resnet_cifar import Shortcut
from featherweight.core.errors import SchemeError


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("architecture", "count", "shape"),
    [
        (LeNet300, 266_610, (1, 28, 28)),
        (LeNet300, 266_610, (784,)),
        (LeNet5, 431_080, (1, 28, 28)),
        (DigitsNet, 72_842, (1, 8, 8)),
        (lambda: ResNetCifar(20), 269_722, (3, 32, 32)),
        (lambda: ResNetCifar(56), 853_018, (3, 32, 32)),
    ],
)
def test_size_and_shapes(architecture: Callable[[], nn.Module], count: int, shape: tuple[int, ...]) -> None:
    model = architecture()
    assert parameters(model) == count
    assert model(torch.randn(3, *shape)).shape == (3, 10)


@pytest.mark.parametrize(("depth", "count"), [(32, 464_154), (44, 658_586), (110, 1_727_962)])
def test_the_other_depths_have_the_sizes_that_the_docstring_says(depth: int, count: int) -> None:
    with torch.device("meta"):
        assert parameters(ResNetCifar(depth)) == count


@pytest.mark.parametrize("depth", [2, 18, 21, -4, 51])
def test_impossible_depths_are_refused(depth: int) -> None:
    with pytest.raises(SchemeError, match="6n \\+ 2"):
        ResNetCifar(depth)


def test_names_of_layers() -> None:
    assert [name for name, _ in LeNet300().named_parameters()][::2] == ["fc1.weight", "fc2.weight", "fc3.weight"]
    names = [name for name, _ in LeNet5().named_parameters()][::2]
    assert names == ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"]


def test_lenet5_is_linear_behind_its_convolutions_where_pooling_does_not_choose() -> None:
    """Caffe's LeNet has no ReLU there: on constant images all places of a map are equal and nothing is cut off."""
    model = LeNet5()
    seen: list[Tensor] = []
    model.fc1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for value in (0.0, 1.0, -1.0):
            model(torch.full((1, 1, 28, 28), value))
    torch.testing.assert_close(seen[1] - seen[0], seen[0] - seen[2])


def test_a_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    maps = torch.randn(2, 4, 6, 6)
    short = Shortcut(4, 8, 2)(maps)
    assert short.shape == (2, 8, 3, 3)
    assert torch.equal(short[:, 2:6], maps[:, :, ::2, ::2])
    assert short[:, :2].eq(0).all() and short[:, 6:].eq(0).all()


def test_other_widths_and_offsets_of_a_cut_network() -> None:
    """Names stay; a network cut by hand to other widths is that network."""
    model = ResNetCifar(20, (12, 20, 24), (3, 1))
    assert set(model.state_dict()) == set(ResNetCifar(20).state_dict())
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    maps = torch.randn(2, 12, 8, 8)
    short = model.get_submodule("layer2.0.shortcut")(maps)
    assert short.shape == (2, 20, 4, 4) and torch.equal(short[:, 3:15], maps[:, :, ::2, ::2])
    usual, given = ResNetCifar(20), ResNetCifar(20, (16, 32, 64), (8, 16))
    given.load_state_dict(usual.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(usual.eval()(images), given.eval()(images))


@pytest.mark.parametrize(
    ("widths", "offsets"), [((16, 8, 64), None), ((0, 16, 32), None), ((16, 32, 64), (17, 0)), ((16, 32, 64), (0, -1))]
)
def test_impossible_widths_and_offsets_are_refused(
    widths: tuple[int, int, int], offsets: tuple[int, int] | None
) -> None:
    with pytest.raises(SchemeError, match="stage"):
        ResNetCifar(20, widths, offsets)


def test_published_weights_load_strictly_at_both_depths() -> None:
    folder = Path(os.environ.get("FEATHERWEIGHT_DATA", "")) / "weights"
    for depth, name in ((20, "resnet20-12fca82f.th"), (56, "resnet56-4bfd9763.th")):
        if not (folder / name).exists():
            pytest.skip(f"{name} is not in the folder `weights` of FEATHERWEIGHT_DATA")
        state = torch.load(folder / name, map_location="cpu", weights_only=True)["state_dict"]
        ResNetCifar(depth).load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
