"""ResNet-56 at a share of its operations, beside Torch-Pruning at the same, from the same weights and as many epochs.

    pip install torch-pruning
    python benchmarks/narrowing.py [--ratio 3.6] [--epochs 1] [--teacher] [--json FILE]
        [--task cifar10-resnet56] [--rules allocated exchange] [--within '*.conv1.weight'] [--step 4]
        [--importances norms Taylor]

Ours cuts channels, those inside the blocks where ``--within`` says nothing else, by the surgeon's errors added up
(``Narrow``, as in ``evidence/make.py``) or by exchanges between groups (``Exchange``), and makes up for what goes; its
pruner is the one of its guide, ``BasePruner`` over all layers in small steps until the operations are below the budget,
by group norms, or with ``--importances Taylor`` by Taylor's importance of a batch at every step. Batch norms are set
anew in all, and all learn by the same stage for ``--epochs``: from the labels, or from the original too with
``--teacher``. Accuracy is of the 8,000 test images that nothing was chosen on, and of all 10,000. Then each engine
times all of them and the original by turns, in nine rounds with one thread, at batch 1 and 32. Seeds are 0.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import featherweight as fw
from featherweight.activations.repairs import NormReestimation
from featherweight.channels.exchange import Exchange
from featherweight.core.processor import instructions
from featherweight.core.stage import Recipe, Stage, Training, decayed
from featherweight.core.task import measure as quality
from featherweight.costs.operations import operations
from featherweight.engines import find as engine
from featherweight.engines.arrays import arrays_of
from featherweight.engines.engine import Settings
from featherweight.engines.measure import Contender, measure
from featherweight.engines.measurement import Plan
from featherweight.run import run
from featherweight.search.channels import Narrow
from featherweight.tasks import find
from featherweight.tasks.cifar import chosen, images
from featherweight.tasks.data import Tensors
from featherweight.training.objectives import distillation

RULES: dict[str, type[Narrow]] = {"allocated": Narrow, "exchange": Exchange}
REPAIRS = (NormReestimation(),)
STEPS = 100
"""Of Torch-Pruning; it stops at the first one within the budget."""


def macs(model: nn.Module, task: fw.Task) -> int:
    return int(operations(model, task.example()).macs_dense)


def ours(model: nn.Module, task: fw.Task, rule: Narrow) -> nn.Module:
    return run(model, task, Recipe("narrow", (Stage("cut", edit=rule, repairs=REPAIRS),)))[0].finished()


def theirs(model: nn.Module, task: fw.Task, ratio: float, importance: str) -> nn.Module:
    """The network of Torch-Pruning's global pruning, with norms set anew."""
    import torch_pruning as tp

    pruned, budget = copy.deepcopy(model), macs(model, task) / ratio
    for parameter in pruned.parameters():
        parameter.requires_grad_(True)
    kinds: dict[str, Callable[[], Any]] = {
        "norms": tp.importance.GroupMagnitudeImportance,
        "Taylor": tp.importance.GroupTaylorImportance,
    }
    last = [module for module in pruned.modules() if isinstance(module, nn.Linear)]
    pruner = tp.pruner.BasePruner(
        pruned,
        task.example().args,
        kinds[importance](),
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=0.9,
        iterative_steps=STEPS,
        ignored_layers=last,
    )
    batch = next(iter(task.calibration_data()))
    while macs(pruned, task) > budget:
        if importance == "Taylor":
            pruned.zero_grad()
            assert task.loss is not None
            task.loss(pruned.eval()(batch[0]), batch).backward()
        pruner.step()
    return run(pruned, task, Recipe("norms", (Stage("norms", repairs=REPAIRS),)))[0].finished()


def learned(narrow: nn.Module, model: nn.Module, task: fw.Task, epochs: int, teacher: bool) -> nn.Module:
    objective = distillation(temperature=4.0, share=0.9) if teacher else None
    training = Training(epochs, 0.02, decayed, final=0.001, warmup=0.02, bfloat16=True)
    recipe = Recipe("learn", (Stage("learn", training=training, objective=objective),), teacher=lambda: model)
    return run(narrow, task, recipe)[0].finished()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="cifar10-resnet56", help="a residual network on CIFAR-10")
    parser.add_argument("--ratio", type=float, default=3.6, help="how many times fewer operations")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--teacher", action="store_true", help="learn from the original too")
    parser.add_argument("--rules", nargs="*", default=["allocated"], choices=RULES)
    parser.add_argument("--within", nargs="*", default=["*.conv1.weight"], help="whose rows may go, as patterns")
    parser.add_argument("--step", type=int, default=4, help="channels of a group are a multiple of this")
    parser.add_argument("--importances", nargs="*", default=["norms"], choices=["norms", "Taylor"])
    parser.add_argument("--engines", nargs="*", default=["onnxruntime", "openvino"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    task = find(options.task)
    model = task.model()
    inputs, targets = images("evaluation")
    parts = {"accuracy": ~chosen(), "accuracy of all": torch.ones(len(targets), dtype=torch.bool)}

    def judged(each: nn.Module) -> dict[str, float]:
        return {
            name: quality(each, Tensors(inputs[part], targets[part], 500), task.quality) for name, part in parts.items()
        }

    models: dict[str, nn.Module] = {"original": model}
    results: dict[str, dict[str, Any]] = {"original": {"macs": macs(model, task), **judged(model)}}
    asked = {"share": 1 / options.ratio, "step": options.step, "least": 4, "within": tuple(options.within)}
    cuts: dict[str, Callable[[], nn.Module]] = {
        **{f"featherweight, {name}": partial(ours, model, task, RULES[name](**asked)) for name in options.rules},
        **{f"torch-pruning, {name}": partial(theirs, model, task, options.ratio, name) for name in options.importances},
    }
    for name, cut in cuts.items():
        start = time.monotonic()
        narrow = cut()
        seconds = time.monotonic() - start
        results[name] = {"macs": macs(narrow, task), "cut s": seconds, "untrained": judged(narrow)["accuracy"]}
        print(name, results[name], flush=True)
        models[name] = learned(narrow, model, task, options.epochs, options.teacher) if options.epochs else narrow
        results[name] |= judged(models[name])
        print(name, results[name], flush=True)
    disturbed = False
    for reader in map(engine, options.engines):
        with tempfile.TemporaryDirectory() as folder:
            contenders = []
            for name, each in models.items():
                path = Path(folder) / f"{name}{reader.suffix}"
                reader.export(each.eval(), task.example(), path)
                contenders.append(Contender(name, reader.name, path, Settings(1)))
            for batch in (1, 32):
                given = arrays_of(fw.Example((inputs[:batch],)))
                found = measure(contenders, given, "original", Plan(rounds=9))
                disturbed |= found.disturbed
                for timing in found.timings:
                    ratio = 1 / found.ratio(timing.label, "original").median
                    row = {"p50 ms": timing.p50, "share of the original's": ratio}
                    results[timing.label][f"{reader.name}, batch {batch}"] = row
                    print(reader.name, batch, timing.label, row, flush=True)
    if options.json:
        about = {
            "task": options.task,
            "ratio": options.ratio,
            "within": options.within,
            "step": options.step,
            "epochs": options.epochs,
            "teacher": options.teacher,
        }
        about |= {"threads": 1, "processor": instructions(), "disturbed": disturbed}
        options.json.write_text(json.dumps(about | {"models": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
