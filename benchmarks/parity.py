"""Exported against lowered: every task's float and int8 model on every engine, beside PyTorch.

    python benchmarks/parity.py [TASK ...] [--engines onnxruntime openvino] [--samples 1000] [--save FILE.json]

The float export is held against the float model, the int8 export against the simulated int8 model: largest difference
over the largest output, SNR, and equal top-1 (mean cosine for embeddings), the bytes of the file, and how many layers
it holds as integers. Tasks whose data or weights are absent are named, and so is what an engine cannot take. TensorRT
is not run: its files are checked by its rules and computed by ONNX's reference evaluator. Times are not taken. Needs
the extras engines, models and images; the engines litert, executorch, ncnn and tvm need theirs, and litert the
environment of its converter.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from featherweight.core.compressed import Compressed
from featherweight.core.errors import EngineError, FeatherweightError
from featherweight.core.task import Batch, Data, Task, call
from featherweight.engines import find as engine
from featherweight.engines.arrays import arrays_of
from featherweight.engines.engine import Arrays, Settings
from featherweight.engines.export import export
from featherweight.engines.parity import parity
from featherweight.engines.tensorrt_rules import violations
from featherweight.run import run
from featherweight.search.precision import post_training
from featherweight.tasks import find

TASKS = (
    "digits", "mnist-lenet300", "mnist-lenet5", "fashion-lenet5", "cifar10-resnet20", "cifar10-resnet56",
    "imagenet-lite0", "minilm", "shakespeare-lstm", "shakespeare-transformer",
)  # fmt: skip
ENGINES = ("onnxruntime", "openvino")
BATCH = 32
"""Samples that are run at a time, where a file takes batches of any size."""


def first(data: Data, samples: int) -> list[Batch]:
    """The first batches that hold so many samples."""
    batches, count = [], 0
    for batch in data:
        batches.append(batch)
        count += len(arrays_of(batch)[0])
        if count >= samples:
            break
    return batches


def rows(task: Task, samples: int, engines: list[str], folder: Path) -> list[dict[str, Any]]:
    assert task.evaluation is not None
    parent = task.model()
    student, _ = run(parent, task, post_training())
    batches = first(task.evaluation(), samples)
    found = []
    for label, model in (("float", Compressed(parent).eval()), ("int8", student)):
        with torch.no_grad():
            reference = [[_flat(call(model, batch).numpy())] for batch in batches]
        for name in engines:
            row: dict[str, Any] = {"task": task.name, "model": label, "engine": name}
            try:
                row |= compared(task, model, name, [arrays_of(batch) for batch in batches], reference, folder / label)
            except EngineError as error:
                row["failure"] = str(error)
            found.append(row)
    return found


def compared(
    task: Task, model: Compressed, name: str, batches: list[Arrays], reference: list[Arrays], stem: Path
) -> dict[str, Any]:
    path = stem.with_suffix(engine(name).suffix)
    written = export(model, task.example(), path, engine(name))
    runs = opened(name, path)
    size = BATCH if written.file.any_batch else len(arrays_of(task.example())[0])
    outputs = []
    for batch in batches:
        pieces = [[x[k : k + size] for x in batch] for k in range(0, len(batch[0]), size)]
        outputs.append([_flat(np.concatenate([runs(piece)[0] for piece in pieces]))])
    same = parity(reference, outputs)
    wanted, ours = (np.concatenate([each[0] for each in side]) for side in (reference, outputs))
    cosine = float(((wanted * ours).sum(1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(ours, axis=1)).mean())
    return {
        "samples": same.samples, "largest": same.largest, "snr": same.snr, "agreement": same.agreement,
        "cosine": cosine, "bytes": written.file.bytes, "integers": len(written.integers),
    }  # fmt: skip


def opened(name: str, path: Path) -> Callable[[Arrays], Arrays]:
    if name != "tensorrt":
        return engine(name).open(path, Settings(threads=2)).run
    import onnx
    from onnx.reference import ReferenceEvaluator

    found = violations(onnx.load(path))
    if found:
        raise EngineError("; ".join(found))
    evaluator = ReferenceEvaluator(str(path))
    return lambda inputs: evaluator.run(None, dict(zip(evaluator.input_names, inputs, strict=True)))


def _flat(outputs: np.ndarray) -> np.ndarray:
    """Every place of a text is a sample."""
    return outputs.reshape(-1, outputs.shape[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    table = Table("task", "model", "engine", "samples", "off", "SNR dB", "equal top-1", "cosine", "bytes", "integers")
    record: list[dict[str, Any]] = []
    for name in options.tasks:
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = rows(find(name), options.samples, options.engines, Path(folder))
        except FeatherweightError as error:
            table.add_row(name, str(error))
            continue
        record += found
        for row in found:
            if "failure" in row:
                table.add_row(row["task"], row["model"], row["engine"], row["failure"])
                continue
            top = "" if row["agreement"] is None else f"{100 * row['agreement']:.2f} %"
            numbers = (f"{row['largest']:.2e}", f"{row['snr']:.1f}", top, f"{row['cosine']:.5f}", f"{row['bytes']:,}")
            table.add_row(row["task"], row["model"], row["engine"], str(row["samples"]), *numbers, str(row["integers"]))
        if options.save:
            options.save.write_text(json.dumps(record, indent=1) + "\n")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
