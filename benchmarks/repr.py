"""Does taking filters out for a while help? RePr against ordinary training of the same steps, from scratch.

    python benchmarks/repr.py [--task digits] [--seeds 5] [--batches N]

One row an arm, over the same first weights, phases, rates and batches: errors in percent on the evaluation data, mean
and standard deviation over seeds, and the mean overlap of the filters. One arm drops the filters of the smallest norm
and brings them back in the same way, so that what the choice does stands apart. With ``--batches`` an epoch is that
many batches.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from statistics import mean, stdev

import torch

from featherweight.channels.overlap import overlap
from featherweight.core.compressed import Compressed
from featherweight.core.stage import MagnitudeRule, Recipe
from featherweight.core.task import Batch, Data, Task, measure
from featherweight.papers import repr_filters
from featherweight.run import run
from featherweight.tasks import find


@dataclass(frozen=True)
class Part:
    """The first batches of an epoch, in its order."""

    data: Data
    batches: int

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        return islice(iter(self.data), self.batches)


def arms(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe, the same phases with nothing dropped, and those with filters dropped by another rule."""
    plain = tuple(replace(stage, schemes={}, repairs=()) for stage in recipe.stages)
    small = tuple(replace(stage, metric=MagnitudeRule()) for stage in recipe.stages)
    return {
        "ordinary": replace(recipe, stages=plain),
        "RePr": recipe,
        "the smallest instead": replace(recipe, stages=small),
    }


def trained(task: Task, recipe: Recipe, seed: int) -> tuple[float, float]:
    """Error in percent, and the mean overlap of the layers that the recipe names."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = task.architecture()
    student, _ = run(model, task, recipe)
    assert task.evaluation is not None
    error = 100 - measure(student, task.evaluation(), task.quality)
    return error, overlapping(student)


def overlapping(student: Compressed) -> float:
    weights = [student.weight(name) for name in student.names if student.parameter(name).ndim == 4][1:]
    return mean(float(overlap(w).mean()) for w in weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batches", type=int)
    given = parser.parse_args()
    task = find(given.task)
    data, batches = task.train, given.batches
    if batches is not None and data is not None:
        task = replace(task, train=lambda: Part(data(), batches))
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(given.seeds):
        for name, recipe in arms(repr_filters.recipe(given.task, seed=100 * seed)).items():
            found.setdefault(name, []).append(trained(task, recipe, seed))
    print(f"| {given.task} | error % | each seed | overlap |\n|---|---|---|---|")
    for name, rows in found.items():
        errors, overlaps = zip(*rows, strict=True)
        each = ", ".join(f"{error:.2f}" for error in errors)
        print(f"| {name} | {mean(errors):.2f} ± {stdev(errors):.2f} | {each} | {mean(overlaps):.3f} |")


if __name__ == "__main__":
    main()
