"""What labels and cuts of middle-sized models take: seconds, and memory above the model's own.

    python benchmarks/structure_cost.py [--json FILE]

ResNet-50 (``timm``, 25.6 million parameters) and BERT base (``transformers``, 12 layers, 109.5 million), of random
weights, one thread. ``labels`` is tracing and running the graph on labels; ``cut`` decides on the form, which traces
the cut model again to prove it, and cuts a third of the channels. ``memory`` is how far the peak of resident memory is
over its size before the call, in parts of the model's float32 size; the cut model itself is in it. Each in a process
of its own.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from featherweight.core.compressed import Compressed
from featherweight.core.task import Example
from featherweight.graph.edits import removal, walk

MODELS = ("resnet50", "bert-base")


def made(name: str) -> tuple[nn.Module, Example]:
    library = torch.library.Library("torchvision", "DEF")  # asked for by a torchvision that is for another torch
    for each in ("nms", "qnms"):
        library.define(f"{each}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    if name == "resnet50":
        import timm

        return timm.create_model("resnet50", pretrained=False).eval(), Example((torch.rand(1, 3, 224, 224),))
    import transformers

    return transformers.BertModel(transformers.BertConfig()).eval(), Example((torch.arange(64)[None],))


class Peak:
    """The largest resident size while it is open, sampled every 5 ms, over the size before."""

    def __enter__(self) -> "Peak":
        self.process = psutil.Process()
        self.before = self.most = self.process.memory_info().rss
        self.open = True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.open:
            self.most = max(self.most, self.process.memory_info().rss)
            time.sleep(0.005)

    def __exit__(self, *error: object) -> None:
        self.open = False
        self.thread.join()


def child(name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    model, example = made(name)
    walk(nn.Linear(2, 2).eval(), Example((torch.rand(1, 2),)))  # torch imports what tracing needs the first time
    size = sum(p.numel() for p in model.parameters())
    start = time.perf_counter()
    walked = walk(model, example)
    labels = time.perf_counter() - start
    dead = [label for group in walked.labels.groups() for label in group[: len(group) // 3]]
    student = Compressed(model)
    with Peak() as peak:
        start = time.perf_counter()
        for edit in removal(walked, dead, student.base, example):
            student.edit(edit)
        cut = time.perf_counter() - start
    left = sum(p.numel() for p in student.base.parameters())
    forms = [type(edit).__name__ for edit in student.edits]
    memory = (peak.most - peak.before) / (4 * size)
    return {"parameters": size, "left": left, "labels s": labels, "cut s": cut, "memory": memory, "edits": forms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.child:
        print(json.dumps(child(options.child)))
        return
    results = {}
    for name in MODELS:
        done = subprocess.run([sys.executable, __file__, "--child", name], capture_output=True, text=True, check=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, results[name], flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
