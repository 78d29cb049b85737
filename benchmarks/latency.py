"""Half the measured time of ResNet-20, beside the same time reached by the same ratio everywhere.

    python benchmarks/latency.py [--engine onnxruntime] [--shares 0.5] [--epochs 1] [--json FILE]

At batch 32 and one thread, channels are cut by what they matter (``Surgeon``) until the measured time is the share that
is asked; once more group by group as the outputs mind it least (``NetAdapt``); and once more with equal ratios in all
groups. Within a group channels go by the same score, and the measured time is that share each time. What stays makes up
for what goes, and norms are set anew, in all; then all learn for ``--epochs`` from the original. All models and the
original are then measured together, nine rounds by turns; a machine that does other work is told as disturbed. Accuracy
is of the 8,000 test images that nothing was chosen on. Seeds are 0. Ratios reach few times, so that rules are compared
along several ``--shares``.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import nn

import featherweight as fw
from featherweight.channels.sensitivity import NetAdapt
from featherweight.core.compressed import Compressed
from featherweight.core.processor import instructions
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import measure as quality
from featherweight.costs.latency import Latency
from featherweight.costs.operations import operations
from featherweight.engines import find as engine
from featherweight.engines.arrays import arrays_of
from featherweight.engines.engine import Settings
from featherweight.engines.measure import Contender, measure
from featherweight.engines.measurement import Plan
from featherweight.run import run
from featherweight.search.channels import Narrow, Tradeoff
from featherweight.search.narrowing import NAME, narrowing
from featherweight.tasks import find
from featherweight.tasks.data import Tensors

STEP, LEAST = 8, 8


class Evenly(Narrow):
    """The same ratio in every group."""

    def allocation(self, student: Compressed, given: Tradeoff, task: fw.Task) -> Callable[[float], list[int]]:
        return lambda share: [min(round((1 - share) * len(each.labels)), len(each.labels) - 1) for each in given.curves]


def rest(task: fw.Task) -> Tensors:
    """The test images that made no choice."""
    from featherweight.tasks.cifar import chosen, images

    inputs, targets = images("evaluation")
    return Tensors(inputs[~chosen()], targets[~chosen()], 500)


def relearned(student: Compressed, model: nn.Module, task: fw.Task, stage: Stage) -> Compressed:
    """The student after one stage of learning from the original; its structure is not decided again."""
    recipe = Recipe("recover", (stage,), teacher=lambda: model)
    return run(student.finished(), task, recipe)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    task = find("cifar10-resnet20")
    model, chosen, data = task.model(), engine(options.engine), rest(task)
    cost = Latency(chosen, batch=32, plan=Plan(rounds=5, disturbance=0.3))
    kinds = {"allocated": Narrow, "netadapt": NetAdapt, "evenly": Evenly}
    rules = {
        f"{name} {share:g}": kind(share, cost, step=STEP, least=LEAST)
        for share in options.shares
        for name, kind in kinds.items()
    }
    students: dict[str, Compressed] = {}
    results: dict[str, dict[str, float]] = {"original": {"accuracy": quality(model, data, task.quality)}}
    for name, rule in rules.items():
        cut, *learn = narrowing(rule, task, options.epochs)
        student, _ = run(model, task, Recipe(NAME, (cut,)))
        before = quality(student, data, task.quality)
        if learn:
            student = relearned(student, model, task, learn[0])
        students[name] = student
        results[name] = {
            "macs": operations(student.base, task.example()).macs_dense,
            "untrained accuracy": before,
            "accuracy": quality(student, data, task.quality),
        }
        print(name, results[name], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        contenders = []
        for name, each in {"original": model, **{name: s.base for name, s in students.items()}}.items():
            path = Path(folder) / f"{name}{chosen.suffix}"
            chosen.export(each, task.example(), path)
            contenders.append(Contender(name, chosen.name, path, Settings(1)))
        found = measure(contenders, arrays_of(cost.repeated(task.example())), "original", Plan(rounds=9))
    for timing in found.timings:
        results[timing.label] |= {"p50 ms": timing.p50, "share": 1 / found.ratio(timing.label, "original").median}
        print(timing.label, results[timing.label])
    print(f"disturbed: {found.disturbed}, load {found.load:.2f} cores")
    if options.json:
        record = {"engine": chosen.name, "version": chosen.version(), "batch": 32, "threads": 1}
        record |= {
            "processor": instructions(),
            "epochs": options.epochs,
            "disturbed": found.disturbed,
            "load": found.load,
            "models": results,
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
