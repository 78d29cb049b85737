"""Entropy-constrained codes of the digits network without learning: metrics and cells at equal bits.

    python benchmarks/entropy_constrained.py

One codebook for all weights, at a mean entropy of its indices. Losses are of the calibration data, accuracies of the
selection data. A minute on one thread.
"""

from itertools import product

import torch

from featherweight.core.compressed import Compressed
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import MagnitudeRule, Recipe, Stage
from featherweight.core.task import Task, measure
from featherweight.metrics.diagonal import Curvature, Fisher
from featherweight.run import run
from featherweight.schemes.entropy import Cells, EntropyConstrained, MeanBits
from featherweight.schemes.joint import Joint
from featherweight.tasks import find

BITS = 1.5


def loss(task: Task, student: Compressed) -> float:
    assert task.loss is not None
    with torch.no_grad():
        losses = [float(task.loss(student(batch[0]), batch)) for batch in task.calibration_data()]
    return sum(losses) / len(losses)


def main() -> None:
    task = find("digits")
    print("| metric | cells | centroids | loss | accuracy % |\n|---|---|---|---|---|")
    for metric, cells in product((MagnitudeRule(), Fisher(), Curvature()), Cells):
        scheme = Joint(EntropyConstrained(MeanBits(BITS), cells))
        student, _ = run(task.model(), task, Recipe("entropy", (Stage("share", {WEIGHTS: scheme}, metric=metric),)))
        accuracy = measure(student, task.selection(), task.quality)
        size = next(iter(student.codes.values())).layout().settings[0]
        name = type(metric).__name__.removesuffix("Rule").lower()
        print(f"| {name} | {cells.value} | {size} | {loss(task, student):.4f} | {accuracy:.1f} |", flush=True)


if __name__ == "__main__":
    main()
