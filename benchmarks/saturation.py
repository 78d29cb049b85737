"""Int8 on a processor that adds products of bytes in 16 bits: what saturates, what is exact, and what that costs.

    python benchmarks/saturation.py [TASK ...] [--engines onnxruntime openvino] [--batch 1 32] [--save FILE.json]

One thread. The float model; weights of 8 bits as they are on processors with VNNI ("signed"); the same weights in an
exact file; and weights of 7 bits, recipe int7. Equal top-1 and SNR are against the simulation of the same weights on
500 samples, and agreement with the float model is read from the engine. Speeds are against the float file, paired by
round, with their 95 % intervals. On processors with VNNI the signed file is exact too. Needs the extras engines, models
and images, and the data.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity import first
from rich.console import Console
from rich.table import Table

from featherweight.core.compressed import Compressed
from featherweight.core.processor import instructions, saturates
from featherweight.core.task import Task, call
from featherweight.engines import find as engine
from featherweight.engines.arrays import arrays_of
from featherweight.engines.engine import Arrays, Settings
from featherweight.engines.export import export
from featherweight.engines.measure import Contender, measure
from featherweight.engines.measurement import Plan
from featherweight.engines.parity import parity
from featherweight.run import run
from featherweight.search.precision import post_training
from featherweight.tasks import find

TASKS = ("cifar10-resnet20", "imagenet-lite0")
SAMPLES = 500


def outputs(name: str, path: Path, batches: list[Arrays]) -> list[Arrays]:
    opened = engine(name).open(path, Settings(threads=2))
    return [opened.run(batch)[:1] for batch in batches]


def rows(task: Task, engines: list[str], sizes: list[int], folder: Path) -> list[dict[str, Any]]:
    assert task.evaluation is not None
    parent, data = task.model(), first(task.evaluation(), SAMPLES)
    eight, seven = (run(parent, task, post_training(bits))[0].eval() for bits in (8, 7))
    models = {
        "float": (Compressed(parent).eval(), True),
        "signed": (eight, False),
        "exact": (eight, True),
        "int7": (seven, True),
    }
    with torch.no_grad():
        simulated = {label: [[call(model, batch).numpy()] for batch in data] for label, (model, _) in models.items()}
    found = []
    for name in engines:
        paths = {label: folder / f"{name}-{label}{engine(name).suffix}" for label in models}
        made = {}
        for label, (model, exact) in models.items():
            export(model, task.example(), paths[label], replace(engine(name), exact=exact))  # type: ignore[type-var]
            result = outputs(name, paths[label], [arrays_of(batch) for batch in data])
            same, whole = parity(simulated[label], result), parity(simulated["float"], result)
            made[label] = {
                "task": task.name, "engine": name, "model": label, "bytes": paths[label].stat().st_size,
                "snr": same.snr, "equal": same.agreement, "agreement": whole.agreement, "speeds": {},
            }  # fmt: skip
        for size in sizes:
            inputs = [np.resize(x, (size, *x.shape[1:])) for x in arrays_of(data[0])]
            contenders = [Contender(label, name, path, Settings(1)) for label, path in paths.items()]
            timed = measure(contenders, inputs, "float", Plan(rounds=9))
            for timing in timed.timings:
                ratio = timed.ratio(timing.label, "float")
                made[timing.label]["speeds"][str(size)] = {
                    "ms": timing.p50, "ratio": [ratio.median, ratio.low, ratio.high], "disturbed": timed.disturbed,
                }  # fmt: skip
        found += made.values()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    table = Table(
        "task", "engine", "model", "bytes", "SNR dB", "equal top-1", "as float", "ms and speed over float, by batch"
    )
    record: list[dict[str, Any]] = []
    for name in options.tasks:
        with tempfile.TemporaryDirectory() as folder:
            found = rows(find(name), options.engines, options.batch, Path(folder))
        record += found
        for row in found:
            speeds = "; ".join(
                "{}: {:.2f} ms, {:.2f} ({:.2f} to {:.2f})".format(size, each["ms"], *each["ratio"])
                + (", disturbed" if each["disturbed"] else "")
                for size, each in row["speeds"].items()
            )
            shares = [f"{100 * row[key]:.1f} %" for key in ("equal", "agreement")]
            table.add_row(
                row["task"], row["engine"], row["model"], f"{row['bytes']:,}", f"{row['snr']:.1f}", *shares, speeds
            )
        if options.save:
            about = {"processor": instructions(), "saturates": saturates(), "rows": record}
            options.save.write_text(json.dumps(about, indent=1) + "\n")
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
