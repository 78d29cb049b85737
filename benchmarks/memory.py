"""Peak memory of compressing a transformer of 100 million parameters in the full metric, over what was there before.

    python benchmarks/memory.py [--layers 12] [--sequences 8] [--how streamed whole] [--json FILE]

The model is a BERT of base size with random weights (12 layers of width 768, 30,522 words), every weight to four bits
by the column sweep in the metric of its inputs; vectors stay. "streamed" goes from a safetensors file to a .fwt file
(``featherweight.streaming.compress_streamed``); "whole" has the model in memory and goes on to the file's bytes
(``run``, ``file.encode``). Each runs in a process of its own, which another samples every 5 milliseconds: the peak of
its resident size less that right before the call, with the model in memory where it is. The kernel's own peak
of the whole process is beside it. The limit is 1.2 times the model in float32 and the Hessians, in float64, of one
block: one for every input that its layers share. Needs `transformers` and `psutil`.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import psutil
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from featherweight import file
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import Example, Task
from featherweight.metrics.hessian import InputMoment
from featherweight.run import run
from featherweight.schemes.uniform import PerChannel, Uniform
from featherweight.solvers.sweep import ColumnSweep
from featherweight.streaming import compress_streamed

WIDTH, INNER, WORDS, TOKENS = 768, 3_072, 30_522, 128
HOWS = ("streamed", "whole")
FACTOR = 1.2


def bert(layers: int) -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=INNER
    )
    model: nn.Module = BertModel(config, add_pooling_layer=False)
    return model.eval()


def recipe() -> Recipe:
    scheme = Uniform(4, granularity=PerChannel())
    stage = Stage("sweep", {WEIGHTS: scheme}, InputMoment(required=False), ColumnSweep(required=False))
    return Recipe("four bits", (stage,))


def batches(sequences: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(WORDS, (2, TOKENS), generator=generator)} for _ in range(sequences // 2)]


def child(how: str, folder: Path, layers: int, sequences: int) -> None:
    """One compression; tells when the call begins, and what it took."""
    torch.set_num_threads(1)
    data, out = batches(sequences), folder / f"{how}.fwt"
    bert(1)  # what transformers brings along is there before
    if how == "whole":
        from safetensors.torch import load_file

        model = bert(layers)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        task = Task("bert", lambda: model, lambda: model, lambda: Example(kwargs=data[0]), calibration=lambda: data)
    gc.collect()
    before = psutil.Process().memory_info().rss
    print("begins", flush=True)
    start = perf_counter()
    if how == "whole":
        student, _ = run(model, task, recipe())
        file.save(out, file.encode(student, recipe=recipe().name))
    else:
        compress_streamed(lambda: bert(layers), folder / "model.safetensors", recipe(), out, calibration=data)
    took = perf_counter() - start
    highest = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"before": before, "highest": highest, "seconds": took, "bytes": out.stat().st_size}), flush=True)


def sampled(how: str, folder: Path, layers: int, sequences: int) -> dict[str, Any]:
    """Run a child, and sample its resident size from the beginning of the call to its end."""
    command = [sys.executable, __file__, "--child", how, str(folder), f"--layers={layers}", f"--sequences={sequences}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "begins":
            raise SystemExit(f"the child for {how} did not begin")
        watched, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            try:
                peak = max(peak, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            sleep(0.005)
        told: dict[str, Any] = json.loads(process.stdout.readline())
    return {"how": how, "peak": peak, "increase": peak - told["before"]} | told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--how", nargs="+", choices=HOWS, default=HOWS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("HOW", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]), options.layers, options.sequences)
        return
    torch.manual_seed(0)
    model = bert(options.layers)
    parameters = sum(p.numel() for p in model.parameters())
    hessians = 8 * (3 * WIDTH**2 + INNER**2)
    limit = FACTOR * 4 * parameters + hessians
    print(
        f"{parameters:,} parameters, {4 * parameters / 1e6:.0f} MB in float32; limit {limit / 1e6:.0f} MB", flush=True
    )
    record: dict[str, Any] = {
        "parameters": parameters, "hessians": hessians, "limit": limit, "layers": options.layers,
        "sequences": options.sequences, "tokens": TOKENS, "rows": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        save_file(model.state_dict(), Path(place) / "model.safetensors")
        del model
        for how in options.how:
            row = sampled(how, Path(place), options.layers, options.sequences)
            record["rows"].append(row)
            if options.json:
                options.json.write_text(json.dumps(record, indent=1) + "\n")
            print(
                f"{how:9} {row['increase'] / 1e6:6.0f} MB over the {row['before'] / 1e6:.0f} MB before "
                f"({row['increase'] / limit:.2f} of the limit, {row['increase'] / 4 / parameters:.2f} of the model), "
                f"{row['bytes']:,} bytes, {row['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
