"""What decides which weights go: one-shot pruning of whole networks by five metrics, without learning.

    python benchmarks/saliency.py

One share over all layers. Losses are means over batches, of the calibration data, on which metrics are measured, and of
the selection data. A minute on one thread.
"""

import torch

from featherweight.core.site import WEIGHTS
from featherweight.core.stage import MagnitudeRule, MetricRule, Recipe, Stage
from featherweight.core.task import Data, Task, measure
from featherweight.metrics.curvature import BackpropagatedCurvature, squared_error
from featherweight.metrics.diagonal import Curvature, Fisher
from featherweight.run import run
from featherweight.schemes.sparse import Fraction, Scope, Sparse
from featherweight.tasks import find

METRICS: dict[str, MetricRule] = {
    "magnitude": MagnitudeRule(),
    "Gauss-Newton diagonal of the outputs": Curvature(),
    "Fisher": Fisher(),
    "back-propagated curvature, cross entropy": BackpropagatedCurvature(),
    "back-propagated curvature, squared error": BackpropagatedCurvature(squared_error),
}
SHARES = {"digits": (0.5, 0.8), "mnist-lenet300": (0.5, 0.8)}


def loss(task: Task, model: torch.nn.Module, data: Data) -> float:
    assert task.loss is not None
    with torch.no_grad():
        losses = [float(task.loss(model(batch[0]), batch)) for batch in data]
    return sum(losses) / len(losses)


def main() -> None:
    print("| task | zero | metric | calibration loss | selection loss | accuracy % |\n|---|---|---|---|---|---|")
    for name, shares in SHARES.items():
        task = find(name)
        assert task.selection is not None
        for share in shares:
            for what, metric in METRICS.items():
                scheme = Sparse(Fraction(share), scope=Scope.GLOBAL)
                student, _ = run(task.model(), task, Recipe("x", (Stage("prune", {WEIGHTS: scheme}, metric=metric),)))
                seen, new = (loss(task, student, data) for data in (task.calibration_data(), task.selection()))
                accuracy = measure(student, task.selection(), task.quality)
                print(f"| {name} | {share:.0%} | {what} | {seen:.4f} | {new:.4f} | {accuracy:.1f} |", flush=True)


if __name__ == "__main__":
    main()
