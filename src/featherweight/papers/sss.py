"""Sparse structure selection (Huang and Wang 2018)."""

from featherweight.activations.gates import FactorPenalty, FoldGates, Gates, Scaling
from featherweight.core.stage import Objective, Recipe, Reference, Stage, Training, sgd
from featherweight.papers.paper import Claim, Paper
from featherweight.search.dead import CutDead
from featherweight.training.objectives import TaskLoss

REFERENCE = Reference(
    "Data-Driven Sparse Structure Selection for Deep Neural Networks", "Huang and Wang", 2017, "1707.01213"
)
DEVIATIONS = (
    "factors on channels alone; the paper also has them on groups of ResNeXt and on residual blocks",
    "a factor stands where a channel is read, behind its activation, and is folded into what reads it",
    "the momentum of the optimizer does not see the threshold of the proximal step",
    "the network starts from its trained weights; weights have no L2 penalty",
    "some epochs of learning after the cut, which the paper does without",
)
EPOCHS = {"mnist-lenet300": (16, 8)}
"""With factors, and after the cut."""


def recipe(task: str = "", *, penalty: float = 2e-2, rate: float = 2e-2) -> Recipe:
    """Scaling factors on all channels learn by proximal gradient steps; those at zero are cut."""
    first, second = EPOCHS.get(task, (10, 5))
    select = Stage(
        "select",
        tap=Gates(Scaling, fixed=False),
        training=Training(first, rate, sgd, warmup=0.05),
        objective=Objective((TaskLoss(), FactorPenalty(penalty))),
    )
    fold = Stage("fold", repairs=(FoldGates(),))
    cut = Stage("cut", edit=CutDead(), training=Training(second, rate / 2, sgd, seed=1))
    return Recipe("sss-sparse-structure-selection", (select, fold, cut), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "sss-sparse-structure-selection",
        REFERENCE,
        "Scale the outputs of structures by factors, drive factors to zero by accelerated proximal gradient steps on "
        "their L1 norm, and remove the structures whose factor is zero.",
        (
            Claim("ResNet-50, ImageNet", "error 23.88 % to 24.56 % at 3.47 of 4.09 GFLOPs", "memory"),
            Claim("ResNet-50, ImageNet", "error 23.88 % to 25.82 % at 2.82 of 4.09 GFLOPs", "memory"),
        ),
        ("mnist-lenet300",),
        recipe,
        DEVIATIONS,
    )
