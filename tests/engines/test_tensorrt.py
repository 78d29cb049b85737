"""TensorRT's rules, a violation at a time, and files that keep them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featherweight.activations.rules import Calibrated
from featherweight.core.compressed import Compressed
from featherweight.core.errors import EngineError
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Stage
from featherweight.engines import find
from featherweight.engines.engine import Settings
from featherweight.engines.export import export
from featherweight.engines.parity import Parity, parity
from featherweight.graph.fold import FoldNorms
from featherweight.run import run
from featherweight.schemes.uniform import PerChannel, PerGroup, Uniform
from featherweight.search.precision import dynamic, post_training
from featherweight.tasks import find as find_task
from featherweight.tasks.digits import digits

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from featherweight.engines.tensorrt_rules import violations  # noqa: E402

ENGINE = find("tensorrt")


def valid() -> Any:
    """A convolution of INT8 weights and inputs, by hand: nothing to complain of."""
    helper, kinds = onnx.helper, onnx.TensorProto
    constants = {
        "step": np.array(0.5, np.float32), "zero": np.array(0, np.int8), "levels": np.ones((3, 2, 1, 1), np.int8),
        "scales": np.array([1, 2, 3], np.float32), "bias": np.zeros(3, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"], name="d"),
        helper.make_node("DequantizeLinear", ["levels", "scales"], ["w"], name="w", axis=0),
        helper.make_node("Conv", ["d", "w", "bias"], ["y"], name="y"),
    ]
    sides = [helper.make_tensor_value_info(name, kinds.FLOAT, [1, n, 4, 4]) for name, n in (("x", 2), ("y", 3))]
    made = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", sides[:1], sides[1:], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def put(model: Any, name: str, values: "np.ndarray[Any, Any]") -> None:
    place = next(i for i, each in enumerate(model.graph.initializer) if each.name == name)
    model.graph.initializer[place].CopyFrom(onnx.numpy_helper.from_array(values, name))


def uint8(model: Any) -> None:
    put(model, "zero", np.array(0, np.uint8))


def asymmetric(model: Any) -> None:
    put(model, "zero", np.array(3, np.int8))


def unsaid(model: Any) -> None:
    del model.graph.node[0].input[2]


def nothing(model: Any) -> None:
    put(model, "scales", np.array([1, 0, 3], np.float32))


def several(model: Any) -> None:
    put(model, "step", np.array([0.5, 0.25], np.float32))


def computed(model: Any) -> None:
    model.graph.node[0].input[1] = "x"


def sideways(model: Any) -> None:
    put(model, "scales", np.array([1, 2], np.float32))
    model.graph.node[2].attribute[0].i = 1


def integer_bias(model: Any) -> None:
    put(model, "bias", np.zeros(3, np.int32))
    model.graph.node.insert(3, onnx.helper.make_node("DequantizeLinear", ["bias", "scales"], ["b"], name="b", axis=0))


def float_input(model: Any) -> None:
    model.graph.node[3].input[0] = "x"


def operators(model: Any) -> None:
    model.graph.node.append(onnx.helper.make_node("QLinearConv", ["x"], ["z"], name="z"))


def far_blocks(model: Any) -> None:
    model.graph.node[2].attribute.append(onnx.helper.make_attribute("block_size", 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (uint8, "QuantizeLinear 'q': UINT8 is not read; give INT8"),
        (asymmetric, "DequantizeLinear 'd': the zero point is not zero"),
        (unsaid, "QuantizeLinear 'q': no zero point means UINT8"),
        (nothing, "DequantizeLinear 'w': a scale is not over zero"),
        (several, "QuantizeLinear 'q': an activation has more than one scale"),
        (computed, "QuantizeLinear 'q': the scale is no constant"),
        (sideways, "Conv 'y': scales lie along dimension 1 of the weight, not along its output channels"),
        (integer_bias, "DequantizeLinear 'b': INT32 is not dequantized; biases are floats"),
        (float_input, "Conv 'y': weights of INT8 meet floats"),
        (operators, "QLinearConv 'z': is not read"),
        (far_blocks, "DequantizeLinear 'w': blocks lie along another than the last two dimensions"),
    ],
)
def test_each_rule_sees_what_breaks_it(change: Callable[[Any], None], words: str) -> None:
    model = valid()
    assert violations(model) == []
    change(model)
    assert any(each.startswith(words) for each in violations(model)), violations(model)


def quantized(model: nn.Module, bits: int, *, symmetric: bool = False) -> Compressed:
    rule = Calibrated(bits, symmetric=symmetric, batches=4)
    stage = Stage("i", {WEIGHTS: Uniform(8, granularity=PerChannel())}, edit=FoldNorms(), tap=rule)
    return run(model, find_task("digits"), Recipe("i", (stage,)))[0].eval()


def evaluated(path: Path, x: Tensor) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    found = ReferenceEvaluator(str(path))
    return list(found.run(None, {found.input_names[0]: x.numpy()}))


def compared(student: nn.Module, path: Path, x: Tensor) -> Parity:
    with torch.no_grad():
        return parity([[student(x).numpy()]], [evaluated(path, x)])


def test_seven_bits_are_written_exactly(digits_model: nn.Module, tmp_path: Path) -> None:
    """Levels from 0 to 127, and from −64 to 63, are levels of INT8."""
    student, x = quantized(digits_model, 7), digits("evaluation")[0][:64]
    written = export(student, find_task("digits").example(), tmp_path / "m.onnx", ENGINE)
    assert len(written.integers) == 5 and violations(onnx.load(tmp_path / "m.onnx")) == []
    assert compared(student, tmp_path / "m.onnx", x).largest < 1e-5


def test_of_eight_bits_without_a_sign_one_is_lost(digits_model: nn.Module, tmp_path: Path) -> None:
    student, x = quantized(digits_model, 8), digits("evaluation")[0][:256]
    export(student, find_task("digits").example(), tmp_path / "m.onnx", ENGINE)
    assert violations(onnx.load(tmp_path / "m.onnx")) == []
    found = compared(student, tmp_path / "m.onnx", x)
    assert found.largest > 1e-4 and found.agreement is not None and found.agreement >= 0.98 and found.snr > 25


def test_onnxruntime_computes_the_same_file(digits_model: nn.Module, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    student, x = quantized(digits_model, 8, symmetric=True), digits("evaluation")[0]
    export(student, find_task("digits").example(), tmp_path / "m.onnx", ENGINE)
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        found = parity([[student(x).numpy()]], [session.run(None, {session.get_inputs()[0].name: x.numpy()})])
    assert found.agreement is not None and found.agreement >= 0.98


def test_the_files_of_other_engines_break_the_rules(digits_model: nn.Module, tmp_path: Path) -> None:
    student, _ = run(digits_model, find_task("digits"), post_training())
    export(student.eval(), find_task("digits").example(), tmp_path / "m.onnx", find("onnxruntime"))
    found = "; ".join(violations(onnx.load(tmp_path / "m.onnx")))
    assert "UINT8 is not read" in found and "biases are floats" in found


def weights_alone(model: nn.Module, scheme: Uniform) -> Compressed:
    student = Compressed(model)
    names = ("fc1.weight", "fc2.weight")
    student.encode({name: scheme.project(student.source(name)) for name in names}, dict.fromkeys(names, scheme))
    student.settle()
    return student.eval()


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [(Uniform(8, granularity=PerChannel()), "FLOAT"), (Uniform(4, granularity=PerGroup(32)), "INT4")],
)
def test_weights_alone_are_floats_unless_of_four_bits(
    scheme: Uniform, kind: str, digits_model: nn.Module, tmp_path: Path
) -> None:
    student, x = weights_alone(digits_model, scheme), digits("evaluation")[0][:16]
    export(student, find_task("digits").example(), tmp_path / "m.onnx", ENGINE)
    made = onnx.load(tmp_path / "m.onnx")
    assert violations(made) == [] and compared(student, tmp_path / "m.onnx", x).largest < 1e-5
    kinds = {onnx.TensorProto.DataType.Name(each.data_type) for each in made.graph.initializer if len(each.dims) == 2}
    assert kinds >= {kind} and "INT8" not in kinds


def test_ranges_of_run_time_are_refused(digits_model: nn.Module, tmp_path: Path) -> None:
    student, _ = run(digits_model, find_task("digits"), dynamic())
    with pytest.raises(EngineError, match="TensorRT finds no ranges at run time"):
        export(student.eval(), find_task("digits").example(), tmp_path / "m.onnx", ENGINE)
    assert not (tmp_path / "m.onnx").exists()


def test_opening_says_what_to_do_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"not run here.*trtexec --onnx=.*m.onnx --saveEngine=.*m.plan"):
        ENGINE.open(tmp_path / "m.onnx", Settings())
