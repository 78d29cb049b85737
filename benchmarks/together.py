"""A step of distillation: one process with two threads beside two with one each, the teacher asked or its outputs kept.

    python benchmarks/together.py [--rounds 9] [--steps 4]

The training loop itself, on the cut ResNet-56 of ``evidence/resnet56-channels-2.57x.fwt`` with ResNet-56 as its
teacher: batches of 128 random images, SGD. In every round one process learns while the other waits, then both learn
together (``training/parallel.py``), each for two epochs of so many steps, of which the second finds the teacher's
outputs kept (``Recurring``). Medians are over all steps but the first of an epoch; ratios are paired by round.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import distributed, multiprocessing

import featherweight as fw
from featherweight.architectures.resnet_cifar import ResNetCifar
from featherweight.core.stage import Recipe, Recurring, Stage, sgd
from featherweight.core.task import Example, Task
from featherweight.run import run
from featherweight.tasks.data import Tensors
from featherweight.tasks.training import cross_entropy
from featherweight.training.loop import Progress
from featherweight.training.objectives import distillation

FILE = Path(__file__).resolve().parents[1] / "evidence" / "resnet56-channels-2.57x.fwt"
KINDS = ("teacher asked", "outputs kept")


def learned(steps: int) -> list[float]:
    """Milliseconds of a step in the first epoch and in the second."""
    torch.manual_seed(0)
    teacher = ResNetCifar(56)
    student = fw.load(FILE, ResNetCifar(56)).finished().requires_grad_(True)
    images = Tensors(torch.randn(128 * steps, 3, 32, 32), torch.randint(0, 10, (128 * steps,)), batch_size=128)
    task = Task(
        "images", lambda: student, lambda: student, lambda: Example((images.inputs[:1],)), train=lambda: images,
        loss=cross_entropy,
    )  # fmt: skip
    stage = Stage("tune", training=Recurring(2, 1e-3, sgd, period=1), objective=distillation())
    ends: dict[int, list[float]] = {1: [], 2: []}

    def watch(progress: Progress) -> None:
        ends[progress.epoch].append(time.perf_counter())

    run(student, task, Recipe("together", (stage,), teacher=lambda: teacher), watch=watch)
    return [1e3 * median(b - a for a, b in zip(each, each[1:], strict=False)) for each in ends.values()]


def worker(rank: int, options: argparse.Namespace, folder: str, barrier: Any) -> None:
    times: dict[str, list[list[float]]] = {"one process": [], "two processes": []}
    for number in range(options.rounds):
        if rank == 0:
            torch.set_num_threads(2)
            times["one process"].append(learned(options.steps))
        barrier.wait()
        torch.set_num_threads(1)
        distributed.init_process_group("gloo", init_method=f"file://{folder}/{number}", rank=rank, world_size=2)
        times["two processes"].append(learned(options.steps))
        distributed.destroy_process_group()
        barrier.wait()
    if rank == 0:
        tell(times)


def tell(times: dict[str, list[list[float]]]) -> None:
    first = [each[0] for each in times["one process"]]
    for processes, rounds in times.items():
        for kind, kept in zip(KINDS, zip(*rounds, strict=True), strict=True):
            ratios = sorted(ours / theirs for ours, theirs in zip(kept, first, strict=True))
            print(
                f"{processes}, {kind}: {median(kept):.0f} ms a step, {median(ratios):.2f} of the first "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} rounds)"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="of an epoch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        barrier = multiprocessing.get_context("spawn").Barrier(2)
        multiprocessing.spawn(worker, (options, folder, barrier), nprocs=2)


if __name__ == "__main__":
    main()
