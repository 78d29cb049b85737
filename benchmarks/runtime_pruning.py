"""Agents that choose for each image how many channels are read, beside one choice for all images.

    python benchmarks/runtime_pruning.py [--task digits] [--prices 0.1 1]

All networks learn equally long from the same trained one. Operations are counted on the evaluation data; no engine here
skips what is left out, so that there is nothing to be timed.
"""

import argparse
from dataclasses import dataclass

import torch

from featherweight.activations.agents import Agents, average_macs
from featherweight.activations.runtime import RuntimeGate
from featherweight.core.compressed import Compressed
from featherweight.core.stage import Recipe, Stage, TapRule, Training
from featherweight.core.tap import TapSite
from featherweight.core.task import Task, measure
from featherweight.costs.operations import operations
from featherweight.papers import runtime_neural_pruning as paper
from featherweight.run import run
from featherweight.tasks import find


@dataclass(frozen=True)
class Always(TapRule):
    """The same share of channels for every image, the ``choice``-th of four."""

    modules: tuple[str, ...]
    choice: int

    def taps(self, student: Compressed, task: Task) -> list[TapSite]:
        sites = []
        for site in Agents(self.modules).taps(student, task):
            channels = site.function.get_parameter("values").shape[1]
            bias = torch.nn.functional.one_hot(torch.tensor(self.choice), 4).float()
            sites.append(TapSite(site.place, RuntimeGate(torch.zeros(4, channels), bias)))
        return sites


def fixed(task: str, choice: int) -> Recipe:
    """One share for all, with as many epochs as the paper's recipe takes."""
    epochs = paper.recipe(task).epochs
    return Recipe("fixed", (Stage("fixed", tap=Always(paper.MODULES[task], choice), training=Training(epochs, 1e-3)),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--prices", nargs="*", type=float, default=[0.1, 1.0])
    given = parser.parse_args()
    task = find(given.task)
    assert task.evaluation is not None
    model, example = task.model(), task.example()
    print(f"| {given.task} | quality | multiply-accumulates |\n|---|---:|---:|")
    quality, macs = measure(model, task.evaluation(), task.quality), operations(model, example).macs_dense
    print(f"| all channels, as trained | {quality:.2f} | {macs:,} |", flush=True)
    recipes = {f"agents, price {price:g}": paper.recipe(given.task, price=price) for price in given.prices}
    recipes |= {f"{choice + 1} of 4 parts for all": fixed(given.task, choice) for choice in range(4)}
    for name, recipe in recipes.items():
        student, _ = run(model, task, recipe)
        quality = measure(student, task.evaluation(), task.quality)
        macs = average_macs(student, task.evaluation(), example)
        print(f"| {name} | {quality:.2f} | {macs:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
