"""Layers that lose their biases, and a network that starts anew."""

import pytest
import torch
from torch import nn

from featherweight import file
from featherweight.architectures.digits import DigitsNet
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError
from featherweight.core.stage import Recipe, Stage, everywhere
from featherweight.graph.biases import Anew, Unbias
from featherweight.run import run
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import Uniform
from featherweight.tasks import find

LAYERS = ("conv1", "conv2", "conv3", "fc1", "fc2")


def test_weights_start_anew_and_biases_are_gone(digits_model: nn.Module) -> None:
    before = digits_model.fc1.weight.clone()
    recipe = Recipe("anew", (everywhere("anew", Uniform(4), edit=Anew(lambda w: w.sign() / 8)),))
    student, _ = run(digits_model, find("digits"), recipe)
    assert student.edits == (Unbias(LAYERS),)
    assert set(student.names) == {f"{layer}.weight" for layer in LAYERS}
    torch.testing.assert_close(student.weight("fc1.weight"), before.sign() / 8, atol=1e-4, rtol=0)
    assert torch.equal(digits_model.fc1.weight, before) and digits_model.fc1.bias is not None

    loaded, _ = file.load(file.encode(student, number=1), DigitsNet())
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded(x), student(x)) and loaded.base.fc1.bias is None


def test_codes_of_biases_go_and_others_stay() -> None:
    student = Compressed(DigitsNet())
    half = Float(Width.FLOAT16)
    names = ("fc1.weight", "fc1.bias", "fc2.bias")
    student.encode({n: half.project(student.parameter(n).detach()) for n in names}, dict.fromkeys(names, half))
    student.edit(Unbias(("fc1",)))
    assert set(student.codes) == {"fc1.weight", "fc2.bias"}


def test_a_network_without_biases_starts_anew_too() -> None:
    stage = Stage("anew", edit=Anew(torch.zeros_like))
    assert stage.edit is not None
    student = Compressed(nn.Sequential(nn.Linear(3, 2, bias=False)))
    edits = stage.edit.decide(student, find("digits"))
    assert edits == [Unbias(())]
    values = stage.edit.values(student, edits, find("digits"))
    assert torch.equal(values["0.weight"], torch.zeros(2, 3))


def test_records_that_are_none() -> None:
    with pytest.raises(FormatError, match="list"):
        Unbias.from_json({"layers": "fc1"})
    with pytest.raises(FormatError, match="twice"):
        Unbias.from_json({"layers": ["fc1", "fc1"]})
    for layers in (("pool",), ("nothing",)):
        with pytest.raises(FormatError, match="no layer"):
            Unbias(layers).apply(DigitsNet())
