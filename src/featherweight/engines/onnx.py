"""Models as ONNX files, for every engine that reads them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import SequenceKey, tree_flatten_with_path

from featherweight import file
from featherweight.core.errors import EngineError, reason_of
from featherweight.core.quiet import quiet
from featherweight.core.task import Example, evaluating
from featherweight.engines.engine import Exported
from featherweight.engines.integers import finish, translations, unsigned
from featherweight.engines.packages import needed
from featherweight.engines.program import program
from featherweight.graph.trace import module_of

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram

OPSET = 21
"""The first with four-bit integers and with scales for groups of weights."""
EXTRA = "onnx"


Finish = Callable[["onnx.ModelProto"], "onnx.ModelProto"]


def export_onnx(model: nn.Module, example: Example, path: Path, finish: Finish = finish) -> Exported:
    """Write ``model``, as it is in evaluation, as an ONNX file of opset 21; it is left as it was.

    Inputs are called as the parameters of ``forward``; one output is called ``output``, several by their keys or
    numbers. ``finish`` makes of our operators' translations what the reader wants. The same model gives the same
    bytes. Raises ``EngineError`` where the model cannot be traced or an operator is not in ONNX.
    """
    for package in ("onnx", "onnxscript"):
        needed(package, EXTRA)
    traced = program(model, example)
    names = _output_names(model, example)
    made = finish(_translated(traced.exported, names))
    _plain(made)
    data = _serialized(made)
    return Exported(path, file.save(path, data), traced.any_batch, unsigned=unsigned(made))


def _translated(exported: "ExportedProgram", outputs: list[str]) -> "onnx.ModelProto":
    with quiet(), torch.no_grad():
        try:
            made = torch.onnx.export(
                exported,
                output_names=outputs,
                opset_version=OPSET,
                custom_translation_table=dict(translations()),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            raise EngineError(_complaint(exported, error)) from error
        assert made is not None
        return made.model_proto


def _complaint(exported: "ExportedProgram", error: BaseException | None) -> str:
    """What the exporter could not do, with the operator and the module that it is in where it tells them."""
    first = told = error
    while told is not None:
        first = told
        found = re.search(r"OpOverload\(op='([\w.:]+)', overload='(\w+)'\)", str(told))
        if found:
            operator = found[1].replace("::", ".")
            module = _module_of(exported, f"{operator}.{found[2]}")
            place = f" of module {module!r}" if module else ""
            return (
                f"the operator {operator}{place} has no form in ONNX; "
                "compress weights alone and run in PyTorch, or leave this module out"
            )
        told = told.__cause__ or told.__context__
    return f"the model cannot be written as ONNX ({reason_of(first)})"


def _module_of(exported: "ExportedProgram", target: str) -> str:
    """The module of the first call of an operator; none for an operator that another was decomposed into."""
    calls = (node for node in exported.graph.nodes if str(node.target) == target)
    return next((module_of(node) for node in calls), "")


def _output_names(model: nn.Module, example: Example) -> list[str]:
    """``output``, or a name for each tensor of several: its keys, with numbers counted from zero."""
    with evaluating(model), torch.no_grad():
        leaves, _ = tree_flatten_with_path(example.run(model))
    paths = ["_".join(_key(each) for each in path) for path, value in leaves if isinstance(value, torch.Tensor)]
    if paths == [""]:
        return ["output"]
    return [f"output_{path}" if path[:1].isdigit() else path for path in paths]


def _key(entry: Any) -> str:
    return str(entry.idx) if isinstance(entry, SequenceKey) else str(entry).strip("[].'")


def _plain(model: "onnx.ModelProto") -> None:
    """Without notes on where the model came from; the free dimension is called ``batch``."""
    del model.metadata_props[:], model.graph.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    model.graph.name = "model"
    free = [each.type.tensor_type.shape.dim[0].dim_param for each in model.graph.input if _has_dimensions(each)]
    renamed = {
        name: "batch" if len(set(free)) == 1 else f"batch_{i}" for i, name in enumerate(dict.fromkeys(free)) if name
    }
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = re.sub(r"\w+", lambda m: renamed.get(m[0], m[0]), dimension.dim_param)


def _has_dimensions(value: "onnx.ValueInfoProto") -> bool:
    return bool(value.type.tensor_type.shape.dim)


def _serialized(model: "onnx.ModelProto") -> bytes:
    import onnx

    try:
        data: bytes = model.SerializeToString(deterministic=True)
        onnx.checker.check_model(data, full_check=True)
    except Exception as error:
        raise EngineError(f"what the exporter made is no valid ONNX file ({reason_of(error)})") from error
    return data
