"""Quantization in PyTorch's standard operators: the same numbers, laid out as engines' compilers look for it."""

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node

from featherweight.activations.quantizers import Quantizer
from featherweight.activations.rules import Calibrated
from featherweight.core.compressed import Compressed
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import ACCURACY, Example, Task
from featherweight.engines import executorch
from featherweight.engines.decomposed import Kernels, aten, decomposed, standard
from featherweight.engines.integers import deployed
from featherweight.engines.parity import parity
from featherweight.engines.program import Limits
from featherweight.graph.fold import FoldNorms
from featherweight.run import run
from featherweight.schemes.uniform import Fit, PerChannel, PerGroup, Uniform
from featherweight.search.precision import dynamic

from .nets import NETS

INT8 = Uniform(8, granularity=PerChannel(), fit=Fit.SEARCH)
KERNELS = {
    "folded": Kernels(most=Limits(64, 9), bare=frozenset({aten.slice.Tensor})),
    "unfolded": Kernels(folded=False, unquantized=aten.linear.default),
    "ranging": executorch.KERNELS,
}


def task(name: str) -> Task:
    net = NETS[name]
    return Task(
        name, architecture=net.build, model=net.model, example=lambda: net.example,
        calibration=lambda: [(net.inputs[0], torch.zeros(5))], quality=ACCURACY,
    )  # fmt: skip


def quantized(name: str) -> Compressed:
    stage = Stage("integers", {WEIGHTS: INT8}, edit=FoldNorms(), tap=Calibrated())
    student, _ = run(NETS[name].model(), task(name), Recipe("integers", (stage,)))
    return student.eval()


def nodes(graph: torch.fx.Graph, *targets: object) -> list[Node]:
    return [node for node in graph.nodes if node.target in targets]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", ["digits", "residual", pytest.param("attending", marks=pytest.mark.long), "recurrent"])
def test_the_program_computes_what_is_simulated(name: str, kernels: str) -> None:
    student, x = quantized(name), NETS[name].inputs[0]
    found = decomposed(deployed(student), NETS[name].example, KERNELS[kernels])
    assert found.any_batch
    with torch.no_grad():
        expected, outputs = student(x).numpy(), found.exported.module()(x).numpy()
    same = parity([[expected]], [[outputs]])
    assert same.snr > 35, same  # ties alone are rounded otherwise: the standard operator multiplies by 1 / scale
    assert not [node for node in found.exported.graph.nodes if "featherweight" in str(node.target)]


@pytest.mark.parametrize("name", ["digits", "residual"])
def test_layers_take_levels_of_their_own_and_give_levels(name: str) -> None:
    graph = decomposed(deployed(quantized(name)), NETS[name].example, KERNELS["folded"]).exported.graph
    made = nodes(graph, standard.dequantize_per_tensor.default)
    assert made and all(len(node.users) == 1 for node in made)
    layers = nodes(graph, aten.conv2d.default)
    assert layers
    for layer in layers:
        x, weight = layer.all_input_nodes[:2]
        assert x.target == standard.dequantize_per_tensor.default
        assert weight.target == standard.dequantize_per_channel.default
        assert weight.all_input_nodes[0].op == "placeholder", "levels are in the file"
    assert all(node.args[-1] is torch.int8 for node in nodes(graph, standard.quantize_per_tensor.default))


def test_only_layers_whose_result_is_not_quantized_are_left_to_the_engine() -> None:
    student = quantized("digits")
    floats = decomposed(deployed(student), NETS["digits"].example, KERNELS["folded"]).exported.graph
    levels = decomposed(deployed(student), NETS["digits"].example, KERNELS["unfolded"]).exported.graph
    weights = [[node.args[1] for node in nodes(graph, aten.linear.default)] for graph in (floats, levels)]
    per_channel = standard.dequantize_per_channel.default
    assert [node.target == per_channel for node in weights[0]] == [True, False]  # type: ignore[union-attr]
    assert [node.target == per_channel for node in weights[1]] == [True, True]  # type: ignore[union-attr]


