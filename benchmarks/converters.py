"""What converters make of every task's float and int8 model: how far from the model, and how many bytes.

    python benchmarks/converters.py ncnn|tvm|tensorrt [TASK ...] [--samples 1000] [--save FILE.json]
    python benchmarks/converters.py opsets [TASK ...] [--save FILE.json]

The float export is held against the float model, the int8 export against the simulated int8 model, ResNet-20's from
evidence/resnet20-w8a8.fwt: largest difference over the largest output, SNR, equal top-1. What cannot be converted says
why. TensorRT is not run: its files are checked by its rules and computed by ONNX's reference evaluator. "opsets" writes
files for ONNX Runtime in older sets of operators, by onnx's version converter, with onnx's checker behind it. Times
are not taken. Needs the extras ncnn, tvm or onnx, and those of the tasks.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from parity import first
from rich.console import Console
from rich.table import Table

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FeatherweightError
from featherweight.core.task import Task, call
from featherweight.engines import find as engine
from featherweight.engines.engine import Arrays, Settings, arrays_of
from featherweight.engines.export import export
from featherweight.engines.parity import parity
from featherweight.engines.tensorrt_rules import violations
from featherweight.run import run
from featherweight.search.precision import post_training
from featherweight.tasks import find

TASKS = ("digits", "mnist-lenet5", "cifar10-resnet20", "imagenet-lite0", "minilm", "shakespeare-lstm")
EVIDENCE = {"cifar10-resnet20": Path(__file__).resolve().parents[1] / "evidence" / "resnet20-w8a8.fwt"}
OPSETS = (20, 19, 18, 17, 15, 13, 11)
Run = Callable[[Arrays], Arrays]


def models(task: Task) -> Iterator[tuple[str, Compressed]]:
    parent = task.model()
    yield "float", Compressed(parent).eval()
    if task.name in EVIDENCE:
        yield "int8", file.load(EVIDENCE[task.name].read_bytes(), task.architecture())[0].eval()
    else:
        yield "int8", run(parent, task, post_training())[0].eval()


def opened(name: str, path: Path) -> Run:
    if name != "tensorrt":
        return engine(name).open(path, Settings()).run
    import onnx
    from onnx.reference import ReferenceEvaluator

    found = violations(onnx.load(path))
    if found:
        raise FeatherweightError("; ".join(found))
    evaluator = ReferenceEvaluator(str(path))
    return lambda inputs: evaluator.run(None, dict(zip(evaluator.input_names, inputs, strict=True)))


def compared(task: Task, name: str, samples: int) -> Iterator[dict[str, Any]]:
    assert task.evaluation is not None
    batches = first(task.evaluation(), samples)
    for label, model in models(task):
        row = {"task": task.name, "model": label, "engine": name}
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            path = Path(folder) / f"model{engine(name).suffix}"
            try:
                written = export(model, task.example(), path, engine(name))
                runs = opened(name, path)
                outputs = [runs(arrays_of(batch)) for batch in batches]
            except FeatherweightError as error:
                yield row | {"failure": str(error)}
                continue
            same = parity([[call(model, batch).numpy()] for batch in batches], outputs)
        yield row | {
            "bytes": written.file.bytes, "integers": len(written.integers), "samples": same.samples,
            "largest": same.largest, "snr": same.snr, "agreement": same.agreement,
        }  # fmt: skip


def rewritten(task: Task) -> Iterator[dict[str, Any]]:
    import onnx
    from onnx import version_converter

    for label, model in models(task):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export(model, task.example(), path, engine("onnxruntime"))
            made = onnx.load(path)
        operators = dict(Counter(node.op_type for node in made.graph.node))
        for opset in OPSETS:
            row = {"task": task.name, "model": label, "opset": opset, "operators": operators}
            try:
                onnx.checker.check_model(version_converter.convert_version(made, opset), full_check=True)
                yield row
            except Exception as error:  # a bare RuntimeError
                yield row | {"failure": str(error).partition("failed: ")[2] or str(error)}


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    first = (row["task"], row["model"])
    if "opset" in row:
        return (*first, f"opset {row['opset']}", row.get("failure", "valid"))
    if "failure" in row:
        return (*first, row["engine"], row["failure"])
    top = "" if row["agreement"] is None else f", {100 * row['agreement']:.2f} % equal"
    return (*first, row["engine"], f"{row['bytes']:,} bytes, {row['largest']:.1e} off, {row['snr']:.1f} dB{top}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ncnn", "tvm", "tensorrt", "opsets"))
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    table, record = Table("task", "model", "for", "result"), []
    for name in options.tasks:
        try:
            task = find(name)
            found = list(rewritten(task) if options.what == "opsets" else compared(task, options.what, options.samples))
        except FeatherweightError as error:
            table.add_row(name, "", options.what, str(error))
            continue
        record += found
        for row in found:
            table.add_row(*cells(row))
    Console(width=160).print(table)
    if options.save:
        options.save.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
