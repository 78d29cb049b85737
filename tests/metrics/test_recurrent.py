"""What the weights of recurrent layers meet, against the equations written out step by step."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.metric import Full
from featherweight.core.task import Example, Quality, Task
from featherweight.metrics.hessian import InputMoment, InputNorm, Kronecker, known
from featherweight.run import solve
from featherweight.schemes.uniform import PerChannel, Uniform
from featherweight.schemes.waterfilling import Waterfilling
from featherweight.solvers.sweep import ColumnSweep

SQUARED = Quality("error", "", False, lambda outputs, batch: outputs.square().sum((1, 2)))
INPUTS = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
WIDTH = 3
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # of PyTorch's, on its speed


class Net(nn.Module):
    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[0]
        return y


def task(model: nn.Module) -> Task:
    halves = [INPUTS[:2], INPUTS[2:]]
    return Task(
        "t", lambda: model, lambda: model, lambda: Example((INPUTS,)), calibration=lambda: halves, quality=SQUARED
    )


def cell(layer: nn.RNNBase, end: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of one direction, by the equations of PyTorch's documentation."""
    u = x @ getattr(layer, f"weight_ih_{end}").T + getattr(layer, f"bias_ih_{end}")
    v = h @ getattr(layer, f"weight_hh_{end}").T + getattr(layer, f"bias_hh_{end}")
    if isinstance(layer, nn.LSTM):
        i, f, g, o = (u + v).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return (h @ getattr(layer, f"weight_hr_{end}").T if layer.proj_size else h), c
    if isinstance(layer, nn.GRU):
        (ru, zu, nu), (rv, zv, nv) = u.chunk(3, 1), v.chunk(3, 1)
        z, n = (zu + zv).sigmoid(), (nu + (ru + rv).sigmoid() * nv).tanh()
        return (1 - z) * n + z * h, c
    return (u + v).tanh(), c


def met(layer: nn.RNNBase) -> Iterator[tuple[str, Tensor]]:
    """Every weight, and the rows that it meets on all of ``INPUTS``."""
    steps = list(INPUTS.unbind(1))
    for number in range(layer.num_layers):
        sides = []
        for reverse in range(2 if layer.bidirectional else 1):
            end = f"l{number}" + ("_reverse" if reverse else "")
            h, c = torch.zeros(4, layer.proj_size or WIDTH), torch.zeros(4, WIDTH)
            before, states = [], []
            for x in steps[::-1] if reverse else steps:
                before.append(h)
                h, c = cell(layer, end, x, h, c)
                states.append(h)
            yield f"layer.weight_ih_{end}", torch.cat(steps)
            yield f"layer.weight_hh_{end}", torch.cat(before)
            sides.append(states[::-1] if reverse else states)
        steps = [torch.cat(each, 1) for each in zip(*sides, strict=True)]


LAYERS = {
    "lstm": lambda: nn.LSTM(5, WIDTH, 2, batch_first=True),
    "lstm both ways": lambda: nn.LSTM(5, WIDTH, 2, batch_first=True, bidirectional=True),
    "lstm projected": lambda: nn.LSTM(5, WIDTH, 2, batch_first=True, proj_size=2),
    "gru": lambda: nn.GRU(5, WIDTH, 2, batch_first=True, bidirectional=True),
    "rnn": lambda: nn.RNN(5, WIDTH, 1, batch_first=True),
}


@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_moments_are_those_of_the_steps_written_out(kind: str) -> None:
    torch.manual_seed(0)
    model = Net(LAYERS[kind]()).eval()
    expected = dict(met(model.layer))
    student = Compressed(model).eval()
    found = InputMoment().measure(student, list(expected), task(model))
    norms = InputNorm().measure(student, list(expected), task(model))
    for name, x in expected.items():
        metric = found[name]
        assert isinstance(metric, Full)
        torch.testing.assert_close(metric.hessian, (x.double().T @ x.double()) / len(x), rtol=1e-5, atol=1e-7)
        w = model.get_parameter(name)
        torch.testing.assert_close(norms[name].weights(w), metric.weights(w), rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_steps_first_and_states_that_are_given() -> None:
    torch.manual_seed(0)

    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(5, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x.transpose(0, 1), torch.full((1, len(x), WIDTH), 0.5))[0]
            return y

    model = Given().eval()
    student = Compressed(model).eval()
    metric = InputMoment().measure(student, ["layer.weight_hh_l0"], task(model))["layer.weight_hh_l0"]
    h, before = torch.full((4, WIDTH), 0.5), []
    for x in INPUTS.unbind(1):
        before.append(h)
        h, _ = cell(model.layer, "l0", x, h, h)
    rows = torch.cat(before).double()
    assert isinstance(metric, Full)
    torch.testing.assert_close(metric.hessian, rows.T @ rows / len(rows), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("scheme", [Uniform(3, granularity=PerChannel()), Waterfilling(1e-3)], ids=str)
def test_the_sweep_is_never_worse_than_rounding(kind: str, scheme: Uniform | Waterfilling) -> None:
    torch.manual_seed(1)
    model = Net(LAYERS[kind]()).eval()
    student = Compressed(model).eval()
    names = [name for name, _ in model.named_parameters() if known(model.layer, name)]
    found = InputMoment().measure(student, names, task(model))
    for name in names:
        w, metric = student.weight(name).detach(), found[name]
        start = scheme.project(w, metric)
        swept = ColumnSweep().project(scheme, w, metric).decode()
        assert metric.distance(w, swept) <= metric.distance(w, start.decode())


@pytest.mark.parametrize("kind", LAYERS)
def test_recurrent_layers_are_swept_in_a_model_and_curvatures_leave_them_out(kind: str) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(Net(LAYERS[kind]()), nn.Linear(LAYERS[kind]().proj_size or WIDTH, 2)).eval()
    if model[0].layer.bidirectional:
        model[1] = nn.Linear(2 * WIDTH, 2)
    student = Compressed(model).eval()
    names = [name for name, p in model.named_parameters() if p.ndim > 1]
    solve(
        student,
        task(model),
        Kronecker(required=False),
        ColumnSweep(required=False),
        dict.fromkeys(names, Uniform(4, granularity=PerChannel())),
    )
    assert set(student.codes) == set(names)
    with torch.no_grad():
        assert not torch.equal(student(INPUTS), model(INPUTS))


def test_what_is_not_known() -> None:
    layer = nn.LSTM(5, WIDTH, proj_size=2)
    assert not known(layer, "layer.weight_hr_l0") and not known(layer, "layer.bias_ih_l0")

    class Packing(Net):
        def forward(self, x: Tensor) -> Tensor:
            packed = pack_sequence(list(x))
            y: Tensor = self.layer(packed)[0].data
            return y

    model = Packing(nn.GRU(5, WIDTH)).eval()
    with pytest.raises(SchemeError, match="packed"):
        InputMoment().measure(Compressed(model).eval(), ["layer.weight_hh_l0"], task(model))
