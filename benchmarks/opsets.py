"""Which older sets of operators the files for ONNX Runtime can be written in.

    python benchmarks/opsets.py [TASK ...] [--save FILE.json]

The float and the int8 export of every task go through onnx's version converter, with onnx's checker behind it; what it
cannot write says why. Runtimes that read ONNX and are no longer made (Glow, Tengine) read these sets alone. Needs the
extra onnx, and those of the tasks.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import version_converter
from rich.console import Console
from rich.table import Table

from featherweight.core.compressed import Compressed
from featherweight.core.errors import FeatherweightError
from featherweight.core.task import Task
from featherweight.engines import find as engine
from featherweight.engines.export import export
from featherweight.run import run
from featherweight.search.precision import post_training
from featherweight.tasks import find

TASKS = ("digits", "cifar10-resnet20")
OPSETS = (20, 19, 18, 17, 15, 13, 11)


def rewritten(task: Task) -> Iterator[dict[str, Any]]:
    parent = task.model()
    for label, model in (("float", Compressed(parent).eval()), ("int8", run(parent, task, post_training())[0].eval())):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    table, record = Table("task", "model", "opset", "result"), []
    for name in options.tasks:
        try:
            found = list(rewritten(find(name)))
        except FeatherweightError as error:
            table.add_row(name, "", "", str(error))
            continue
        record += found
        for row in found:
            table.add_row(row["task"], row["model"], str(row["opset"]), row.get("failure", "valid"))
    Console(width=160).print(table)
    if options.save:
        options.save.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
