"""LSTMs step by step: what PyTorch's compute, with quantizers within, in files and engines."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.architectures.digits import DigitsLSTM
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SchemeError
from featherweight.graph.recurrent import Step, SteppedLSTM, step

SIGNALS = {"hidden_l0": (4, -8, 1 / 7), "hidden_l1": (3, -4, 1 / 3), "gates_l1": (4, 0, 1 / 15)}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_without_quantizers_it_is_pytorchs(batch_first: bool, bias: bool, batched: bool, given: bool) -> None:
    torch.manual_seed(0)
    layer = nn.LSTM(5, 4, 2, bias=bias, batch_first=batch_first, dtype=torch.float64)
    x = torch.randn(*((3, 6, 5) if batched else (6, 5)), dtype=torch.float64)
    many = (x.shape[0] if batch_first else x.shape[1],) if batched else ()
    first = (torch.randn(2, *many, 4, dtype=torch.float64), torch.randn(2, *many, 4, dtype=torch.float64))

    def seen() -> list[Tensor]:
        y, states = layer(x, first) if given else layer(x)
        layer.zero_grad()
        (y.square().sum() + states[1].sum()).backward()
        return [y, *states, *(p.grad.clone() for p in layer.parameters())]

    wanted = seen()
    step(layer, {})
    assert type(layer) is SteppedLSTM
    for ours, theirs in zip(seen(), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_one_step_by_hand() -> None:
    """Gates, candidate, cell and hidden state of one layer, each rounded as its quantizer says."""
    torch.manual_seed(1)
    layer = nn.LSTM(3, 2)
    x, h, c = torch.randn(1, 1, 3), torch.rand(1, 1, 2), torch.rand(1, 1, 2)
    sums = x[0] @ layer.weight_ih_l0.T + layer.bias_ih_l0 + h[0] @ layer.weight_hh_l0.T + layer.bias_hh_l0
    i, f, g, o = sums.chunk(4, 1)
    i, f, o = ((torch.sigmoid(each) * 3).round() / 3 for each in (i, f, o))
    cell = ((f * c[0] + i * (torch.tanh(g) * 7).round() / 7) * 4).round() / 4
    hidden = (o * torch.tanh(cell) * 3).round() / 3
    made = {"gates": (2, 0, 1 / 3), "candidate": (4, -8, 1 / 7), "cell": (5, -16, 0.25), "hidden": (3, -4, 1 / 3)}
    Step({"": {f"{kind}_l0": each for kind, each in made.items()}}).apply(layer)
    y, (last, end) = layer(x, (h, c))
    torch.testing.assert_close(y[0], hidden)
    torch.testing.assert_close(last[0], hidden)
    torch.testing.assert_close(end[0], cell)


def test_gradients_pass_through_the_rounding() -> None:
    layer = nn.LSTM(3, 4, batch_first=True)
    Step({"": {"input_l0": (4, -8, 0.5), "hidden_l0": (4, -8, 0.05)}}).apply(layer)
    layer(torch.randn(2, 5, 3))[0].sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in layer.parameters())


def stepped() -> Compressed:
    torch.manual_seed(2)
    student = Compressed(DigitsLSTM()).eval()
    student.edit(Step({"lstm": SIGNALS}))
    return student


def test_a_file_holds_the_quantizers(tmp_path: Path) -> None:
    student = stepped()
    loaded, contents = file.load(file.encode(student, number=13), DigitsLSTM())
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded(x), student(x)) and contents.header.edits == student.edits
    signals = loaded.base.lstm.signals
    assert {name: tuple(each.to_json()) for name, each in signals.items()} == {
        name: (bits, lowest, float(np.float32(scale))) for name, (bits, lowest, scale) in SIGNALS.items()
    }
    assert set(loaded.base.state_dict()) == set(DigitsLSTM().state_dict())


def test_states_are_few_and_the_users_model_is_as_it_was() -> None:
    model = DigitsLSTM().eval()
    student = Compressed(model).eval()
    student.edit(Step({"lstm": SIGNALS}))
    states, _ = student.base.lstm(torch.randn(4, 8, 8))
    assert len(states.unique()) <= 8
    assert type(model.lstm) is nn.LSTM and type(student.finished().lstm) is SteppedLSTM  # type: ignore[union-attr]


def test_dropout_between_layers_is_in_training_alone() -> None:
    layer = nn.LSTM(3, 4, 2, dropout=0.5)
    x = torch.randn(5, 2, 3)
    wanted = layer.eval()(x)[0]
    step(layer, {})
    torch.testing.assert_close(layer(x)[0], wanted)
    assert not torch.equal(layer.train()(x)[0], layer(x)[0])


def test_the_exported_model_gives_the_same(tmp_path: Path) -> None:
    student = stepped()
    x = torch.randn(2, 1, 8, 8)
    exported = torch.export.export(student.finished().eval(), (x,)).module()
    torch.testing.assert_close(exported(x), student(x))


def test_what_cannot_step() -> None:
    for layer in (nn.LSTM(3, 4, bidirectional=True), nn.LSTM(3, 4, proj_size=2), nn.GRU(3, 4), nn.Linear(3, 4)):
        with pytest.raises(FormatError, match="no LSTM of one direction"):
            Step({"": {}}).apply(layer)
    with pytest.raises(FormatError, match="1 layers"):
        Step({"": {"hidden_l1": (4, -8, 0.1)}}).apply(nn.LSTM(3, 4))
    layer = nn.LSTM(3, 4)
    step(layer, {})
    with pytest.raises(SchemeError, match="packed"):
        layer(nn.utils.rnn.pack_sequence([torch.randn(2, 3)]))


@pytest.mark.parametrize(
    "record",
    [
        {"lstm": []},
        {"lstm": {"hidden_l0": 3}},
        {"lstm": {"hidden": [4, -8, 0.1]}},
        {"lstm": {"hidden_l0": [9, 0, 0.1]}},
    ],
)
def test_records_that_are_none(record: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        Step.from_json(record)
