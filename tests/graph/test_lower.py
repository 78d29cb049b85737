"""What cannot run on integers is refused, with the operator and the module."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.activations.quantizers import Quantizer
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SelectionError
from featherweight.core.stage import Learn
from featherweight.core.task import Example
from featherweight.graph.lower import integer_program
from featherweight.schemes.uniform import PerChannel, PerGroup, PerTensor, Uniform

from .quantized import Apply, Between, coded


def images() -> Tensor:
    return torch.randn(4, 6, 8, 8, generator=torch.Generator().manual_seed(0))


class Sums(nn.Module):
    """A join of a sum of 32 bits that nobody quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "no rule": (nn.SiLU(), r"aten\.silu\.default in operation cannot run on integers: no rule"),
    "norm": (nn.BatchNorm2d(6), r"batch_norm.* in operation .*no rule"),
    "a product": (Apply(lambda x: x * x), "no rule"),
    "a number": (Apply(lambda x: x + 1.0), "is a constant"),
    "a constant": (Shifted(), "is a constant"),
    "alpha": (Apply(lambda x: torch.add(x, x, alpha=2)), "alpha"),
    "sums": (Sums(), r"aten\.add\.Tensor in operation .*conv2d is not quantized"),
    "two layers": (nn.Sequential(nn.Conv2d(6, 4, 1), nn.Conv2d(4, 4, 1)), r"in operation\.1 .*not quantized"),
    "batch": (Apply(lambda x: x.mean()), "over the batch"),
    "uneven windows": (nn.AdaptiveAvgPool2d(3), "does not divide"),
    "border": (nn.AvgPool2d(3, padding=1, count_include_pad=False), "different sizes"),
    "pad with ones": (Apply(lambda x: F.pad(x, (1, 1), value=1.0)), "does not pad with zeros"),
    "reflection": (Apply(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")), "does not pad with zeros"),
    "channels moved": (nn.Sequential(nn.Conv2d(6, 4, 1), nn.Flatten()), "a scale for each channel"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_integer_form(name: str) -> None:
    operation, message = REFUSED[name]
    student = coded(Between(operation.eval(), images()))
    with pytest.raises(SelectionError, match=message):
        integer_program(student, Example((images(),)))


def test_concatenation_of_different_ranges() -> None:
    model = Between(Apply(lambda x, y: torch.cat([x, y], 1)), images(), ((-1, 1), (-2, 2)))
    with pytest.raises(SelectionError, match="different ranges"):
        integer_program(coded(model), Example((images(),)))


def test_an_input_that_is_not_quantized() -> None:
    with pytest.raises(SelectionError, match=r"conv2d.* is an input that is not quantized"):
        integer_program(coded(nn.Sequential(nn.Conv2d(6, 4, 1))), Example((images(),)))


@pytest.mark.parametrize("scheme", [Uniform(8, symmetric=False), Uniform(8, granularity=PerChannel(1)),
                                    Uniform(8, granularity=PerGroup(4))])  # fmt: skip
def test_weights_without_one_scale_a_channel(scheme: Uniform) -> None:
    model = nn.Sequential(Quantizer.covering(-1, 1, 8), nn.Linear(8, 8))
    with pytest.raises(SelectionError, match=r"1\.weight has no symmetric integer code"):
        integer_program(coded(model, scheme), Example((torch.zeros(1, 8),)))


def test_weights_without_a_code() -> None:
    model = nn.Sequential(Quantizer.covering(-1, 1, 8), nn.Linear(8, 8))
    with pytest.raises(SelectionError, match=r"1\.weight has no symmetric integer code"):
        integer_program(Compressed(model.eval()), Example((torch.zeros(1, 8),)))


@pytest.mark.parametrize(("inputs", "fits"), [(66_000, True), (67_000, False)])
def test_a_sum_that_could_overflow_is_refused_whatever_the_input(inputs: int, fits: bool) -> None:
    """255 · 127 · 66,311 = 2³¹ − 1 all but a little: above that many largest products, 32 bits are not enough."""
    layer = nn.Linear(inputs, 1, bias=False)
    layer.weight.data.fill_(1.0)
    student = coded(nn.Sequential(Quantizer.covering(0, 1, 8), layer), Uniform(8, granularity=PerTensor()))
    example = Example((torch.ones(1, inputs),))
    if fits:
        program = integer_program(student, example)
        assert int(program.values(*example.args)["linear"]) == 255 * 127 * inputs < 2**31
    else:
        assert 255 * 127 * inputs >= 2**31
        with pytest.raises(SelectionError, match=r"linear.*in 1 .*a sum of 67000 products .*outside 32 bits"):
            integer_program(student, example)


def test_a_bias_that_does_not_fit_is_refused() -> None:
    layer = nn.Linear(4, 2)
    layer.weight.data[0], layer.bias.data[0] = 1e-9, 5.0
    with pytest.raises(SelectionError, match="all but zero"):
        student = coded(nn.Sequential(Quantizer.covering(-1, 1, 8), layer))
        integer_program(student, Example((torch.zeros(1, 4),)))


def test_averages_that_could_overflow() -> None:
    x = torch.zeros(1, 1, 3000, 3000)
    model = nn.Sequential(Quantizer.covering(0, 1, 8), nn.AdaptiveAvgPool2d(1), Quantizer.covering(0, 1, 8))
    with pytest.raises(SelectionError, match="a sum of 9000000 numbers"):
        integer_program(coded(model), Example((x,)))


def test_a_tensor_that_is_changed_and_used_again() -> None:
    def twice(x: Tensor) -> Tensor:
        part = x[:, :3]
        part.add_(x[:, 3:])
        return x

    with pytest.raises(SelectionError, match=r"add_\.Tensor in operation .*used again"):
        integer_program(coded(Between(Apply(twice), images())), Example((images(),)))


def test_a_student_that_learns() -> None:
    student = coded(nn.Sequential(Quantizer.covering(-1, 1, 8), nn.Linear(4, 2)))
    student.learn({"1.weight": Learn.LATENT})
    with pytest.raises(SelectionError, match="settle"):
        integer_program(student, Example((torch.zeros(1, 4),)))


def test_two_outputs() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    model = nn.Sequential(Quantizer.covering(-1, 1, 8), Pair())
    with pytest.raises(SelectionError, match="one output"):
        integer_program(coded(model), Example((torch.zeros(1, 4),)))
