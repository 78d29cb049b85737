"""Compressed models: what stays an integer in the file, and in the engine."""

import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from featherweight.activations.dynamic import DynamicQuantizer
from featherweight.activations.quantizers import Quantizer
from featherweight.activations.rules import Calibrated
from featherweight.core.compressed import Compressed
from featherweight.core.errors import EngineError
from featherweight.core.processor import saturates
from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Learn, Recipe, Stage
from featherweight.core.tap import Call, Operator, Place, TapSite
from featherweight.core.task import ACCURACY, Example, Task
from featherweight.engines import ENGINES
from featherweight.engines.engine import Settings
from featherweight.engines.export import Export, export
from featherweight.engines.onnx import export_onnx
from featherweight.engines.onnxruntime import OnnxRuntime
from featherweight.engines.parity import parity
from featherweight.graph.fold import FoldNorms
from featherweight.result import Result
from featherweight.run import run
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.schemes.uniform import Fit, PerChannel, PerGroup, Uniform
from featherweight.search.precision import dynamic, post_training
from featherweight.tasks import find
from featherweight.tasks.digits import digits

from .nets import NETS

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
READERS = ("onnxruntime", "openvino")
ATTENDING = pytest.param("attending", marks=pytest.mark.long)
INT8 = Uniform(8, granularity=PerChannel(), fit=Fit.SEARCH)
FLOATS = 1e-4


def quantized(model: nn.Module, task: Task, rule: Calibrated, scheme: Scheme = INT8) -> Compressed:
    """Weights by ``scheme``, norms folded, activations by ``rule``."""
    stage = Stage("integers", {WEIGHTS: scheme}, edit=FoldNorms(), tap=rule)
    student, _ = run(model, task, Recipe("integers", (stage,)))
    return student.eval()


@cache
def net_in_integers(name: str, bits: int = 8, symmetric: bool = False) -> Compressed:
    """One of the nets, which several tests export. Do not change it."""
    scheme = replace(INT8, bits=bits)
    return quantized(NETS[name].model(), net_task(name), Calibrated(symmetric=symmetric), scheme)


def coded(model: nn.Module, schemes: Mapping[str, Scheme]) -> Compressed:
    """Weights alone."""
    student = Compressed(model)
    student.encode({name: scheme.project(student.source(name)) for name, scheme in schemes.items()}, schemes)
    student.settle()
    return student.eval()


def net_task(name: str) -> Task:
    net = NETS[name]
    return Task(
        name, architecture=net.build, model=net.model, example=lambda: net.example,
        evaluation=lambda: [(net.inputs[0], torch.zeros(5))], selection=lambda: [(net.inputs[0], torch.zeros(5))],
        calibration=lambda: [(net.inputs[0], torch.zeros(5))], quality=ACCURACY,
    )  # fmt: skip


@pytest.fixture(scope="module")
def disturbed() -> Tensor:
    """A thousand digits that the network was not trained on, many of them disturbed: they reach all ranges."""
    inputs = torch.cat([digits("evaluation")[0], digits("selection")[0], digits("evaluation")[0]])[:1000]
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
    return inputs + noise * torch.linspace(0, 0.5, 1000).view(-1, 1, 1, 1)


@pytest.fixture(scope="module", params=["affine", "symmetric"])
def student(request: pytest.FixtureRequest, digits_model: nn.Module) -> Compressed:
    rule = Calibrated(batches=4, symmetric=request.param == "symmetric")
    return quantized(digits_model, find("digits"), rule)


def outputs(engine: str, path: Path, *inputs: Tensor, settings: Settings | None = None) -> Any:
    if ENGINES[engine].extra:
        pytest.importorskip(engine)
    return ENGINES[engine].open(path, settings or Settings()).run([x.numpy() for x in inputs])


@torch.no_grad()
def simulated(student: nn.Module, x: Tensor) -> Any:
    return [student(x).numpy()]


