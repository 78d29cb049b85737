"""What a process for a model costs before it computes: seconds until a file is open, and memory not of the model.

    python benchmarks/worker_startup.py [--engines onnxruntime openvino] [--rounds 5]

The float network of the task digits, by turns; beside it a process that does nothing but import PyTorch, which each of
these would have to do if engines were not imported where they are used. Seconds are medians.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from featherweight.engines import ENGINES, find
from featherweight.engines.arrays import arrays_of
from featherweight.engines.engine import Settings
from featherweight.engines.process import Memory, Worker
from featherweight.tasks import find as find_task

BESIDE = "import torch"


def opened(engine: str, path: Path, inputs: list) -> tuple[float, Memory]:
    start = time.perf_counter()
    with Worker() as worker:
        worker.open(engine, path, Settings())
        seconds = time.perf_counter() - start
        worker.inputs([inputs])
        worker.run()
        return seconds, worker.memory()


def imported() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", BESIDE], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "openvino", "pytorch"], choices=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    task = find_task("digits")
    model, example = task.model(), task.example()
    seconds: dict[str, list[float]] = {name: [] for name in (BESIDE, *options.engines)}
    memory: dict[str, Memory] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}{find(name).suffix}" for name in options.engines}
        for name, path in paths.items():
            find(name).export(model, example, path)
        for _ in range(options.rounds):
            seconds[BESIDE].append(imported())
            for name, path in paths.items():
                found, memory[name] = opened(name, path, arrays_of(example))
                seconds[name].append(found)
    table = Table("process", "seconds until a file is open", "MB before it", "MB of the model")
    for name, times in seconds.items():
        its = memory.get(name)
        held = [f"{(its.peak - its.model) / 1e6:.0f}", f"{its.model / 1e6:.1f}"] if its else ["", ""]
        table.add_row(name, f"{median(times):.2f}", *held)
    Console().print(table)


if __name__ == "__main__":
    main()
