"""Distilling the knowledge in a neural network (Hinton, Vinyals and Dean 2015)."""

from collections.abc import Callable

from torch import nn

from featherweight.core.site import Sites
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.tasks import find
from featherweight.training.objectives import distillation

REFERENCE = Reference("Distilling the Knowledge in a Neural Network", "Hinton, Vinyals and Dean", 2015, "1503.02531")
DEVIATIONS = (
    "the student starts from the task's trained baseline instead of random weights",
    "LeNet-300-100 learns from LeNet-5, instead of 800-800 units from 1200-1200 with dropout",
    "the student is stored in float16",
)
TEACHERS = {"mnist-lenet300": "mnist-lenet5", "cifar10-resnet20": "cifar10-resnet56"}
"""Task of the student -> task whose model teaches; elsewhere a model teaches itself."""


def teacher(task: str) -> Callable[[], nn.Module] | None:
    return (lambda: find(TEACHERS[task]).model()) if task in TEACHERS else None


def recipe(task: str = "", *, temperature: float = 4.0, epochs: int = 20) -> Recipe:
    """Learn from soft targets, then store in float16."""
    stages = (
        Stage("distil", training=Training(epochs, 1e-3), objective=distillation(temperature)),
        Stage("store", {Sites(): Float(Width.FLOAT16)}),
    )
    return Recipe("knowledge-distillation", stages, REFERENCE, DEVIATIONS, teacher(task))


def paper() -> Paper:
    return Paper(
        "knowledge-distillation",
        REFERENCE,
        "Train a small network on the softened class probabilities of a large one.",
        (Claim("MNIST, 800-800 units", "146 test errors alone, 74 distilled (teacher: 67)", "(memory), unconfirmed"),),
        ("mnist-lenet300", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300",),
    )
