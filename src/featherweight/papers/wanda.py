"""Wanda: pruning by weights and activations (Sun et al. 2023)."""

from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.metrics.hessian import InputNorm
from featherweight.papers.paper import Claim, Paper
from featherweight.papers.sparsegpt import LAYERS, PRUNED
from featherweight.schemes.amounts import Amount, RowFraction
from featherweight.schemes.sparse import Sparse
from featherweight.solvers.in_order import InOrder

REFERENCE = Reference(
    "A Simple and Effective Pruning Approach for Large Language Models",
    "Sun, Liu, Bair and Kolter",
    2023,
    "2306.11695",
)
DEVIATIONS = (
    "norms are measured anew for every layer, behind all that is pruned already; the paper measures a block at a time",
)


def recipe(task: str = "", *, amount: Amount | None = None) -> Recipe:
    """Zero half of what every output reads, the least ``|w_ij| ‖x_j‖₂``; or what ``amount`` says: ``NToM(2, 4)``."""
    scheme = Sparse(amount or RowFraction(0.5))
    stage = Stage("prune", {PRUNED.get(task, LAYERS): scheme}, metric=InputNorm(), projector=InOrder())
    return Recipe("wanda", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "wanda",
        REFERENCE,
        "Prune the weights with the least product of their magnitude and the norm of their input, for each output "
        "apart; nothing else changes.",
        (
            Claim(
                "LLaMA and LLaMA-2",
                "far better than magnitude pruning and competitive with methods that update weights",
                "abstract",
            ),
        ),
        ("mnist-lenet300", "digits", "shakespeare-transformer"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300",),
    )
