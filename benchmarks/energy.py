"""Modelled energy of each layer, dense and pruned: by what layers give out, in the order of energy, and by magnitude.

    python benchmarks/energy.py [--task digits] [--share 0.8] [--restored 0 0.2]

One shot, without learning, so that what the choice of weights does stands alone. Energy is relative to that of one
multiply-accumulate, by the table and the dataflow of ``featherweight.costs.energy``: a model, measured on no device.
"""

import argparse
from dataclasses import replace

from featherweight.core.compressed import Compressed
from featherweight.core.stage import MagnitudeRule, Recipe, Stage
from featherweight.core.task import Task, measure
from featherweight.costs.energy import Energy
from featherweight.papers import energy_aware_pruning
from featherweight.run import run
from featherweight.tasks import find


def row(what: str, student: Compressed, task: Task) -> str:
    costs = Energy().measure(student, task)
    each = [costs.of(name, tuple(student.parameter(name).shape)) for name in costs.uses]
    assert task.selection is not None
    accuracy = measure(student, task.selection(), task.quality)
    cells = " | ".join(f"{energy / 1e6:.2f}" for energy in each)
    return f"| {what} | {accuracy:.2f} | {cells} | {sum(each) / 1e6:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--share", type=float, default=0.8)
    parser.add_argument("--restored", type=float, nargs="*", default=(0.0, 0.2))
    given = parser.parse_args()
    task, model = find(given.task), find(given.task).model()
    dense = Compressed(model).eval()
    names = list(Energy().measure(dense, task).uses)
    print(f"| {given.task}, {given.share:.0%} zero | accuracy % | {' | '.join(names)} | sum, millions |")
    print("|---" * (len(names) + 3) + "|")
    print(row("dense", dense, task))
    stages: dict[str, Stage] = {}
    for restored in given.restored:
        (stage,) = energy_aware_pruning.recipe(shares=(given.share,), restored=restored, epochs=0).stages
        stages.setdefault("magnitude", replace(stage, metric=MagnitudeRule(), projector=None))
        stages[f"by outputs, {restored:.0%} restored"] = stage
    for what, stage in stages.items():
        student, _ = run(model, task, Recipe(what, (stage,)))
        print(row(what, student, task), flush=True)


if __name__ == "__main__":
    main()
