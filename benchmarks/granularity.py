"""What the grain of sparsity costs: entries, rows of kernels, kernels or filters of a network pruned to equal sparsity.

    FEATHERWEIGHT_DATA=... OMP_NUM_THREADS=1 python benchmarks/granularity.py [--shares 0.5 0.7] [--steps 100]

Every convolution of ResNet-20 but the first loses the same share of its weights, by the sum of a group's magnitudes;
the linear layer stays. Accuracy is that on all 10,000 test images, right after pruning, and after some steps of
learning with the survivors then rounded to 8 bits, a scale a tensor. Bytes are those of the whole file, "positions"
what it spends on which weights stay. The paper's claim stands beside it.

Then the pattern of sparse matrix units, 2:4 along input channels, with and without a search for channels that share
runs, rounded to 8 bits and without learning. One run, one seed: accuracies of two seeds differ by a few tenths. A
quarter of an hour on a core.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from featherweight import file
from featherweight.coding import cost
from featherweight.core.compressed import Compressed
from featherweight.core.site import Sites
from featherweight.core.stage import Recipe, Stage, Training, sgd
from featherweight.core.task import Data, Task, measure
from featherweight.papers.sparse_granularity import GRANULARITIES
from featherweight.run import run
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.sparse import Fraction, Magnitude, PermutedNToM, Sparse
from featherweight.schemes.supports import SparseCode
from featherweight.schemes.uniform import Uniform
from featherweight.tasks import find

TASK = "cifar10-resnet20"
CONVOLUTIONS = Sites(exclude=("conv1.weight",), min_dims=4)
RESULTS = Path(__file__).parent / "results" / "granularity.json"
CLAIM = (
    "Mao et al. 2017 (arXiv 1705.08922), AlexNet at the baseline's top-5 accuracy (memory, unconfirmed): 24.8 % of the "
    "weights are left by entries, 29.9 % by vectors, 37.8 % by kernels; with 4-bit positions storage is 33.0, 34.5 and "
    "39.7 %."
)


@dataclass(frozen=True)
class Beginning:
    """The first ``steps`` batches of a round of training data."""

    data: Data
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        return (batch for batch, _ in zip(self.data, range(self.steps), strict=False))


@dataclass(frozen=True)
class Row:
    """A network: the share of zeros, accuracies in percent, the root of the share of Σ w² that was pruned, bytes."""

    grain: str
    zeros: float
    error: float
    one_shot: float
    tuned: float | None
    bytes: int
    positions: int


def accuracy(task: Task, student: Compressed) -> float:
    assert task.evaluation is not None
    return measure(student, task.evaluation(), task.quality)


def positions(student: Compressed) -> int:
    """Bytes that the file spends on which weights stay."""
    bits = 0.0
    for code in student.codes.values():
        streams = [s for s in code.streams() if not s.name.startswith("values")]
        bits += sum(cost(stream.values.numpy(), stream.alphabet) for stream in streams)
    return round(bits / 8)


def row(task: Task, grain: str, scheme: Sparse, stored: Sparse, *, tune: bool) -> Row:
    prune = Stage("prune", {CONVOLUTIONS: scheme})
    model = task.model()
    pruned, _ = run(model, task, Recipe(grain, (prune,)))
    learned = replace(prune, training=Training(1, 0.02, sgd)) if tune else prune
    stages = (learned, Stage("store", {CONVOLUTIONS: stored})) if tune else (Stage("store", {CONVOLUTIONS: stored}),)
    student, _ = run(model, task, Recipe(grain, stages))
    kept = {name: code.support for name, code in pruned.codes.items() if isinstance(code, SparseCode)}
    dense = {name: model.get_parameter(name).detach() for name in kept}
    gone = sum(float(w[~kept[name]].square().sum()) for name, w in dense.items())
    whole = sum(float(w.square().sum()) for w in dense.values())
    return Row(
        grain,
        1 - sum(int(s.sum()) for s in kept.values()) / sum(s.numel() for s in kept.values()),
        (gone / whole) ** 0.5,
        accuracy(task, pruned),
        accuracy(task, student) if tune else None,
        len(file.encode(student, number=task.number)),
        positions(student),
    )


def rows(task: Task, shares: list[float]) -> Iterator[Row]:
    for share in shares:
        for grain, structure in GRANULARITIES.items():
            if structure is None:
                scheme, stored = Sparse(Fraction(share)), Sparse(Magnitude())
            else:
                scheme = GroupSparse(Fraction(share), structure=structure)
                stored = GroupSparse(Magnitude(), structure=structure)
            yield row(task, grain, scheme, stored.then(Uniform(8)), tune=True)
    for name, rounds in (("2:4", 0), ("2:4, permuted", 50)):
        scheme = Sparse(PermutedNToM(2, 4, rounds))
        yield row(task, name, scheme, scheme.then(Uniform(8)), tune=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.7])
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    task = find(TASK)
    assert task.train is not None
    every = task.train
    task = replace(task, train=lambda: Beginning(every(), options.steps))
    before = accuracy(task, Compressed(task.model()))
    print(f"{TASK}: {before:.2f} % before; {options.steps} steps of learning\n{CLAIM}\n")
    print("| grain | zeros | pruned, of the norm | one shot | learned, 8 bits | file, bytes | positions, bytes |")
    print("|---|---|---|---|---|---|---|")
    found = []
    for each in rows(task, options.shares):
        found.append(each)
        tuned = "" if each.tuned is None else f"{each.tuned:.2f}"
        print(
            f"| {each.grain} | {each.zeros:.1%} | {each.error:.3f} | {each.one_shot:.2f} | {tuned} | {each.bytes:,} "
            f"| {each.positions:,} |",
            flush=True,
        )
    record = {
        "task": TASK,
        "before": before,
        "steps": options.steps,
        "claim": CLAIM,
        "rows": [asdict(r) for r in found],
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
