"""Make the evidence files anew.

    python evidence/make.py NAME [--checkpoint FOLDER]        a name of the table below, or `all`

Each is a recipe on a built-in task; its plan and reference are written beside the file as ``NAME.txt``. The parents are
the tasks' own baselines, trained on first use. Minutes to an hour each on two cores, ResNet-56 hours; a run that is
killed goes on from its checkpoint folder, and ``torchrun --nproc-per-node 2`` trains in two processes. ``featherweight
verify evidence/*.fwt`` measures the files again in seconds.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import torch

import featherweight as fw
from featherweight.activations.repairs import NormReestimation
from featherweight.checkpoint import FILE, Position, checkpoint
from featherweight.core.compressed import Compressed
from featherweight.core.stage import Cubic, Learn, Matching, Objective, Recipe, Stage, Training, decayed
from featherweight.papers import deep_compression, lsq, watersic
from featherweight.result import mcnemar
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.sparse import Fraction, Magnitude, Sparse
from featherweight.search.budget import Trial
from featherweight.search.channels import Narrow
from featherweight.search.precision import post_training
from featherweight.tasks import find
from featherweight.training.blends import CutMix
from featherweight.training.loop import Progress
from featherweight.training.objectives import SoftTargets, distillation
from featherweight.training.parallel import first, from_first

HERE = Path(__file__).resolve().parent


def lenet5_small(task: str) -> Recipe:
    """Gradual pruning to 1.4 % of the weights and 8 shared values a linear layer, learned from the dense parent."""
    kept = {"conv1.weight": 0.4, "conv2.weight": 0.06, "fc1.weight": 0.01, "fc2.weight": 0.1}
    pruned = {name: Sparse(Fraction(1 - share)) for name, share in kept.items()}
    sizes = {"conv1.weight": 16, "conv2.weight": 16, "fc1.weight": 8, "fc2.weight": 8}
    shared = {name: Sparse(Magnitude(), Codebook(size)) for name, size in sizes.items()}
    taught = distillation(temperature=4.0, share=0.7)
    return Recipe(
        "lenet5-small",
        (
            Stage(
                "prune",
                pruned,
                schedule=Cubic(every=20, end=0.6),
                learn=Learn.LATENT,
                training=Training(20, 2e-3),
                objective=taught,
            ),
            Stage("share", shared, training=Training(8, 5e-4, seed=1), objective=taught),
            Stage("side", {"*.bias": Float(Width.BFLOAT16)}),
        ),
    )


def lenet300_small(task: str) -> Recipe:
    """Gradual pruning to 1.3 % of the weights, then 8 shared values a layer, biases too; the dense parent teaches."""
    kept = {"fc1.weight": 0.0115, "fc2.weight": 0.03, "fc3.weight": 0.28, "*.bias": 0.3}
    pruned = {name: Sparse(Fraction(1 - share)) for name, share in kept.items()}
    shared = {name: Sparse(Magnitude(), Codebook(8)) for name in kept}
    taught = distillation(temperature=4.0, share=0.7)
    return Recipe(
        "lenet300-small",
        (
            Stage(
                "prune",
                pruned,
                schedule=Cubic(every=20, end=0.65),
                learn=Learn.LATENT,
                training=Training(50, 2e-3),
                objective=taught,
            ),
            Stage("share", shared, training=Training(15, 5e-4, seed=1), objective=taught),
        ),
    )


def narrowed(cut: str, tune: str, share: float, epochs: int, lr: float) -> tuple[Stage, Stage]:
    """Cut channels inside the residual blocks to this share of the operations, then learn from the parent."""
    edit = Narrow(share, step=4, least=4, within=("*.conv1.weight",))
    training = Training(epochs, lr, decayed, final=0.001, warmup=0.02, bfloat16=True)
    return (
        Stage(cut, edit=edit, repairs=(NormReestimation(),)),
        Stage(tune, training=training, objective=distillation(temperature=4.0, share=0.9)),
    )


def narrow_resnet(task: str) -> Recipe:
    return Recipe("resnet56-channels-2.57x", narrowed("cut", "tune", 1 / 2.57, epochs=26, lr=0.05))


def narrower_resnet(task: str) -> Recipe:
    """Cut twice: what the first recipe leaves is narrowed again, and learns on; at last from the parent alone."""
    left = 47_702_656 / 125_485_696  # of the operations, by the first cut, in steps of four channels
    again = narrowed("again", "tune again", 1 / 3.6 / left, epochs=9, lr=0.02)
    matching = Matching(28, 0.05, decayed, final=0.001, warmup=0.02, bfloat16=True, period=8, blend=CutMix(0.5))
    match = Stage("match", training=matching, objective=Objective((SoftTargets(temperature=4.0),)))
    return Recipe("resnet56-channels-3.6x", (*narrow_resnet(task).stages, *again, match))


ENDS = {"conv1.weight": 8, "linear.weight": 8}
"""Bits of the first and the last layer of ResNet-20, which hold 0.4 % of its weights."""

MADE = {
    "deep-compression-lenet300": ("mnist-lenet300", deep_compression.recipe),
    "deep-compression-lenet5": ("mnist-lenet5", deep_compression.recipe),
    "lenet5-small": ("mnist-lenet5", lenet5_small),
    "lenet300-small": ("mnist-lenet300", lenet300_small),
    "resnet20-w8a8": ("cifar10-resnet20", lambda task: post_training(8, 8)),
    "resnet20-w4a8": ("cifar10-resnet20", lambda task: post_training(4, 8, exceptions=ENDS)),
    "resnet20-w4a4": ("cifar10-resnet20", partial(lsq.recipe, bits=4, epochs=8)),
    "resnet20-w2a2": ("cifar10-resnet20", partial(lsq.recipe, bits=2, epochs=50)),
    "resnet56-channels-2.57x": ("cifar10-resnet56", narrow_resnet),
    "resnet56-channels-3.6x": ("cifar10-resnet56", narrower_resnet),
    "resnet20-ptq-small": ("cifar10-resnet20", watersic.priced),
    "resnet20-ptq-lossless": ("cifar10-resnet20", watersic.priced),
}

BUDGETS = {"resnet20-ptq-small": fw.Budget(size=64_000), "resnet20-ptq-lossless": fw.Budget(size=84_000)}
"""Of recipes with a price of a bit, which is searched: no training, and 512 images without labels."""


CONTINUED = {"resnet56-channels-3.6x": ("resnet56-channels-2.57x", 2)}
"""File -> the file whose recipe is the first stages of its own, and their number."""


def begun(name: str, task: fw.Task, recipe: Recipe, folder: Path) -> None:
    """Begin a run's checkpoint with the stages that a committed file has been through: they are not made again."""
    if name in CONTINUED and not (folder / FILE).exists():
        earlier, stages = CONTINUED[name]
        left, student = fw.load(HERE / f"{earlier}.fwt", task.architecture()), Compressed(task.model()).eval()
        for edit in left.edits:
            student.edit(edit)
        student.base.load_state_dict(left.finished().state_dict())
        checkpoint(folder, task.model(), recipe).keep(Position(stages, 0), student, None)