def test_a_model_without_integers_is_traced_as_it_is() -> None:
    graph = decomposed(NETS["residual"].model(), NETS["residual"].example, KERNELS["folded"]).exported.graph
    assert not [node for node in graph.nodes if "quantize" in str(node.target)]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_quantizer_of_few_bits_clips_where_it_should(bits: int) -> None:
    quantizer = Quantizer(bits, -(2 ** (bits - 1)) + 1, torch.tensor(0.25))
    x = torch.linspace(-70, 70, 2241).view(-1, 1)
    module = decomposed(nn.Sequential(quantizer), Example((x[:2],)), KERNELS["unfolded"]).exported.module()
    assert torch.equal(module(x), quantizer(x).detach())


class Shortcut(nn.Module):
    """Every second row and column of an image, more channels, and its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.taps = nn.ModuleList(Quantizer(8, -100, torch.tensor(0.02)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.taps[0](self.first(self.taps[1](x)).flatten(2).reshape(-1, 4, 8, 8))
        x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        y: Tensor = self.taps[3](self.second(self.taps[2](x)))
        return y


def test_what_is_moved_stays_levels() -> None:
    model, x = Shortcut(), torch.randn(3, 3, 8, 8)
    example = Example((x[:1],))
    bare, around = (
        decomposed(model, example, kernels).exported for kernels in (KERNELS["folded"], KERNELS["unfolded"])
    )
    with torch.no_grad():
        assert all(torch.allclose(each.module()(x), model(x), atol=1e-6) for each in (bare, around))
    slices = nodes(bare.graph, aten.slice.Tensor)
    assert len(slices) == 2, "those of everything are left out"
    assert all(node.meta["val"].dtype is torch.int8 for node in slices)
    for node in nodes(around.graph, aten.slice.Tensor, aten.pad.default):
        assert node.all_input_nodes[0].target == standard.dequantize_per_tensor.default
        assert [user.target for user in node.users] == [standard.quantize_per_tensor.default]
    (conv, _) = nodes(bare.graph, aten.conv2d.default)
    assert [user.target for user in conv.users] == [standard.quantize_per_tensor.default], "before it is flattened"


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.head(self.table(tokens))
        return y


@pytest.mark.parametrize("scheme", [INT8, Uniform(4, granularity=PerGroup(8))], ids=["rows", "groups"])
def test_rows_of_an_embedding_are_looked_up_as_levels(scheme: Uniform) -> None:
    model, tokens = Words().eval(), torch.randint(20, (2, 6))
    student = Compressed(model)
    names = ("table.weight", "head.weight")
    student.encode({name: scheme.project(student.source(name)) for name in names}, dict.fromkeys(names, scheme))
    student.settle()
    found = decomposed(deployed(student.eval()), Example((tokens,)), KERNELS["folded"]).exported
    kinds = {x.dtype for x in (*found.state_dict.values(), *found.constants.values()) if x.shape == (20, 16)}
    assert kinds == {torch.int8 if scheme is INT8 else torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(found.module()(tokens), student(tokens))


def test_ranges_that_are_found_at_run_time_are_computed_in_floats() -> None:
    student, _ = run(NETS["digits"].model(), task("digits"), dynamic())
    found, x = (
        decomposed(deployed(student), NETS["digits"].example, KERNELS["folded"]).exported,
        NETS["digits"].inputs[0],
    )
    with torch.no_grad():
        torch.testing.assert_close(found.module()(x), student.eval()(x), rtol=0, atol=1e-4)


def test_batches_have_the_bound_that_is_asked_for() -> None:
    found = decomposed(NETS["digits"].model(), NETS["digits"].example, Kernels(most=Limits(48))).exported
    assert [each.upper for each in found.range_constraints.values()] == [48]
    found = decomposed(NETS["attending"].model(), NETS["attending"].example, Kernels(most=Limits(48, 5))).exported
    assert sorted(each.upper for each in found.range_constraints.values()) == [7, 48], "the example is longer"
