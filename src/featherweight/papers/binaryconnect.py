"""BinaryConnect: binary weights in propagation, real ones for updates (Courbariaux, Bengio and David 2015)."""

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training, adam
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.binary import Binary, glorot
from featherweight.schemes.floats import Float, Width
from featherweight.training.optimizers import Clipped

REFERENCE = Reference(
    "BinaryConnect: Training Deep Neural Networks with binary weights during propagations",
    "Courbariaux, Bengio and David",
    2015,
    url="http://papers.nips.cc/paper/5647-binaryconnect-training-deep-neural-networks-with-binary-weights-during-propagations.pdf",
)
DEVIATIONS = (
    "written from memory of the paper: figures were not read again",
    "the tasks' networks as they are: LeNet-300-100 is smaller than the paper's and has no batch norm",
    "signs have the magnitude of Glorot's coefficient, to which latent weights are clipped: without batch norm, signs "
    "of one would saturate; with it, learning rates scaled by that coefficient are as ours",
    "cross entropy, not the squared hinge loss; Adam with a cosine schedule, no dropout",
    "the network starts from its trained float weights",
    "drawn signs end as deterministic ones, where the paper tests with the real weights",
)
EPOCHS = {"mnist-lenet300": 20, "mnist-lenet5": 10, "fashion-lenet5": 10, "digits": 40}


def recipe(task: str = "", *, stochastic: bool = False, epochs: int | None = None) -> Recipe:
    """Signs of all weight matrices and kernels; with ``stochastic`` drawn anew in every pass."""
    stage = Stage(
        "binarize",
        {WEIGHTS: Binary(glorot, stochastic)},
        learn=Learn.LATENT,
        training=Training(epochs or EPOCHS.get(task, 10), 1e-3, Clipped(adam, glorot)),
    )
    side = Stage("side", {Sites(("*.bias",), optional=True): Float(Width.BFLOAT16)})
    return Recipe("binaryconnect", (stage, side), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "binaryconnect",
        REFERENCE,
        "Propagate with signs of the weights, forward and backward, and add the gradients to real weights that are "
        "clipped to where a sign can still change; drawing the signs by chance regularises like dropout.",
        (
            Claim(
                "MNIST, permutation invariant",
                "error 1.29 % deterministic, 1.18 % stochastic, 1.30 % with neither",
                "(memory), unconfirmed",
            ),
            Claim(
                "CIFAR-10",
                "error 9.90 % deterministic, 8.27 % stochastic, 10.64 % with neither",
                "(memory), unconfirmed",
            ),
            Claim(
                "SVHN", "error 2.30 % deterministic, 2.15 % stochastic, 2.44 % with neither", "(memory), unconfirmed"
            ),
        ),
        ("mnist-lenet300", "mnist-lenet5", "fashion-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