def make(name: str, folder: Path | None) -> None:
    task_name, made = MADE[name]
    task, recipe = find(task_name), made(task_name)
    start = time.monotonic()

    def watch(progress: Progress) -> None:
        if first() and progress.step * progress.epochs % progress.steps == 0:
            seconds = time.monotonic() - start
            print(f"{name}: {progress.stage} {progress.epoch}/{progress.epochs}, {seconds:.0f} s", file=sys.stderr)

    def tell(trial: Trial) -> None:
        print(f"{name}: {trial.size} bytes, drop {trial.drop:.2f}, {time.monotonic() - start:.0f} s", file=sys.stderr)

    budget = BUDGETS.get(name)
    if budget is not None:
        folder = None  # a search has no checkpoint
    elif folder is not None:
        from_first(lambda: begun(name, task, recipe, folder))
    result = fw.compress(task, recipe, budget, checkpoint=folder, watch=watch, tell=tell)
    if not first():
        return
    print(f"{name}: made in {time.monotonic() - start:.0f} s", file=sys.stderr)
    size = result.save(HERE / f"{name}.fwt", recipe=True)
    claims = result.claims
    assert claims is not None
    print(
        f"{name}: {size} bytes, {claims.samples - claims.total:.0f} errors of {claims.samples}, parent "
        f"{claims.samples - claims.parent:.0f}, lost {claims.lost}, won {claims.won}, p {mcnemar(claims):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*MADE, "all"])
    parser.add_argument("--checkpoint", help="folder from which killed runs go on")
    options = parser.parse_args()
    if torch.distributed.is_torchelastic_launched():
        torch.distributed.init_process_group("gloo")
    for name in MADE if options.name == "all" else [options.name]:
        make(name, Path(options.checkpoint) / name if options.checkpoint else None)


if __name__ == "__main__":
    main()
