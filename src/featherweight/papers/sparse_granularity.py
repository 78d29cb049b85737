"""The regularity of sparse structure: entries, vectors, kernels or filters are pruned (Mao et al. 2017)."""

from collections.abc import Mapping

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Iterative, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.schemes.structures import Filters, Kernels, Norm, Structure, Vectors

REFERENCE = Reference(
    "Exploring the Regularity of Sparse Structure in Convolutional Neural Networks",
    "Mao, Han, Pool, Li, Liu, Wang and Dally",
    2017,
    "1705.08922",
)
DEVIATIONS = (
    "one share of the groups of every convolution, instead of one by each layer's sensitivity",
    "positions are one bit a group before entropy coding, not 4-bit distances between groups",
    "linear layers, which have no kernels, are pruned entry by entry; survivors are float32",
    "Adam with a cosine schedule over all rounds, from the trained baseline",
)
GRANULARITIES: Mapping[str, Structure | None] = {
    "fine": None,
    "vector": Vectors(3, norm=Norm.L1),
    "kernel": Kernels(norm=Norm.L1),
    "filter": Filters(norm=Norm.L1),
}
"""The four that the paper compares, finest first; a group counts the sum of its magnitudes."""
CONVOLUTIONS = Sites(min_dims=4)
LINEAR: Mapping[str, float] = {"mnist-lenet5": 0.9}
EPOCHS = {"mnist-lenet5": 12, "digits": 60}


def recipe(
    task: str = "",
    *,
    structure: Structure | None = GRANULARITIES["vector"],
    share: float = 0.7,
    linear: float | None = None,
    rounds: int = 4,
    epochs: int | None = None,
) -> Recipe:
    """Zero a ``share`` of the groups of every convolution in rounds, the survivors learning after each.

    ``linear`` is the share of the entries of linear layers. Without a ``structure`` entries are pruned everywhere.
    """
    fine = Fraction(share)
    stage = Stage(
        "prune",
        {
            CONVOLUTIONS: Sparse(fine) if structure is None else GroupSparse(fine, structure=structure),
            Sites(WEIGHTS.include, min_dims=2, optional=True): Sparse(
                Fraction(LINEAR.get(task, 0.7) if linear is None else linear)
            ),
        },
        schedule=Iterative(rounds),
        training=Training(EPOCHS.get(task, 12) if epochs is None else epochs, 1e-3),
    )
    return Recipe("sparse-granularity", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "sparse-granularity",
        REFERENCE,
        "Prune entries, rows of kernels, kernels or filters by the sum of their magnitudes and retrain: how much less "
        "can go at the same accuracy, and how much fewer positions must be stored.",
        (
            Claim(
                "AlexNet, ImageNet",
                "at the baseline's top-5 accuracy 24.8 % of the weights are left by entries, 29.9 % by vectors and "
                "37.8 % by kernels; with 4-bit positions storage is 33.0, 34.5 and 39.7 %",
                "memory, unconfirmed",
            ),
        ),
        ("mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet5",),
    )