def optimized(path: Path) -> Counter[str]:
    """Operators of the graph that ONNX Runtime makes of a file."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path.with_suffix(".optimized")).graph.node)


def test_engines_decide_as_the_simulation_does(student: Compressed, disturbed: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    written = export(student, find("digits").example(), path)
    assert set(written.integers) == {f"{name}.weight" for name in ("conv1", "conv2", "conv3", "fc1", "fc2")}
    assert written.numbers == () and written.file.any_batch
    for engine in READERS:
        found = parity([simulated(student, disturbed)], [outputs(engine, path, disturbed)])
        assert found.samples == 1000 and found.agreement is not None and found.agreement >= 0.99, engine
        assert found.snr > 25, engine


def test_what_is_exported_is_what_is_simulated(student: Compressed, disturbed: Tensor, tmp_path: Path) -> None:
    written = export(student, find("digits").example(), tmp_path / "m.pt2")
    assert written.file.bytes < 2 * sum(p.numel() for p in student.base.parameters()), "weights of a byte each"
    found = parity([simulated(student, disturbed)], [outputs("pytorch", tmp_path / "m.pt2", disturbed)])
    assert found.largest < FLOATS


def test_onnxruntime_computes_every_layer_in_integers(digits_model: nn.Module, tmp_path: Path) -> None:
    student = quantized(digits_model, find("digits"), Calibrated(batches=4))
    export(student, find("digits").example(), tmp_path / "m.onnx")
    found = optimized(tmp_path / "m.onnx")
    assert (found["QLinearConv"], found["QGemm"]) == (3, 2) and not found["Conv"] + found["Gemm"] + found["FusedGemm"]


class Graph:
    """A file's operators, by the tensors that they make and take."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(path)
        self.nodes = list(self.model.graph.node)
        self.constants = {each.name: each for each in self.model.graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output}

    def type_of(self, name: str) -> int:
        """Of a constant or a Constant node's value."""
        if name in self.constants:
            return int(self.constants[name].data_type)
        return int(next(each for each in self.makers[name].attribute if each.name == "value").t.data_type)

    def activations(self) -> list[Any]:
        """The DequantizeLinear operators of activations."""
        made = [node for node in self.nodes if node.op_type == "DequantizeLinear"]
        return [node for node in made if node.input[0] in self.makers]

    def weights(self) -> list[Any]:
        made = [node for node in self.nodes if node.op_type == "DequantizeLinear"]
        return [node for node in made if node.input[0] in self.constants]

    def users(self, name: str) -> Iterator[Any]:
        """Who takes a tensor, through changes of its shape."""
        for node in self.nodes:
            if name in node.input:
                if node.op_type in ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"):
                    yield from self.users(node.output[0])
                else:
                    yield node


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["digits", "residual", ATTENDING])
def test_activations_are_unsigned_weights_are_signed_and_nothing_else_is_quantized(
    name: str, symmetric: bool, tmp_path: Path
) -> None:
    student = net_in_integers(name, symmetric=symmetric)
    written = export(student, NETS[name].example, tmp_path / "m.onnx", OnnxRuntime(exact=False))
    assert written.file.unsigned == 0
    graph, types = Graph(tmp_path / "m.onnx"), onnx.TensorProto
    quantizers = [node for node in graph.nodes if node.op_type == "QuantizeLinear"]
    assert quantizers and {graph.type_of(node.input[2]) for node in quantizers} == {types.UINT8}
    assert {graph.type_of(node.input[0]) for node in graph.weights()} <= {types.INT8, types.INT32}
    users = {user.op_type for made in graph.activations() for user in graph.users(made.output[0])}
    joins = {"Add", "Concat", "ReduceMean", "Relu", "MaxPool"}
    assert users and users <= {"Conv", "Gemm", "MatMul", *joins}, users
    real = {made.output[0] for made in graph.activations()}
    for node in graph.nodes:
        assert node.op_type not in ("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
        if node.op_type == "MatMul":
            assert not real.issuperset(node.input), "a product of two activations is quantized"


@pytest.mark.parametrize("name", ["digits", "residual", ATTENDING])
@pytest.mark.parametrize("engine", READERS)
def test_exact_files_move_what_would_saturate_and_no_more(engine: str, name: str, tmp_path: Path) -> None:
    """Sums of two products of bytes fit 16 bits where weights are within 64: those of 7 bits stay as they are."""
    net, exact = NETS[name], replace(ENGINES[engine], exact=True)  # type: ignore[type-var]
    kinds, found = {}, {}
    for bits in (7, 8):
        student = net_in_integers(name, bits)
        written = export(student, net.example, tmp_path / "m.onnx", exact)
        graph = Graph(tmp_path / "m.onnx")
        weights = {each.input[0]: graph.type_of(each.input[0]) for each in graph.weights()}
        floats = {name for name in weights if "self_attn" in name}  # what they are multiplied with
        kinds[bits] = {weights[name] for name in weights.keys() - floats} - {onnx.TensorProto.INT32}  # biases
        assert written.file.unsigned == list(weights.values()).count(onnx.TensorProto.UINT8)
        assert {weights[name] for name in floats} <= {onnx.TensorProto.INT8}
        found[bits] = parity([simulated(student, net.inputs[0])], [outputs(engine, tmp_path / "m.onnx", net.inputs[0])])
    assert kinds == {7: {onnx.TensorProto.INT8}, 8: {onnx.TensorProto.UINT8}}
    assert min(each.snr for each in found.values()) > 25, found


@pytest.mark.parametrize("name", ["residual", "attending", "recurrent"])
def test_nets_with_joins_and_attention_are_near_their_simulation(name: str, tmp_path: Path) -> None:
    net, student = NETS[name], net_in_integers(name)
    export(student, net.example, tmp_path / "m.onnx")
    for engine in READERS:
        found = parity([simulated(student, net.inputs[0])], [outputs(engine, tmp_path / "m.onnx", net.inputs[0])])
        assert found.snr > 25, (engine, found)


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_a_quantizer_of_few_bits_clips_where_it_should(bits: int, tmp_path: Path) -> None:
    quantizer = Quantizer(bits, -(2 ** (bits - 1)) + 1, torch.tensor(0.25))
    model = nn.Sequential(quantizer, nn.Identity())
    every = torch.linspace(-70, 70, 2241).view(-1, 1)  # every quarter of a step, exact in binary
    export_onnx(model, Example((every[:2],)), tmp_path / "m.onnx")
    for engine in READERS:
        # OpenVINO adds the zero point before it rounds: ties go to odd levels where that is odd.
        x = every[(every * 8) % 2 != 1].view(-1, 1) if engine == "openvino" else every
        (found,) = outputs(engine, tmp_path / "m.onnx", x)
        assert torch.equal(torch.from_numpy(found), quantizer(x).detach()), engine
        assert (found.min(), found.max()) == (quantizer.lowest / 4, quantizer.highest / 4), engine


class Linears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(128, 256), nn.Linear(256, 64, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu())
        return y


@pytest.mark.parametrize("shape", [(6, 128), (6, 3, 128)])
def test_four_bit_groups_take_four_bits_and_run_as_such(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Linears(), torch.randn(shape)
    written: dict[int, Export] = {}
    for bits in (4, 8):
        scheme = Uniform(bits, granularity=PerGroup(32))
        student = coded(model, {"first.weight": scheme, "second.weight": scheme})
        path = tmp_path / f"m{bits}.onnx"
        written[bits] = export(student, Example((x[:1],)), path)
        assert optimized(path)["MatMulNBits"] == 2
        for engine in READERS:
            exact = parity([simulated(student, x)], [outputs(engine, path, x)])
            assert exact.largest < FLOATS, (engine, exact)
            rounding = parity([simulated(student, x)], [outputs(engine, path, x, settings=Settings(rounding=True))])
            assert rounding.snr > 30
    graph = Graph(tmp_path / "m4.onnx")
    assert {graph.type_of(node.input[0]) for node in graph.weights()} == {onnx.TensorProto.INT4}
    levels = (128 * 256 + 256 * 64) / 2
    assert written[8].file.bytes - written[4].file.bytes == pytest.approx(levels, rel=0.02)


class Doubled(nn.Module):
    """Two layers whose weights have the same levels and other scales."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = nn.Parameter(2 * self.first.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu())
        return y


def test_layers_with_the_same_levels_share_them(tmp_path: Path) -> None:
    model, x = Doubled(), torch.randn(6, 16)
    scheme = Uniform(4, granularity=PerGroup(8))
    student = coded(model, {"first.weight": scheme, "second.weight": scheme})
    assert torch.equal(*(student.codes[f"{name}.weight"].levels for name in ("first", "second")))  # type: ignore[attr-defined]
    export(student, Example((x[:1],)), tmp_path / "m.onnx")
    assert parity([simulated(student, x)], [outputs("onnxruntime", tmp_path / "m.onnx", x)]).largest < FLOATS


def test_weights_alone_stay_integers_and_are_not_folded(digits_model: nn.Module, tmp_path: Path) -> None:
    names = [name for name, p in digits_model.named_parameters() if p.ndim > 1]
    student = coded(digits_model, dict.fromkeys(names, INT8))
    export(student, find("digits").example(), tmp_path / "m.onnx")
    graph, x = Graph(tmp_path / "m.onnx"), digits("selection")[0]
    assert [graph.type_of(node.input[0]) for node in graph.weights()] == [onnx.TensorProto.INT8] * 5
    assert (tmp_path / "m.onnx").stat().st_size < 1.1 * sum(p.numel() for p in digits_model.parameters())
    for engine in READERS:
        assert parity([simulated(student, x)], [outputs(engine, tmp_path / "m.onnx", x)]).largest < FLOATS


class States(nn.Module):
    """What a recurrent layer gives for every step."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.layer(x)[0]
        return states


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both", [False, True], ids=["one direction", "two directions"])
@pytest.mark.parametrize("scheme", [INT8, Uniform(4, granularity=PerGroup(4))], ids=["rows", "groups"])
def test_recurrent_layers_keep_their_weights_as_integers(
    kind: type[nn.LSTM], both: bool, scheme: Scheme, tmp_path: Path
) -> None:
    """In ONNX's order of gates: nothing of a weight is put together as the model runs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = States(kind(12, 20, 2, batch_first=True, bidirectional=both)).eval(), torch.randn(3, 9, 12)
    weights = {name: p.numel() for name, p in model.named_parameters() if p.ndim == 2}
    student = coded(model, dict.fromkeys(weights, scheme))
    written = export(student, Example((x[:1],)), tmp_path / "m.onnx")
    assert set(written.integers) == set(weights) and not written.numbers
    graph = Graph(tmp_path / "m.onnx")
    floats = [math.prod(each.dims) for each in graph.constants.values() if each.data_type == onnx.TensorProto.FLOAT]
    assert sum(floats) < sum(weights.values()) / 3, "scales and biases"
    if kind is not nn.RNN:  # which the exporter takes apart, step by step
        layers = [node for node in graph.nodes if node.op_type in ("LSTM", "GRU")]
        assert [graph.makers[name].op_type for node in layers for name in node.input[1:3]] == ["Reshape"] * 4
    for engine in READERS:
        assert parity([simulated(student, x)], [outputs(engine, tmp_path / "m.onnx", x)]).largest < FLOATS, engine


def test_other_codes_are_decoded_and_told(digits_model: nn.Module, tmp_path: Path) -> None:
    schemes: dict[str, Scheme] = {
        "conv2.weight": Sparse(Fraction(0.8), values=Uniform(8)),
        "conv3.weight": Codebook(4),
        "fc1.weight": Uniform(8, symmetric=False),
        "fc2.weight": Uniform(8),
    }
    student = coded(digits_model, schemes)
    x = digits("selection")[0]
    for path in (tmp_path / "m.onnx", tmp_path / "m.pt2"):
        written = export(student, find("digits").example(), path)
        assert set(written.integers) == {"conv2.weight", "fc2.weight"}
        assert set(written.numbers) == {"conv3.weight", "fc1.weight"}
        found = outputs(written.engine.name, path, x)
        assert parity([simulated(student, x)], [found]).largest < FLOATS


@pytest.mark.parametrize("name", ["digits", "residual", ATTENDING, "recurrent"])
def test_ranges_that_are_found_at_run_time(name: str, tmp_path: Path) -> None:
    """Same levels, same sums: engines are as near as they are with floats, where no rounding is on the edge."""
    net = NETS[name]
    student, _ = run(net.model(), net_task(name), dynamic())
    export(student, net.example, tmp_path / "m.onnx")
    export(student, net.example, tmp_path / "m.pt2")
    graph, types = Graph(tmp_path / "m.onnx"), onnx.TensorProto
    kinds = Counter(node.op_type for node in graph.nodes)
    layers = Counter(optimized(tmp_path / "m.onnx"))
    assert kinds["MatMulInteger"] == kinds["DynamicQuantizeLinear"] == layers["DynamicQuantizeMatMul"] > 0
    assert kinds["ConvInteger"] == kinds["QuantizeLinear"] == kinds["Sub"] == 0
    signed = OnnxRuntime(exact=False)
    assert export(student, net.example, tmp_path / "s.onnx", signed).file.unsigned == 0
    for path, kind in (("m.onnx", types.UINT8 if saturates() else types.INT8), ("s.onnx", types.INT8)):
        multiplied = [each for each in Graph(tmp_path / path).nodes if each.op_type == "MatMulInteger"]
        assert {Graph(tmp_path / path).type_of(each.input[1]) for each in multiplied} == {kind}
    for x in (net.inputs[0], net.inputs[0][:1]):
        expected = [simulated(student, x)]
        for engine in READERS:
            assert parity(expected, [outputs(engine, tmp_path / "m.onnx", x)]).largest < FLOATS, engine
        assert parity(expected, [outputs("pytorch", tmp_path / "m.pt2", x)]).largest < FLOATS


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_compiled_programs_find_ranges_as_they_run(tmp_path: Path) -> None:
    net = NETS["digits"]
    student, _ = run(net.model(), net_task("digits"), dynamic())
    export(student, net.example, tmp_path / "m.pt2")
    found = outputs("pytorch-compiled", tmp_path / "m.pt2", net.inputs[0])
    assert parity([simulated(student, net.inputs[0])], [found]).largest < FLOATS


def test_engines_say_whether_ranges_found_at_run_time_stay_integers(tmp_path: Path) -> None:
    """OpenVINO multiplies their integers as floats, and those of calibrated ranges as integers."""
    pytest.importorskip("openvino")
    from featherweight.engines.openvino import _imported

    net, kinds = NETS["digits"], {}
    for recipe in (dynamic(), post_training()):
        student, _ = run(net.model(), net_task("digits"), recipe)
        export(student, net.example, tmp_path / "m.onnx")
        compiled = (
            _imported().Core().compile_model(str(tmp_path / "m.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        )
        found = [each.get_rt_info() for each in compiled.get_runtime_model().get_ops()]
        kinds[recipe.name] = {
            each["runtimePrecision"].astype(str) for each in found if each["layerType"].astype(str) == "FullyConnected"
        }
    assert kinds["int8-dynamic"] == {"f32"} and kinds["int8"] <= {"u8", "i8"}
    assert [ENGINES[name].capabilities.dynamic for name in ("onnxruntime", "openvino", "pytorch")] == [
        True,
        False,
        False,
    ]


class Projections(nn.Module):
    """Three layers that take the same tensor, as attention has them, one of them without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(12, 8), nn.Linear(12, 8, bias=False), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        sums: Tensor = self.query(x) * self.key(x) + self.value(x)
        return sums


@pytest.mark.parametrize("shape", [(6, 12), (6, 5, 12)])
def test_layers_that_take_the_same_tensor_find_its_range_once(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Projections().eval(), torch.randn(shape)
    task = Task("three", Projections, lambda: model, lambda: Example((x,)))
    student, _ = run(model, task, dynamic())
    assert len(student.sites) == 3
    export(student, Example((x[:1],)), tmp_path / "m.onnx")
    kinds = Counter(node.op_type for node in Graph(tmp_path / "m.onnx").nodes)
    assert (kinds["DynamicQuantizeLinear"], kinds["MatMulInteger"], kinds["DequantizeLinear"]) == (1, 3, 0)
    assert optimized(tmp_path / "m.onnx")["MatMulIntegerToFloat"] == 3
    for engine in READERS:
        assert parity([simulated(student, x)], [outputs(engine, tmp_path / "m.onnx", x)]).largest < FLOATS


@pytest.mark.parametrize("scheme", [Uniform(8, granularity=PerGroup(32)), Uniform(8, granularity=PerChannel(1)), None])
def test_scales_that_no_sum_of_integers_has_are_multiplied_as_floats(scheme: Scheme | None, tmp_path: Path) -> None:
    """By OpenVINO too, which takes DequantizeLinear with a range found at run time for something else."""
    torch.manual_seed(0)
    model, x = Linears(), torch.randn(6, 128)
    student = coded(model, {} if scheme is None else {"first.weight": scheme, "second.weight": scheme})
    student.tap([TapSite(Place(Call(each, Operator.LINEAR)), DynamicQuantizer()) for each in ("first", "second")])
    export(student, Example((x[:1],)), tmp_path / "m.onnx")
    kinds = Counter(node.op_type for node in Graph(tmp_path / "m.onnx").nodes)
    assert kinds["DynamicQuantizeLinear"] == 2 and kinds["MatMulInteger"] == 0
    for engine in READERS:
        assert parity([simulated(student, x)], [outputs(engine, tmp_path / "m.onnx", x)]).largest < FLOATS, engine


class Twice(nn.Module):
    """A layer that is called twice, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.one, self.other = (nn.Linear(8, 8) for _ in range(3))
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.other(self.one(self.again(self.again(x).relu()))) + x
        return y


@pytest.mark.parametrize("shape", [(3, 8), (3, 2, 8)])
def test_layers_that_are_called_twice_and_shared_weights(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    student = coded(Twice(), {"again.weight": INT8, "one.weight": INT8})
    written = export(student, Example((x,)), tmp_path / "m.onnx")
    assert (written.integers, written.numbers) == (("again.weight",), ("one.weight",))
    for engine in READERS:
        assert parity([simulated(student, x)], [outputs(engine, tmp_path / "m.onnx", x)]).largest < FLOATS


def test_exporting_leaves_the_student_as_it_was_and_gives_the_same_bytes(student: Compressed, tmp_path: Path) -> None:
    x, example = digits("selection")[0], find("digits").example()
    before, names = simulated(student, x)[0], [name for name, _ in student.base.named_parameters()]
    for name in ("a.onnx", "b.onnx"):
        export(student, example, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert (simulated(student, x)[0] == before).all()
    assert [name for name, _ in student.base.named_parameters()] == names


def test_what_cannot_be_exported_as_asked_is_refused(digits_model: nn.Module, tmp_path: Path) -> None:
    example = find("digits").example()
    student = coded(digits_model, {"fc1.weight": INT8})
    with pytest.raises(EngineError, match="files of openvino end in .onnx"):
        export(student, example, tmp_path / "m.pt2", ENGINES["openvino"])
    student.learn({"fc1.weight": Learn.LATENT})
    with pytest.raises(EngineError, match=r"call settle\(\)"):
        export(student, example, tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_result_exports_its_student(digits_model: nn.Module, tmp_path: Path) -> None:
    student = coded(digits_model, {"fc1.weight": INT8})
    result = Result(student, find("digits"), Recipe("one", (Stage("fc1", {"fc1.weight": INT8}),)), (), None)
    assert result.export(tmp_path / "m.onnx").engine.name == "onnxruntime"
    assert result.export(str(tmp_path / "n.onnx"), ENGINES["openvino"]).engine.name == "openvino"
    assert (tmp_path / "m.onnx").read_bytes() == (tmp_path / "n.onnx").read_bytes()


class Padded(nn.Module):
    """Padding by hand on one side, before a convolution with padding of its own, between clipped rectifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.third = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.first(x))
        x = nn.functional.relu6(self.second(nn.functional.pad(x, (0, 1, 0, 2))))
        maps: Tensor = self.third(x)
        return maps


def test_zeros_around_a_convolutions_input_become_its_padding(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Padded().eval(), 20 * torch.randn(16, 3, 9, 9)
    task = Task("padded", Padded, lambda: model, lambda: Example((x[:1],)), calibration=lambda: [x])
    made = quantized(model, task, Calibrated())
    export(made, Example((x[:1],)), tmp_path / "padded.onnx")
    proto = onnx.load(str(tmp_path / "padded.onnx"))
    assert not [node for node in proto.graph.node if node.op_type == "Pad"]
    pads = [list(each.ints) for node in proto.graph.node for each in node.attribute if each.name == "pads"]
    assert [1, 1, 3, 2] in pads
    # The last convolution gives the model's output, which stays float.
    assert optimized(tmp_path / "padded.onnx")["QLinearConv"] == 2 and not optimized(tmp_path / "padded.onnx")["Clip"]
    for engine in ("onnxruntime", "openvino"):
        found = parity([simulated(made, x)], [outputs(engine, tmp_path / "padded.onnx", x)])
        assert found.snr > 35, engine


def test_a_rectifiers_output_is_unsigned_where_symmetric_levels_are_asked_for() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), torch.randn(64, 4)
    task = Task("signs", lambda: model, lambda: model, lambda: Example((x[:1],)), calibration=lambda: [x])
    made = quantized(model, task, Calibrated(symmetric=True))
    lowest = {str(place): function.lowest for place, function in made.sites.items() if isinstance(function, Quantizer)}
    assert sorted(lowest.values()) == [-128, 0]


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.places, self.head = nn.Embedding(20, 16), nn.Embedding(6, 16), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.head(self.table(tokens) + self.places(torch.arange(tokens.shape[1])))
        return y


@pytest.mark.parametrize(
    ("scheme", "packed"),
    [(INT8, False), (Uniform(4, granularity=PerGroup(8)), True), (Uniform(8, granularity=PerGroup(8)), False)],
    ids=["rows", "four bits", "groups"],
)
def test_rows_of_an_embedding_are_looked_up_before_they_become_floats(
    scheme: Scheme, packed: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, tokens = Words().eval(), torch.randint(20, (2, 6))
    student = coded(model, {"table.weight": scheme, "places.weight": scheme})
    path = tmp_path / "words.onnx"
    export(student, Example((tokens,)), path, ENGINES["onnxruntime"])
    graph = onnx.load(str(path)).graph
    taken = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    made = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    assert taken and not taken & made
    tables = [each for each in graph.initializer if each.dims and each.dims[0] == 20]
    kinds = {each.data_type for each in tables}
    assert kinds == {onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8 if packed else onnx.TensorProto.INT8}
    for engine in READERS:
        with torch.no_grad():
            (found,) = outputs(engine, path, tokens)
            torch.testing.assert_close(torch.from_numpy(found), student(tokens), rtol=0, atol=FLOATS)
