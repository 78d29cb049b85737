"""Bytes against accuracy of ResNet-20 without training: ours, GPTQ with zstd, and NNCodec on the same weights.

    python benchmarks/after_training.py [--nncodec PYTHON] [--json FILE]

Ours is ``papers/watersic.py`` at several prices, its size that of the .fwt file with all side values. GPTQ is the
column sweep at fixed bits, its levels packed and then zstd -19 over all of it, whichever is smaller, with float16
scales and biases. NNCodec 2.1.3 codes the weights with folded norms, dependent quantization on, in an environment of
its own whose Python is named by ``--nncodec`` (``pip install nncodec``). Accuracy is on all 10,000 test images, of
weights that were decoded again; drops are against the float model. Sizes at equal drops are interpolated in the
logarithm of bytes, on the curve of the smallest drop that a size reaches.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from torch import Tensor, nn

import featherweight as fw
from featherweight.core.compressed import Compressed
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import channels_last, scores
from featherweight.graph.fold import FoldNorms
from featherweight.papers import gptq, watersic
from featherweight.run import run
from featherweight.schemes.uniform import UniformCode
from featherweight.tasks import find

TASK = "cifar10-resnet20"
PRICES = (1.5e-8, 3e-8, 5e-8, 8e-8, 1.2e-7, 1.8e-7, 2.6e-7)
BITS = (3, 4, 5, 6)
STEPS = (-38, -36, -34, -32, -30, -28, -26, -24, -22, -20)
DROPS = (0.2, 0.5, 1.0, 1.5, 2.0)
CHILD = Path(__file__).with_name("peers") / "nncodec_child.py"

Row = dict[str, Any]


def accuracy(model: nn.Module) -> float:
    task = find(TASK)
    assert task.evaluation is not None
    data = [channels_last(batch) for batch in task.evaluation()]
    return 100 * float(scores(model, data, task.quality).double().mean())


def ours() -> Iterator[Row]:
    for price in PRICES:
        result = fw.compress(find(TASK), watersic.recipe(TASK, price=price))
        claims = result.claims
        assert claims is not None
        yield {
            "method": "ours",
            "setting": price,
            "bytes": result.size,
            "accuracy": 100 * claims.total / claims.samples,
        }


def gptq_with_zstd() -> Iterator[Row]:
    task = find(TASK)
    for bits in BITS:
        recipe = Recipe("gptq", (Stage("fold", edit=FoldNorms()), *gptq.recipe(TASK, bits=bits).stages))
        student, _ = run(task.model(), task, recipe)
        yield {
            "method": "GPTQ + zstd",
            "setting": bits,
            "bytes": zstd_size(student, bits),
            "accuracy": accuracy(student),
        }


def zstd_size(student: Compressed, bits: int) -> int:
    levels, side = [], b""
    for code in student.codes.values():
        assert isinstance(code, UniformCode)
        levels.append((code.levels.long() - code.grid.low).flatten().numpy().astype(np.uint8))
        side += code.scales.decode().half().numpy().tobytes()
    for name, p in student.base.named_parameters():
        side += p.detach().half().numpy().tobytes() if name.endswith("bias") else b""
    together = np.concatenate(levels)
    packed = np.packbits(np.unpackbits(together[:, None], axis=1)[:, 8 - bits :]).tobytes()
    coder = zstandard.ZstdCompressor(level=19)
    return min(len(coder.compress(each + side)) for each in (packed, together.tobytes()))


def nncodec(python: str) -> Iterator[Row]:
    task = find(TASK)
    student, _ = run(task.model(), task, Recipe("fold", (Stage("fold", edit=FoldNorms()),)))
    model = student.finished()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.savez(folder / "in.npz", **{name: tensor.numpy() for name, tensor in model.state_dict().items()})
        command = [python, str(CHILD), str(folder / "in.npz"), place, *map(str, STEPS)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for line in told.splitlines():
            if line.startswith("{"):
                record = json.loads(line)
                decoded = np.load(folder / f"qp{record['qp']}.npz")
                shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
                model.load_state_dict({name: as_tensor(decoded[name], shapes[name]) for name in shapes})
                yield {
                    "method": "NNCodec",
                    "setting": record["qp"],
                    "bytes": record["bytes"],
                    "accuracy": accuracy(model),
                }


def as_tensor(values: np.ndarray, shape: torch.Size) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32)).reshape(shape)


def at_drops(rows: Sequence[Row], before: float) -> list[float | None]:
    """Bytes at each of ``DROPS``; ``None`` outside of what was measured."""
    ordered = sorted(rows, key=lambda row: int(row["bytes"]))
    drops = np.minimum.accumulate([before - row["accuracy"] for row in ordered])[::-1]  # rising
    logs = np.log([row["bytes"] for row in ordered])[::-1]
    found: list[float | None] = []
    for drop in DROPS:
        inside = drops[0] <= drop <= drops[-1]
        found.append(float(np.exp(np.interp(drop, drops, logs))) if inside else None)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nncodec", help="the Python of an environment that has NNCodec")
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args()
    before = accuracy(find(TASK).model())
    rows: list[Row] = []
    methods = [ours(), gptq_with_zstd()] + ([nncodec(options.nncodec)] if options.nncodec else [])
    for method in methods:
        for row in method:
            rows.append(row)
            print(f"{row['method']:12} {row['setting']:>8} {row['bytes']:>8} B {row['accuracy']:.2f} %", flush=True)
    print(f"\nfloat: {before:.2f} %; bytes at a drop of " + ", ".join(f"{drop}" for drop in DROPS))
    table = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        table[name] = at_drops([row for row in rows if row["method"] == name], before)
        print(f"{name:12} " + " ".join("       -" if x is None else f"{x:8.0f}" for x in table[name]))
    for name in table.keys() - {"ours"}:
        ratios = [a / b for a, b in zip(table["ours"], table[name], strict=True) if a is not None and b is not None]
        if ratios:
            print(f"ours over {name}: {np.mean(ratios):.3f} on average of {len(ratios)}")
    if options.json:
        record = {"task": TASK, "before": before, "drops": DROPS, "at_drops": table, "rows": rows}
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
