"""Balanced weights and few-bit states for recurrent networks (He et al. 2016)."""

from featherweight.activations.recurrent import QuantizedSignals
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.balanced import Balanced
from featherweight.schemes.floats import Float, Width

REFERENCE = Reference(
    "Effective Quantization Methods for Recurrent Neural Networks",
    "He, Wen, Zhou, Wu, Yao, Zhou and Zou",
    2016,
    "1611.10176",
)
CODE = "the authors' published code, https://github.com/qinyao-he/bit-rnn"
DEVIATIONS = (
    f"read are the abstract and {CODE}, not the tables; the exact medians are from memory of the paper. The code "
    "quantizes the tanh of weights, clipped at 1.25 times their mean magnitude, which is what medians give 2 bits of "
    "a Gaussian",
    "the step of the levels keeps a tensor's mean magnitude",
    "an LSTM keeps its hyperbolic tangents, so that trained weights can be taken, and its hidden states are quantized "
    "over [-1, 1] with zero among the levels; theirs has sigmoids there, and states in [0, 1]. As in theirs, the cell "
    "and what the gates give stay floats. GRUs are left as they are: PyTorch's multiplies with a gate behind the "
    "recurrent product, where nothing can be quantized before it",
    "starts from the trained float network, with Adam and a cosine schedule, without dropout where the task has none; "
    "inputs are quantized where they come out of an embedding, whose weights are; biases are stored in bfloat16",
    "stand-ins are digits read row by row, and characters of Shakespeare, for the words of Penn Treebank and IMDB",
)
EPOCHS = {"digits-lstm": 40, "shakespeare-lstm": 4}


def recipe(task: str = "", *, weights: int = 2, states: int = 3, epochs: int | None = None) -> Recipe:
    """All matrices to ``weights`` bits in equal numbers, hidden states to ``states``, learned through both."""
    quantize = Stage(
        "quantize",
        {WEIGHTS: Balanced(weights)},
        edit=QuantizedSignals({"*hidden_l*": states}),
        learn=Learn.LATENT,
        training=Training(epochs or EPOCHS.get(task, 4), 2e-3, clip=1.0),
    )
    side = Stage("side", {Sites(("*bias*",), optional=True): Float(Width.BFLOAT16)})
    return Recipe("balanced-quantization-rnn", (quantize, side), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "balanced-quantization-rnn",
        REFERENCE,
        "Quantize weights so that all levels are used alike often, by medians of medians, and the states of recurrent "
        "layers to a few bits, so that every matrix product is one of few-bit integers.",
        (
            Claim(
                "Penn Treebank and IMDB, LSTM and GRU",
                "match or surpass the quantized recurrent networks before them",
                "abstract",
            ),
        ),
        ("digits-lstm", "shakespeare-lstm"),
        recipe,
        DEVIATIONS,
    )
