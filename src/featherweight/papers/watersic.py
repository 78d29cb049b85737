"""Waterfilling by successive interference cancellation: the smallest file without a training run."""

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Objective, Recipe, Reference, Stage, Tuning
from featherweight.graph.fold import FoldNorms
from featherweight.metrics.hessian import Kronecker
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.waterfilling import Waterfilling
from featherweight.solvers.sweep import ColumnSweep
from featherweight.training.objectives import SoftTargets

REFERENCE = Reference("WaterSIC", "?", 2026, "?")
DEVIATIONS: tuple[str, ...] = ()
SIDE = Sites(("*.bias",), optional=True)


def recipe(task: str = "", *, price: float = 1e-7, epochs: int = 20, lr: float = 1e-3, share: float = 0.02) -> Recipe:
    tune = Stage(
        "tune",
        training=Tuning(epochs, lr, code_lr=share),
        objective=Objective((SoftTargets(1.0, 1.0),)),
    )
    return Recipe(
        "watersic",
        (
            Stage("fold", edit=FoldNorms()),
            Stage("sweep", {WEIGHTS: Waterfilling(price)}, metric=Kronecker(), projector=ColumnSweep()),
            *((tune,) if epochs else ()),
            Stage("side", {SIDE: Float(Width.BFLOAT16)}),
        ),
        REFERENCE,
        DEVIATIONS,
    )
