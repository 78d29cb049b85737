"""Channels behind gates that learn: gates, folding them, cutting what they closed, and learning on without them."""

from featherweight.activations.gates import FoldGates
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Stage, Training
from featherweight.schemes.sparse import Magnitude, Sparse
from featherweight.search.dead import CutDead

SAMPLES = {"mnist-lenet300": 55_000, "mnist-lenet5": 55_000, "digits": 998}
"""Of the training data, over which a penalty that is paid once is spread."""
EPOCHS = {"mnist-lenet300": (20, 8), "mnist-lenet5": (10, 4), "digits": (60, 20)}
"""With gates, and after the cut."""


def samples(task: str) -> int:
    return SAMPLES.get(task, 50_000)


def learning(task: str) -> Training:
    """With gates, which learn ten times faster than weights."""
    return Training(EPOCHS.get(task, (10, 5))[0], 1e-3, code_lr=10.0, final=0.1)


def afterwards(task: str) -> tuple[Stage, ...]:
    """What follows a stage with gates."""
    return (
        Stage("fold", repairs=(FoldGates(),)),
        Stage("cut", edit=CutDead(optional=True)),
        Stage(
            "rest",
            {WEIGHTS: Sparse(Magnitude())},
            training=Training(EPOCHS.get(task, (10, 5))[1], 5e-4, seed=1),
        ),
    )
