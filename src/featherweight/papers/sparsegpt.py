"""SparseGPT: pruning in one shot by a column sweep (Frantar and Alistarh 2023)."""

from featherweight.core.scheme import Scheme
from featherweight.core.site import Sites
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.metrics.hessian import InputMoment
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.amounts import Amount, Fraction
from featherweight.schemes.floats import Float
from featherweight.schemes.sparse import Sparse
from featherweight.solvers.sweep import ColumnSweep

REFERENCE = Reference(
    "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    "Frantar and Alistarh",
    2023,
    "2301.00774",
)
DEVIATIONS = (
    "layers are measured one at a time behind compressed ones; the paper measures all layers of a block together",
    "where the sweep ends behind magnitude pruning in the metric, magnitude pruning is kept",
    "a Hessian is damped by 1 % of its mean diagonal, as for GPTQ",
)
LAYERS = Sites(exclude=("*embed*", "position.weight", "*head.weight"), min_dims=2)
"""All weights but embeddings and a head on them, as the paper leaves them."""
PRUNED = {"mnist-lenet300": Sites(min_dims=2), "digits": Sites(min_dims=2)}


def recipe(task: str = "", *, amount: Amount | None = None, values: Scheme | None = None) -> Recipe:
    """Half of every layer to zero, or what ``amount`` says: ``NToM(2, 4)``; survivors make up for what went.

    ``values`` stores the survivors, and may quantize them in the same sweep.
    """
    scheme = Sparse(amount or Fraction(0.5), values or Float())
    stage = Stage("sweep", {PRUNED.get(task, LAYERS): scheme}, InputMoment(required=False), ColumnSweep(required=False))
    return Recipe("sparsegpt", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "sparsegpt",
        REFERENCE,
        "Prune a layer's weight column by column, choosing what goes by the error that it leaves once the columns to "
        "come have made up for it; no weight is trained.",
        (
            Claim("OPT-175B and BLOOM-176B", "60 % of the weights at a negligible rise of perplexity", "abstract"),
            Claim("OPT-175B and BLOOM-176B", "executed in under 4.5 hours", "abstract"),
        ),
        ("mnist-lenet300", "digits", "shakespeare-transformer"),
        recipe,
        DEVIATIONS,
        ("mnist-lenet300",),
    )
