"""A share of the measured time of ResNet-20, beside the same time reached by the same ratio everywhere.

    python benchmarks/latency.py [--engine onnxruntime] [--shares 0.5] [--epochs 1] [--rules ...] [--json FILE]

At batch 32 and one thread, all groups of channels are cut by one ratio until the measured time is as near to the share
as ratios come, which is not near: engines pad channels. Then for each rule channels are cut to the time that ratios
reached: by what they matter (``Narrow``, the surgeon's errors added up), group by group as the outputs mind it least
(``NetAdapt``), and by exchanges between groups that begin at equal ratios (``Exchange``); the last also to the share
itself. Within a group channels go by the same score. What stays makes up for what goes, and norms are set anew, in all;
then all learn for ``--epochs`` from the original. All models and the original are measured together, nine rounds by
turns; a machine that does other work is told as disturbed. Accuracy is of the 8,000 test images that nothing was chosen
on; "won" and "lost" count images beside equal ratios, "p" is McNemar's. Seeds are 0.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import nn

import featherweight as fw
from featherweight.channels.exchange import Exchange
from featherweight.channels.sensitivity import NetAdapt
from featherweight.core.compressed import Compressed
from featherweight.core.processor import instructions
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import measure as quality
from featherweight.core.task import scores
from featherweight.costs.latency import Latency
from featherweight.costs.operations import operations
from featherweight.engines import find as engine
from featherweight.engines.arrays import arrays_of
from featherweight.engines.engine import Settings
from featherweight.engines.measure import Contender, measure
from featherweight.engines.measurement import Plan
from featherweight.file import Claims
from featherweight.result import mcnemar
from featherweight.run import run
from featherweight.search.channels import Narrow, Tradeoff
from featherweight.search.narrowing import NAME, narrowing
from featherweight.tasks import find
from featherweight.tasks.data import Tensors

STEP, LEAST = 8, 8
RULES: dict[str, type[Narrow]] = {"allocated": Narrow, "netadapt": NetAdapt, "exchange": Exchange}


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


def beside(student: nn.Module, even: nn.Module, task: fw.Task) -> dict[str, float]:
    """Images that are right with one of two models alone."""
    ours, theirs = (scores(each, rest(task), task.quality) for each in (student, even))
    claims = Claims(len(ours), float(ours.sum()), float(theirs.sum()), int((theirs > ours).sum()))
    return {"won": claims.won, "lost": claims.lost, "p": mcnemar(claims)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5])
    parser.add_argument("--rules", nargs="*", choices=RULES, default=[*RULES])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    task = find("cifar10-resnet20")
    model, chosen, data = task.model(), engine(options.engine), rest(task)
    cost = Latency(chosen, batch=32, plan=Plan(rounds=5, disturbance=0.3))
    students: dict[str, Compressed] = {}
    results: dict[str, dict[str, float]] = {"original": {"accuracy": quality(model, data, task.quality)}}

    def made(name: str, kind: type[Narrow], share: float, even: str | None = None) -> float:
        """Its measured share."""
        cut, *learn = narrowing(kind(share, cost, step=STEP, least=LEAST), task, options.epochs)
        student, _ = run(model, task, Recipe(NAME, (cut,)))
        before = quality(student, data, task.quality)
        reached = cost.actual(student.base, model, task)
        students[name] = relearned(student, model, task, learn[0]) if learn else student
        results[name] = {
            "asked": share,
            "macs": operations(student.base, task.example()).macs_dense,
            "untrained accuracy": before,
            "accuracy": quality(students[name], data, task.quality),
            **({} if even is None else beside(students[name], students[even], task)),
        }
        print(name, results[name], flush=True)
        return reached

    for share in options.shares:
        even = f"equal ratios, {share:g}"
        reached = made(even, Evenly, share)
        for name in options.rules:
            made(f"{name}, as {even}", RULES[name], reached, even)
        if options.rules:
            made(f"{options.rules[-1]}, {share:g}", RULES[options.rules[-1]], share, even)
    with tempfile.TemporaryDirectory() as folder:
        contenders = []
        for number, (name, each) in enumerate({"original": model, **{n: s.base for n, s in students.items()}}.items()):
            path = Path(folder) / f"{number}{chosen.suffix}"
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
