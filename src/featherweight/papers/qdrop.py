"""QDrop: quantization of activations that is dropped at random while rounding is learned (Wei et al. 2022)."""

from featherweight.activations.least_squares import LeastSquares
from featherweight.activations.rules import Calibrated
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Reference, Stage
from featherweight.graph.fold import FoldNorms
from featherweight.papers.brecq import ENDS
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.uniform import Fit, PerChannel, Uniform
from featherweight.solvers.reconstruction import BlockReconstruction

REFERENCE = Reference(
    "QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training Quantization",
    "Wei, Gong, Li, Liu and Yu",
    2022,
    "2203.05740",
)
DEVIATIONS = (
    "512 calibration images and 800 steps of 32; the paper takes 1,024 and 20,000",
    "ranges of activations are those of least squared error, and are not learned along with the rounding",
    "the first and the last layer have 8-bit weights; what they take in has the bits of all activations, and so have "
    "the operands of additions",
    "the weight of the regulariser is relative to the mean square of an output, and all outputs count the same",
)


def recipe(task: str = "", *, bits: int = 4, activations: int = 4, ends: int = 8, drop: float = 0.5) -> Recipe:
    """Norms folded, activations and weights quantized, rounding learned by blocks with ``drop`` of the former left out.

    Every layer's weight and inputs; those weights of the first and last layer to ``ends`` bits.
    """
    scheme, outer = (Uniform(width, granularity=PerChannel(), fit=Fit.SEARCH) for width in (bits, ends))
    schemes = dict.fromkeys(ENDS.get(task, ()), outer) | {WEIGHTS: scheme}
    stage = Stage(
        "round",
        schemes,
        projector=BlockReconstruction(fisher=False, drop=drop),
        edit=FoldNorms(),
        tap=Calibrated(activations, LeastSquares(), batches=4),
    )
    return Recipe("qdrop", (stage,), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "qdrop",
        REFERENCE,
        "While the rounding of a block is learned, leave the quantization of its activations out at random, entry by "
        "entry: weights become flat to disturbances of activations, of test data too.",
        (Claim("ImageNet networks", "2-bit activations: accuracy up to 51.49 % higher than before", "abstract"),),
        ("cifar10-resnet20", "digits"),
        recipe,
        DEVIATIONS,
    )
