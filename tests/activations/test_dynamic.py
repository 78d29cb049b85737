"""Ranges that are found as the model runs."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featherweight.activations.dynamic import DynamicQuantizer, DynamicRanges, dynamically_quantized
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SelectionError, TraceError
from featherweight.core.site import Sites
from featherweight.core.tap import Call, Operator, Place
from featherweight.core.task import Example, Task
from featherweight.graph.lower import integer_program

from ..search.test_precision import wayward


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


BATCHES = {
    "normal": draw(5, 7, 9),
    "positive": draw(5, 7).abs() + 1,
    "negative": -draw(5, 7).abs() - 1,
    "zeros": torch.zeros(3, 4),
    "one number": torch.tensor([[2.5]]),
    "an outlier": torch.cat([draw(100), torch.tensor([1e4])]),
    "ties": torch.arange(-4, 12).div(2).repeat(8),
    "subnormal": draw(8, 8) * 1e-39,
    "huge": draw(8, 8) * 1e37,
}


def operator() -> Any:
    """A graph of one DynamicQuantizeLinear."""
    onnx = pytest.importorskip("onnx")
    make, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
    node = onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    outputs = [make("q", kinds.UINT8, None), make("s", kinds.FLOAT, []), make("z", kinds.UINT8, [])]
    graph = onnx.helper.make_graph([node], "one", [make("x", kinds.FLOAT, None)], outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def meant(levels: Any, scale: Any, zero: Any) -> Any:
    return (levels.astype(np.float32) - np.float32(zero)) * scale


@pytest.mark.parametrize("name", BATCHES)
def test_it_is_what_onnx_runtime_computes(name: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(operator().SerializeToString(), providers=["CPUExecutionProvider"])
    x = BATCHES[name]
    assert np.array_equal(DynamicQuantizer()(x).numpy(), meant(*session.run(None, {"x": x.numpy()})))
    assert torch.equal(dynamically_quantized(x), DynamicQuantizer()(x))


@pytest.mark.parametrize("name", [name for name in BATCHES if name not in ("zeros", "subnormal")])
def test_it_is_what_onnx_says(name: str) -> None:
    """Its reference divides by a step of zero where there is nothing, or next to nothing, but zeros."""
    reference = pytest.importorskip("onnx.reference").ReferenceEvaluator(operator())
    x = BATCHES[name]
    assert np.array_equal(DynamicQuantizer()(x).numpy(), meant(*reference.run(None, {"x": x.numpy()})))


@pytest.mark.parametrize("name", BATCHES)
def test_nothing_is_further_than_a_step_and_zero_is_kept(name: str) -> None:
    x = BATCHES[name]
    y = DynamicQuantizer()(torch.cat([x.flatten(), torch.zeros(1)]))
    step = (x.max().clamp(min=0) - x.min().clamp(max=0)) / 255
    assert y[-1] == 0 and float((y[:-1] - x.flatten()).abs().max()) <= float(step) * 1.0001
    assert len(y.unique()) <= 256


def test_samples_share_the_range_of_their_batch() -> None:
    x, loud = draw(1, 6), 100 * draw(1, 6, seed=1)
    alone, beside = DynamicQuantizer()(x), DynamicQuantizer()(torch.cat([x, loud]))[:1]
    assert float((alone - x).abs().max()) < 0.05 < float((beside - x).abs().max())


def test_backward_is_straight_through() -> None:
    x, g = draw(4, 5).requires_grad_(), draw(4, 5, seed=2)
    DynamicQuantizer()(x).backward(g)
    assert torch.equal(x.grad, g)


def test_an_empty_batch_stays_empty() -> None:
    assert DynamicQuantizer()(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("record", [[8], [None], [[]]])
def test_malformed_records(record: list) -> None:
    with pytest.raises(FormatError, match="no settings"):
        DynamicQuantizer.from_json(record)
    assert DynamicQuantizer.from_json(DynamicQuantizer().to_json()).to_json() == []


class Mixed(nn.Module):
    """A convolution, and linear layers, one of which is called twice and one tied to another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.again, self.head, self.tied = nn.Conv1d(2, 4, 3), *(nn.Linear(4, 4) for _ in range(3))
        self.tied.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.again(self.again(self.conv(x).mean(2)).relu())
        out: Tensor = self.tied(self.head(y))
        return out


def places(rule: DynamicRanges) -> set[tuple[str, int]]:
    task = Task("mixed", Mixed, Mixed, lambda: Example((draw(3, 2, 6),)))
    found = rule.taps(Compressed(Mixed()).eval(), task)
    assert all(each.place.operand == 0 and each.place.call.operator is Operator.LINEAR for each in found)
    return {(each.place.call.module, each.place.call.ordinal) for each in found}


def test_the_rule_finds_linear_layers_and_needs_no_data() -> None:
    assert places(DynamicRanges()) == {("again", 0), ("again", 1), ("head", 0), ("tied", 0)}
    assert places(DynamicRanges(Sites(("head.*",)))) == {("head", 0), ("tied", 0)}
    assert places(DynamicRanges().without(["again.weight"])) == {("head", 0), ("tied", 0)}
    assert places(DynamicRanges(Sites(("conv.weight",)))) == places(DynamicRanges(exclude=("*",))) == set()


def test_a_model_that_cannot_be_traced() -> None:
    model, x = wayward()
    task = Task("wayward", lambda: model, lambda: model, lambda: Example((x,)))
    with pytest.raises(TraceError, match="cannot be traced"):
        DynamicRanges().taps(Compressed(model), task)


def test_integer_arithmetic_has_no_such_range() -> None:
    student = Compressed(nn.Sequential(nn.Linear(4, 2))).eval()
    task = Task("one", lambda: nn.Linear(4, 2), lambda: nn.Linear(4, 2), lambda: Example((draw(3, 4),)))
    student.tap(DynamicRanges().taps(student, task))
    assert list(student.sites) == [Place(Call("0", Operator.LINEAR))]
    with pytest.raises(SelectionError, match="cannot run on integers"):
        integer_program(student, Example((draw(3, 4),)))
