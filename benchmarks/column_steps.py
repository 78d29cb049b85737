"""What a step for every input column, and not only for every row, would gain: bits a weight, by the theory.

    python benchmarks/column_steps.py [TASK ...] [--batches 4] [--json FILE]

After the column sweep an error in column ``j`` costs ``c_j = 1 / U_jj²`` (``core.metric.inverse_factor``). Steps in
proportion to ``1 / √c_j`` have, at the rate of one step for all columns, the geometric instead of the arithmetic mean
of ``c`` as distortion: ``½ log₂(AM / GM)`` bits a weight, at high rates (Gish and Pierce 1968), before the steps are
stored: 16 bits a column in bfloat16 are ``16 / rows`` bits a weight. Embeddings, whose columns all cost the same, gain
nothing and are left out.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from featherweight.core.compressed import Compressed
from featherweight.core.metric import Full, inverse_factor
from featherweight.core.site import WEIGHTS, select
from featherweight.metrics.hessian import InputMoment, known
from featherweight.tasks import find

TASKS = ("cifar10-resnet20", "minilm", "shakespeare-transformer")


@torch.no_grad()
def gains(name: str, batches: int) -> dict[str, tuple[int, float, float]]:
    """Parameter -> its entries, the gain, and what steps in bfloat16 take, both in bits a weight."""
    task = find(name)
    student = Compressed(task.model()).eval()
    owners = {path: student.base.get_submodule(path.rpartition(".")[0]) for path in select(student.base, WEIGHTS)}
    names = [path for path, layer in owners.items() if known(layer, path) and not isinstance(layer, nn.Embedding)]
    rule = InputMoment(batches, required=False, shrink=True).begun(student, names, task)
    found = {}
    for part in rule.together(names):
        metric = rule.measure(student, part, task)[part[0]]
        if isinstance(metric, Full):
            costs = inverse_factor(metric.hessian).diagonal(dim1=-2, dim2=-1).pow(-2)
            gain = float((costs.mean(-1).log2() - costs.log2().mean(-1)).mean() / 2)
            for each in part:
                w = student.weight(each)
                found[each] = (w.numel(), gain, 16 / len(w))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record = {}
    for name in options.tasks:
        found = gains(name, options.batches)
        entries = sum(n for n, _, _ in found.values())
        gain = sum(n * each for n, each, _ in found.values()) / entries
        net = sum(n * max(each - side, 0.0) for n, each, side in found.values()) / entries
        record[name] = {"entries": entries, "gain": gain, "net": net, "layers": found}
        print(f"{name}: {gain:.3f} bits a weight of {entries:,}; with steps in bfloat16, where they pay, {net:.3f}")
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
