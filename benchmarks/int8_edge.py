"""Int8 in LiteRT and ExecuTorch beside each one's own quantizer, on the same weights and calibration data, by turns.

    python benchmarks/int8_edge.py [TASK ...] [--engines litert executorch] [--threads 1 2] [--batch 1 32]
        [--rounds 9] [--folder FOLDER] [--save FILE.json]

Rivals: ai-edge-quantizer (static, int8 weights a channel and activations) in LiteRT; PT2E with XNNPACKQuantizer in
ExecuTorch. Both are given the float model and the calibration samples that we have, and floats go in and come out.
"ratio" is our speed over the rival's and over float32's, paired by round, with its 95 % interval; "agreement" is the
top-1 with the float model in PyTorch, read from the deployed engine. Files are kept in FOLDER and every setting in
FILE.json as soon as it is measured: a run that was broken off goes on where it was. Needs the extras engines, litert,
executorch, models and images, the data, and FEATHERWEIGHT_LITERT_PYTHON for LiteRT.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from int8 import agreement, samples
from rich.console import Console
from rich.table import Table

from featherweight import file as files
from featherweight.core.compressed import Compressed
from featherweight.core.quiet import quiet
from featherweight.core.task import Task
from featherweight.engines import find as engine
from featherweight.engines.engine import Settings
from featherweight.engines.export import export
from featherweight.engines.litert_converter import PYTHON
from featherweight.engines.measure import Contender, measure
from featherweight.engines.measurement import Plan
from featherweight.engines.program import program
from featherweight.run import run
from featherweight.search.precision import post_training
from featherweight.tasks import find

TASKS = ("cifar10-resnet20", "imagenet-lite0")
CALIBRATION = 128
EVALUATION = 2_000
PIECE = 32
SIDES = ("float", "rival", "ours")
CHILD = Path(__file__).parent / "peers" / "ai_edge_quantizer_child.py"


def by_ai_edge_quantizer(task: Task, dense: Path, path: Path) -> None:
    from featherweight.engines.tflite import File, take_floats

    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/samples.npz", np.concatenate([x for (x,) in samples(task.calibration_data(), CALIBRATION)]))
        command = [os.environ[PYTHON], "-P", str(CHILD), str(dense), f"{folder}/samples.npz", f"{folder}/made.tflite"]
        subprocess.run(command, check=True)
        made = File(Path(f"{folder}/made.tflite").read_bytes())
    take_floats(made)
    files.save(path, made.packed())


def by_xnnpack_quantizer(task: Task, dense: Path, path: Path) -> None:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from featherweight.engines.executorch import MOST, lowered

    example = task.example()
    with quiet():
        model = program(task.model(), example, most=MOST).exported.module(check_guards=False)
        prepared = prepare_pt2e(
            model, XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        )
        for (x,) in samples(task.calibration_data(), CALIBRATION):
            for piece in torch.from_numpy(x).split(PIECE):
                prepared(piece)
        traced = program(allow_exported_model_train_eval(convert_pt2e(prepared)), example, most=MOST)
    files.save(path, lowered(traced))


RIVALS: dict[str, Callable[[Task, Path, Path], None]] = {
    "litert": by_ai_edge_quantizer,
    "executorch": by_xnnpack_quantizer,
}


def prepare(task: Task, name: str, folder: Path) -> dict[str, Path]:
    """The three files of an engine; those that are there already are taken."""
    chosen = engine(name)
    paths = {side: folder / f"{task.name}-{side}{chosen.suffix}" for side in SIDES}
    if not paths["float"].exists():
        export(Compressed(task.model()), task.example(), paths["float"], chosen)
    if not paths["rival"].exists():
        RIVALS[name](task, paths["float"], paths["rival"])
    if not paths["ours"].exists():
        student, _ = run(task.model(), task, post_training())
        export(student, task.example(), paths["ours"], chosen)
    return paths


@torch.no_grad()
def agreements(task: Task, name: str, paths: dict[str, Path]) -> dict[str, float]:
    assert task.evaluation is not None
    images = np.concatenate([x for (x,) in samples(task.evaluation(), EVALUATION)])
    pieces = [images[k : k + PIECE] for k in range(0, len(images), PIECE)]
    model = task.model().eval()
    wanted = np.concatenate([model(torch.from_numpy(piece)).numpy() for piece in pieces])
    found = {}
    for side, path in paths.items():
        runner = engine(name).open(path, Settings())
        found[side] = agreement(wanted, np.concatenate([runner.run([piece])[0] for piece in pieces]), True)
    return found


def timed(task: Task, name: str, paths: dict[str, Path], batch: int, threads: int, plan: Plan) -> dict[str, Any]:
    assert task.evaluation is not None
    (images,) = samples(task.evaluation(), batch)[0]
    inputs = [images[np.arange(batch) % len(images)]]
    contenders = [Contender(side, name, path, Settings(threads)) for side, path in paths.items()]
    found = measure(contenders, inputs, "float", plan)
    over = {each: found.ratio("ours", each) for each in ("rival", "float")}
    return {
        "batch": batch, "threads": threads, "load": found.load, "disturbed": found.disturbed,
        "p50": {side: found.timing(side).p50 for side in SIDES},
        **{f"over {each}": [ratio.median, ratio.low, ratio.high] for each, ratio in over.items()},
    }  # fmt: skip


def show(record: dict[str, Any], console: Console) -> None:
    columns = (
        "task",
        "engine",
        "batch, threads",
        *(f"{side} ms" for side in SIDES),
        "ours/rival",
        "ours/float",
        "load",
    )
    table = Table(*columns)
    for label, found in record.items():
        for each in found["settings"]:
            ratios = ["{:.2f} [{:.2f}, {:.2f}]".format(*each[key]) for key in ("over rival", "over float")]
            load = f"{each['load']:.2f}" + (" disturbed" if each["disturbed"] else "")
            times = (f"{each['p50'][side]:.3f}" for side in SIDES)
            table.add_row(*label.split(" "), f"{each['batch']}, {each['threads']}", *times, *ratios, load)
    console.print(table)
    for label, found in record.items():
        for side in SIDES:
            console.print(f"{label} {side}: {found['bytes'][side]:,} bytes, agreement {found['agreement'][side]:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--engines", nargs="+", default=list(RIVALS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--folder", type=Path, default=Path("int8-edge"))
    parser.add_argument("--save", type=Path, default=Path("int8-edge.json"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(rounds=options.rounds, seconds=options.seconds, warmup=options.seconds)
    record: dict[str, Any] = json.loads(options.save.read_text()) if options.save.exists() else {}
    for task, name in ((find(each), name) for each in options.tasks for name in options.engines):
        paths = prepare(task, name, options.folder)
        found = record.setdefault(f"{task.name} {name}", {})
        if not found:
            sizes = {side: path.stat().st_size for side, path in paths.items()}
            found.update(bytes=sizes, agreement=agreements(task, name, paths), settings=[])
        done = {(each["batch"], each["threads"]) for each in found["settings"]}
        for batch, threads in ((b, t) for b in options.batch for t in options.threads if (b, t) not in done):
            found["settings"].append(timed(task, name, paths, batch, threads, plan))
            options.save.write_text(json.dumps(record, indent=1) + "\n")
    show(record, Console(width=160))


if __name__ == "__main__":
    main()
