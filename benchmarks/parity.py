"""Exported against lowered: every task's float and int8 model on every engine, beside PyTorch.

    python benchmarks/parity.py [TASK ...] [--samples 1000] [--save FILE.json]

The float export is held against the float model, the int8 export against the simulated int8 model: largest difference
over the largest output, SNR, and equal top-1 (mean cosine for embeddings). Tasks whose data or weights are absent are
named. Needs the extras engines, models and images.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from featherweight.core.compressed import Compressed
from featherweight.core.errors import FeatherweightError
from featherweight.core.task import Task, call
from featherweight.engines import find as engine
from featherweight.engines.engine import Settings, arrays_of
from featherweight.engines.export import export
from featherweight.engines.parity import parity
from featherweight.run import run
from featherweight.search.precision import post_training
from featherweight.tasks import find

TASKS = (
    "digits", "mnist-lenet300", "mnist-lenet5", "fashion-lenet5", "cifar10-resnet20", "cifar10-resnet56",
    "imagenet-lite0", "minilm",
)  # fmt: skip
ENGINES = ("onnxruntime", "openvino")


def rows(task: Task, samples: int, folder: Path) -> list[dict[str, Any]]:
    assert task.evaluation is not None
    parent = task.model()
    student, _ = run(parent, task, post_training())
    batches, count = [], 0
    for batch in task.evaluation():
        batches.append(batch)
        count += len(arrays_of(batch)[0])
        if count >= samples:
            break
    found = []
    for label, model in (("float", Compressed(parent).eval()), ("int8", student)):
        with torch.no_grad():
            reference = [[call(model, batch).numpy()] for batch in batches]
        export(model, task.example(), folder / f"{label}.onnx", engine("onnxruntime"))
        for name in ENGINES:
            runner = engine(name).open(folder / f"{label}.onnx", Settings(threads=2))
            outputs = [runner.run(arrays_of(batch)) for batch in batches]
            same = parity(reference, outputs)
            wanted, ours = (np.concatenate([each[0] for each in side]) for side in (reference, outputs))
            cosine = float(
                ((wanted * ours).sum(1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(ours, axis=1)).mean()
            )
            row = {"task": task.name, "model": label, "engine": name, "samples": same.samples}
            found.append(
                row | {"largest": same.largest, "snr": same.snr, "agreement": same.agreement, "cosine": cosine}
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    table = Table("task", "model", "engine", "samples", "largest difference", "SNR dB", "equal top-1", "cosine")
    record: list[dict[str, Any]] = []
    for name in options.tasks:
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = rows(find(name), options.samples, Path(folder))
        except FeatherweightError as error:
            table.add_row(name, str(error))
            continue
        record += found
        for row in found:
            top = "" if row["agreement"] is None else f"{100 * row['agreement']:.2f} %"
            numbers = (f"{row['largest']:.2e}", f"{row['snr']:.1f}", top, f"{row['cosine']:.5f}")
            table.add_row(row["task"], row["model"], row["engine"], str(row["samples"]), *numbers)
    Console(width=140).print(table)
    if options.save:
        options.save.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
