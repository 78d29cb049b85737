"""Programs of integers against the simulated quantization that they stand for, operation by operation and whole."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.activations.quantizers import Quantizer
from featherweight.core.errors import DataError, SchemeError
from featherweight.core.task import Example
from featherweight.graph.integer import IntegerProgram, Units, int32
from featherweight.graph.lower import integer_program
from featherweight.tasks import find

from .quantized import Apply, Between, calibrated, coded


def conv(*arguments: int, **settings: object) -> nn.Conv2d:
    return nn.Conv2d(*arguments, **settings)  # type: ignore[arg-type]


ONE: dict[str, nn.Module] = {
    "convolution": conv(6, 8, 3),
    "a convolution with a border": conv(6, 8, 3, padding=1, stride=2),
    "a convolution without bias": conv(6, 8, 3, padding=1, bias=False),
    "a depthwise convolution": conv(6, 6, 3, padding=1, groups=6),
    "a dilated convolution of equal size": conv(6, 4, 3, padding="same", dilation=2),
    "a linear layer": nn.Linear(10, 7),
    "relu behind a convolution": nn.Sequential(conv(6, 8, 3), nn.ReLU()),
    "relu in place": nn.Sequential(conv(6, 8, 3), nn.ReLU(inplace=True)),
    "relu6 behind a convolution": nn.Sequential(conv(6, 8, 3), nn.ReLU6()),
    "max pool on sums of 32 bits": nn.Sequential(conv(6, 8, 3), nn.MaxPool2d(2), nn.ReLU()),
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "hardtanh behind a convolution": nn.Sequential(conv(6, 8, 3), nn.Hardtanh(-0.5, 0.7)),
    "max pool with a border": nn.MaxPool2d(3, 2, padding=1),
    "average pool": nn.AvgPool2d(2),
    "average pool with a border": nn.AvgPool2d(3, 2, padding=1),
    "global average pool": nn.AdaptiveAvgPool2d(1),
    "average pool to a divisor": nn.AdaptiveAvgPool2d((5, 2)),
    "mean": Apply(lambda x: x.mean((2, 3))),
    "mean that keeps dimensions": Apply(lambda x: x.mean((-1,), keepdim=True)),
    "pad": Apply(lambda x: F.pad(x, (1, 2, 0, 1))),
    "slice and pad of channels": Apply(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))),
    "a view of its size": Apply(lambda x: x.view(x.size(0), -1)),
    "flatten": nn.Flatten(),
    "permute": Apply(lambda x: x.permute(0, 2, 3, 1)),
    "dropout in evaluation": nn.Dropout(),
}
TWO: dict[str, nn.Module] = {
    "add": Apply(lambda x, y: x + y),
    "add in place": Apply(lambda x, y: x.add_(y)),
    "add and relu": Apply(lambda x, y: (x + y).relu()),
    "add of a flipped part": Apply(lambda x, y: x[:, :3] + y[:, 3:]),
}
RANGES = [((-3.0, 4.0), (0.0, 1.0)), ((-1.0, 2.0), (-1.0, 2.0)), ((0.0, 3.0), (-0.01, 0.02))]


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 6, 10, 10, generator=torch.Generator().manual_seed(1))


def assert_close(model: Between, x: Tensor, least: float) -> None:
    """Within one level of the simulation, and equal but where two levels are all but equally near."""
    student = coded(model)
    program = integer_program(student, Example((x[:1],)))
    with torch.no_grad():
        simulated, found = student(x), program(x)
    assert found.shape == simulated.shape and found.dtype == simulated.dtype
    apart = ((found - simulated) / model.behind.scale).round().abs()
    assert apart.max() <= 1
    assert (apart == 0).float().mean() >= least
    with torch.no_grad():
        levels = student.base.between(x) / model.behind.scale
    tie = (levels - levels.floor() - 0.5).abs()
    assert tie[apart > 0].numel() == 0 or tie[apart > 0].max() < 0.03
    assert simulated.unique().numel() > 20  # or there was nothing to compare
    assert_bounded(program, x)


def assert_bounded(program: IntegerProgram, x: Tensor) -> None:
    """Every tensor is of 8 or 32 bits, and as near to its zero point as was proved."""
    for name, q in program.values(x).items():
        units = program.units[name]
        assert q.dtype == (torch.uint8 if units.stored else torch.int32), name
        assert int((q.long() - units.zero).abs().max()) <= units.reach < 2**31, name
        assert units.highest is None or int(q.max()) <= units.highest <= 255, name


@pytest.mark.parametrize("name", ONE)
def test_an_operation_is_within_a_level_of_its_simulation(name: str) -> None:
    torch.manual_seed(0)
    assert_close(Between(ONE[name], images()), images(), 0.99)


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("ranges", RANGES)
def test_a_join_is_within_a_level_of_its_simulation(name: str, ranges: tuple[tuple[float, float], ...]) -> None:
    assert_close(Between(TWO[name], images(), ranges), images(), 0.99)


def test_concatenation_in_one_range() -> None:
    class Concatenated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.behind = conv(6, 3, 1), conv(6, 5, 1), Quantizer.covering(-2, 2.5, 8)
            self.before, self.head = Quantizer.covering(-3, 4, 8), conv(8, 4, 3)
            self.last = Quantizer.covering(-3, 3, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.before(x)
            y: Tensor = self.last(self.head(torch.cat([self.behind(self.left(x)), self.behind(self.right(x))], 1)))
            return y

    torch.manual_seed(0)
    student = coded(Concatenated())
    program = integer_program(student, Example((images(),)))
    apart = (program(images()) - student(images())).abs() / student.base.last.scale
    assert apart.max() <= 1.01 and (apart < 0.5).float().mean() > 0.95
    assert_bounded(program, images())


def test_one_dimension_and_fewer_bits() -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 4, 20)
    for bits in (2, 4, 7):
        model = Between(nn.Conv1d(4, 5, 3, padding=1), x)
        model.before[0], model.behind = Quantizer.covering(-2, 2, bits), Quantizer.covering(-1.5, 2, bits)
        student = coded(model)
        program = integer_program(student, Example((x,)))
        apart = ((program(x) - student(x)) / model.behind.scale).round().abs()
        assert apart.max() <= 1 and (apart == 0).float().mean() > 0.99
        assert int(program.values(x)[program.output].max()) <= 2**bits - 1
        assert_bounded(program, x)


def test_the_sum_is_exact() -> None:
    """A convolution's 32 bits are those of Python's integers, at an entry inside and at one on the border."""
    torch.manual_seed(0)
    layer = conv(6, 8, 3, padding=1)
    student = coded(Between(layer, images()))
    program = integer_program(student, Example((images(),)))
    values = program.values(images())
    q, sums = values["quantized"].tolist(), values["conv2d"]
    levels = student.codes["operation.weight"].levels.tolist()
    units, zero = program.units["conv2d"], program.units["quantized"].zero
    assert zero > 0 and sums.dtype == torch.int32
    bias = (layer.bias.detach().double() / units.scale.flatten()).round().tolist()
    for image, out, row, column in ((0, 0, 5, 5), (3, 7, 0, 9), (15, 4, 9, 0)):
        expected = int(bias[out])
        for i in range(6):
            for a in range(3):
                for b in range(3):
                    r, c = row + a - 1, column + b - 1
                    if 0 <= r < 10 and 0 <= c < 10:
                        expected += (q[image][i][r][c] - zero) * levels[out][i][a][b]
        assert int(sums[image, out, row, column]) == expected


def test_channels_without_weights_keep_their_bias() -> None:
    layer = nn.Linear(10, 3)
    layer.weight.data[1] = 0
    layer.bias.data = torch.tensor([0.0, 0.0123, 1.0])
    student = coded(nn.Sequential(Quantizer.covering(-30, 30, 8), layer))
    program = integer_program(student, Example((torch.zeros(1, 10),)))
    found = program(torch.randn(5, 10))[:, 1]
    torch.testing.assert_close(found, torch.full((5,), 0.0123), atol=1e-7, rtol=0)


def test_outputs_may_be_sums_of_32_bits() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 10)
    student = coded(nn.Sequential(Quantizer.covering(-3, 3, 8), nn.Linear(10, 3)))
    program = integer_program(student, Example((x,)))
    torch.testing.assert_close(program(x), student(x), atol=1e-4, rtol=0)
    assert not program.units[program.output].stored


def test_integers_are_taken_for_inputs() -> None:
    torch.manual_seed(0)
    student = coded(Between(conv(6, 8, 3), images()))
    program = integer_program(student, Example((images(),)))
    (units,) = program.inputs.values()
    assert isinstance(units, Units)
    q = program.values(images())["quantized"]
    assert torch.equal(program(q), program(images()))
    assert torch.equal(program(q.long()), program(units.real(q).float()))
    with pytest.raises(SchemeError, match=r"0\.\.255, not -1"):
        program(q.long() - 1 - int(q.min()))
    with pytest.raises(SchemeError, match="takes 1 inputs"):
        program(q, q)


def test_integers_of_an_input_with_two_quantizers_mean_nothing() -> None:
    student = coded(Between(Apply(lambda x, y: x + y), images(), RANGES[0]))
    program = integer_program(student, Example((images(),)))
    with pytest.raises(SchemeError, match="several ways"):
        program(torch.zeros(1, 6, 10, 10, dtype=torch.uint8))


def test_what_does_not_fit_32_bits_never_wraps() -> None:
    assert int32(torch.tensor([2.0**31 - 1, -(2.0**31)], dtype=torch.float64)).tolist() == [2**31 - 1, -(2**31)]
    for beyond in (2.0**31, -(2.0**31) - 1):
        with pytest.raises(SchemeError, match="32 bits"):
            int32(torch.tensor([beyond], dtype=torch.float64))


def test_the_digits_network(digits_model: nn.Module) -> None:
    task = find("digits")
    student = calibrated(digits_model, task)
    program = integer_program(student, task.example())
    x = torch.cat([task.evaluation().inputs, task.selection().inputs, task.calibration_data().inputs])[:1000]
    with torch.no_grad():
        simulated = student(x)
    assert len(x) == 1000
    assert float((program(x).argmax(1) == simulated.argmax(1)).float().mean()) >= 0.99
    assert_bounded(program, x[:100])


def test_resnet20(data_folder: Path) -> None:
    task = find("cifar10-resnet20")
    try:
        model, x = task.model(), task.evaluation().inputs[:1000]
    except DataError as error:
        pytest.skip(f"no data: {error}")
    student = calibrated(model, task)
    program = integer_program(student, task.example())
    with torch.no_grad():
        simulated = torch.cat([student(part) for part in x.split(100)])
    found = torch.cat([program(part) for part in x.split(100)])
    # Measured: 0.990 here, 0.994 and 0.995 on the next two thousand images. Which near ties flip, and so a few images
    # either way, depends on how floats are summed on a machine.
    assert float((found.argmax(1) == simulated.argmax(1)).float().mean()) >= 0.985
    assert_bounded(program, x[:50])
