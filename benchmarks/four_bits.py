"""MiniLM-L6 with four-bit weights in ONNX Runtime: speed beside float32, by turns, bytes, and agreement.

    python benchmarks/four_bits.py [--threads 1] [--batch 1 32] [--rounds 9] [--only LABEL ...] [--json FILE]

Weights have a scale for every 32 entries of a row, or one a row; the file holds them as four-bit integers behind
``DequantizeLinear``, which ONNX Runtime makes ``MatMulNBits`` of where scales are those of groups. "rounded" lets the
engine round activations to eight bits inside of it (``featherweight measure --rounding``). "ratio" is the speed over
float32's, paired by round, with its 95 % interval; above 1 is faster. Agreement is the mean cosine with the float
model in PyTorch, read from the deployed engine. Where too few rounds were quiet the least disturbed ones are taken, and
the row says "disturbed" and the load of everything else. Needs the extras engines and models, and the data.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featherweight.core.compressed import Compressed
from featherweight.core.task import Task, call
from featherweight.engines import find as engine
from featherweight.engines.arrays import arrays_of
from featherweight.engines.engine import Settings
from featherweight.engines.export import export
from featherweight.engines.measure import Contender, measure
from featherweight.engines.measurement import Plan
from featherweight.run import run
from featherweight.search.precision import weight_only
from featherweight.tasks import find

TASK, ENGINE, DENSE = "minilm", "onnxruntime", "float32"
FILES = {DENSE: (None, False), "a row": ("row", False), "groups of 32": ("group", False), "rounded": ("group", True)}
"""Contender -> the kind of scales its file has, and whether activations are rounded."""
SENTENCES = 512


def write(task: Task, kind: str | None, path: Path) -> None:
    parent = task.model()
    if kind is None:
        student = Compressed(parent)
    else:
        student, _ = run(parent, task, weight_only(4, group=32 if kind == "group" else None))
    export(student, task.example(), path, engine(ENGINE))


def batches(task: Task) -> list[Any]:
    """Evaluation batches with ``SENTENCES`` sentences or a few more."""
    assert task.evaluation is not None
    found, count = [], 0
    for batch in task.evaluation():
        found.append(batch)
        count += len(arrays_of(batch)[0])
        if count >= SENTENCES:
            break
    return found


@torch.no_grad()
def agreement(task: Task, path: Path, settings: Settings) -> float:
    parent, runner, cosines = task.model(), engine(ENGINE).open(path, settings), []
    for batch in batches(task):
        wanted, found = call(parent, batch).numpy(), runner.run(arrays_of(batch))[0]
        norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
        cosines.append((wanted * found).sum(1) / norms)
    return float(np.concatenate(cosines).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=FILES, default=FILES, help="beside float32")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    task, plan = find(TASK), Plan(rounds=options.rounds, seconds=0.5, warmup=0.5)
    record: dict[str, Any] = {"task": TASK, "threads": options.threads, "files": {}, "settings": []}
    with tempfile.TemporaryDirectory() as folder:
        chosen = {label: FILES[label] for label in FILES if label == DENSE or label in options.only}
        paths = {kind: Path(folder) / f"{kind}.onnx" for kind, _ in chosen.values()}
        for kind, path in paths.items():
            write(task, kind, path)
        contenders = [
            Contender(label, ENGINE, paths[kind], Settings(options.threads, rounding=rounding))
            for label, (kind, rounding) in chosen.items()
        ]
        for each in contenders:
            same = agreement(task, each.path, each.settings)
            record["files"][each.label] = {"bytes": each.path.stat().st_size, "agreement": same}
            print(f"{each.label:13} {each.path.stat().st_size:>11,} bytes, agreement {same:.4f}", flush=True)
        first = arrays_of(batches(task)[0])
        for batch in options.batch:
            inputs = [np.concatenate([x] * -(-batch // len(x)))[:batch] for x in first]
            found = measure(contenders, inputs, DENSE, plan)
            record["settings"].append(found.to_json())
            load = f"load {found.load:.2f}" + (", disturbed" if found.disturbed else "")
            print(f"batch {batch}, {inputs[0].shape[1]} tokens, {options.threads} threads ({load})")
            for label, ratio in found.ratios.items():
                told = f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
                print(f"  {label:13} p50 {found.timing(label).p50:8.3f} ms, ratio {told}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
