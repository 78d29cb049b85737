"""Int8 beside each engine's own quantizer: ours and theirs, on the same weights and calibration data, by turns.

    python benchmarks/int8.py [TASK ...] [--threads 1 2] [--batch 1 32] [--rounds 9] [--save FILE.json]

Rivals: ONNX Runtime's static quantizer (QDQ, uint8 activations, int8 weights a channel) in ONNX Runtime, NNCF's
post-training quantization in OpenVINO; both are given the float model as we export it and the same calibration samples.
"ratio" is our speed over the rival's and over float32's, paired by round, with its 95 % interval; "agreement" is with
the float model in PyTorch, read from the deployed engine: top-1, or mean cosine for sentence embeddings. Needs
`pip install nncf`, the extras engines, models and images, and the data.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from featherweight.core.compressed import Compressed
from featherweight.core.task import Task, call
from featherweight.engines import find as engine
from featherweight.engines.arrays import arrays_of
from featherweight.engines.engine import Settings
from featherweight.engines.export import export
from featherweight.engines.measure import Contender, measure
from featherweight.engines.measurement import Plan
from featherweight.run import run
from featherweight.search.precision import post_training
from featherweight.tasks import find

TASKS = ("cifar10-resnet20", "imagenet-lite0", "minilm")
CALIBRATION = 128
EVALUATION = 2_000


def samples(data: Any, most: int) -> list[list[np.ndarray]]:
    """Batches as arrays, ``most`` samples in all."""
    found, count = [], 0
    for batch in data:
        arrays = arrays_of(batch)
        found.append([x[: most - count] for x in arrays])
        count += len(found[-1][0])
        if count >= most:
            break
    return found


def singles(batches: list[list[np.ndarray]], names: list[str]) -> Iterator[dict[str, np.ndarray]]:
    for batch in batches:
        for i in range(len(batch[0])):
            yield {name: x[i : i + 1] for name, x in zip(names, batch, strict=True)}


def by_onnxruntime(float_path: Path, path: Path, calibration: list[list[np.ndarray]], names: list[str]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    rows = singles(calibration, names)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(rows, None)

    # Other operators of transformers cost accuracy and gain nothing: the rival gets its best setting.
    operators = ["MatMul", "Gemm"] if names != ["images"] else None
    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(float_path), str(prepared), skip_symbolic_shape=operators is not None)
    quantize_static(
        str(prepared),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=operators,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def by_nncf(float_path: Path, path: Path, calibration: list[list[np.ndarray]], names: list[str]) -> None:
    import nncf
    import openvino

    kind = None if names == ["images"] else nncf.ModelType.TRANSFORMER
    data = nncf.Dataset(list(singles(calibration, names)))
    model = openvino.Core().read_model(str(float_path))
    openvino.save_model(nncf.quantize(model, data, model_type=kind), str(path), compress_to_fp16=False)


def agreement(reference: np.ndarray, outputs: np.ndarray, classes: bool) -> float:
    if classes:
        return float((reference.argmax(1) == outputs.argmax(1)).mean())
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(outputs, axis=1)
    return float(((reference * outputs).sum(1) / norms).mean())


def bytes_of(path: Path) -> int:
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" and weights.exists() else 0)


def prepare(task: Task, folder: Path) -> dict[str, tuple[str, Path]]:
    """Label -> (engine, file), float, ours and the rivals'."""
    import onnx

    parent = task.model()
    student, _ = run(parent, task, post_training())
    export(Compressed(parent), task.example(), folder / "float.onnx", engine("onnxruntime"))
    export(student, task.example(), folder / "ours.onnx", engine("onnxruntime"))
    names = [each.name for each in onnx.load(str(folder / "float.onnx")).graph.input]
    calibration = samples(task.calibration_data(), CALIBRATION)
    by_onnxruntime(folder / "float.onnx", folder / "onnxruntime.onnx", calibration, names)
    by_nncf(folder / "float.onnx", folder / "nncf.xml", calibration, names)
    files = {"float": "float.onnx", "ours": "ours.onnx"}
    found = {f"{e} {label}": (e, folder / name) for e in ("onnxruntime", "openvino") for label, name in files.items()}
    return found | {
        "onnxruntime rival": ("onnxruntime", folder / "onnxruntime.onnx"),
        "openvino rival": ("openvino", folder / "nncf.xml"),
    }


def agreements(task: Task, files: dict[str, tuple[str, Path]]) -> dict[str, float]:
    assert task.evaluation is not None
    parent = task.model()
    batches = samples(task.evaluation(), EVALUATION)
    with torch.no_grad():
        wanted = np.concatenate([call(parent, _batch(task, each)).numpy() for each in batches])
    found = {}
    for label, (name, path) in files.items():
        runner = engine(name).open(path, Settings(threads=2))
        found[label] = agreement(
            wanted, np.concatenate([runner.run(each)[0] for each in batches]), task.name != "minilm"
        )
    return found


def _batch(task: Task, arrays: list[np.ndarray]) -> Any:
    tensors = [torch.from_numpy(x) for x in arrays]
    names = list(task.example().kwargs)
    return dict(zip(names, tensors, strict=True)) if names else tensors[0]


def timed(task: Task, files: dict[str, tuple[str, Path]], batch: int, threads: int, plan: Plan) -> dict[str, Any]:
    assert task.evaluation is not None
    inputs = [np.concatenate([x] * (-(-batch // len(x))))[:batch] for x in samples(task.evaluation(), batch)[0]]
    contenders = [Contender(label, name, path, Settings(threads)) for label, (name, path) in files.items()]
    found = measure(contenders, inputs, "onnxruntime float", plan)
    rows = {}
    for name in ("onnxruntime", "openvino"):
        ours, rival, dense = (f"{name} {label}" for label in ("ours", "rival", "float"))
        against, over = found.ratio(ours, rival), found.ratio(ours, dense)
        rows[name] = {
            "p50": {label: found.timing(label).p50 for label in (dense, rival, ours)},
            "over rival": [against.median, against.low, against.high],
            "over float": [over.median, over.low, over.high],
        }
    return {"batch": batch, "threads": threads, "load": found.load, "disturbed": found.disturbed, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    plan, console, record = Plan(rounds=options.rounds, seconds=0.3, warmup=0.3), Console(width=150), {}
    for name in options.tasks:
        task = find(name)
        with tempfile.TemporaryDirectory() as folder:
            files = prepare(task, Path(folder))
            sizes = {label: bytes_of(path) for label, (_, path) in files.items()}
            agree = agreements(task, files)
            settings = [timed(task, files, b, t, plan) for b in options.batch for t in options.threads]
        record[name] = {"bytes": sizes, "agreement": agree, "settings": settings}
        table = Table(
            "engine",
            "batch",
            "threads",
            "float ms",
            "rival ms",
            "ours ms",
            "ours/rival",
            "ours/float",
            "load",
            title=name,
        )
        for each in settings:
            for which, row in each["rows"].items():
                ratios = ["{:.2f} [{:.2f}, {:.2f}]".format(*row[key]) for key in ("over rival", "over float")]
                load = f"{each['load']:.2f}" + (" disturbed" if each["disturbed"] else "")
                table.add_row(
                    which,
                    str(each["batch"]),
                    str(each["threads"]),
                    *(f"{x:.3f}" for x in row["p50"].values()),
                    *ratios,
                    load,
                )
        console.print(table)
        for label in files:
            console.print(f"{label}: {sizes[label]:,} bytes, agreement {agree[label]:.4f}")
        sys.stdout.flush()
    if options.save:
        options.save.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
