"""Fixed-point recurrent networks: bits for each group of weights and signals, and retraining (Shin et al. 2015)."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from torch import nn

from featherweight.activations.least_squares import LeastSquares
from featherweight.activations.recurrent import QuantizedSignals
from featherweight.core.site import WEIGHTS, Sites, select
from featherweight.core.stage import Learn, Recipe, Reference, Stage, Training
from featherweight.core.task import Task
from featherweight.graph.recurrent import steppable
from featherweight.papers.paper import Claim, Paper
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import Fit, Uniform
from featherweight.search.widths import least_bits

REFERENCE = Reference(
    "Fixed-Point Performance Analysis of Recurrent Neural Networks", "Shin, Hwang and Sung", 2015, "1512.01322"
)
DEVIATIONS = (
    "the method is from the abstract and from memory of the paper: its tables were not read",
    "groups of weights are the matrices: each layer's from its inputs and from its own states, the embedding and the "
    "output layer; the four gates of a matrix share bits and step. Signals are what each LSTM layer takes in and what "
    "it gives; cells and gates stay floats",
    "steps are least squares, of weights among 80 shares of the range and of signals by a histogram, and stay while "
    "float shadow weights learn behind them, with Adam and a cosine schedule; biases are stored in bfloat16",
    "the fewest bits of each group are found without retraining, all others left as they are, by bisection",
    "stand-ins are digits read row by row, and characters of Shakespeare, for their language model and phonemes",
)
Bits = Mapping[str, int]
"""Pattern on the names of weights, or of signals -> bits."""

WEIGHT_BITS: Mapping[str, Bits] = {
    "digits-lstm": {
        "lstm.weight_ih_l0": 3,
        "lstm.weight_hh_l0": 2,
        "lstm.weight_ih_l1": 2,
        "lstm.weight_hh_l1": 2,
        "head.weight": 2,
    }
}
SIGNAL_BITS: Mapping[str, Bits] = {"digits-lstm": {"lstm.input_l0": 4, "lstm.hidden_l0": 3, "lstm.hidden_l1": 2}}
"""``bit_widths(model, task, 0.5)``."""
EPOCHS = {"digits-lstm": 40, "shakespeare-lstm": 4}
OBSERVED = 4
"""Calibration batches that steps of signals are taken from."""
NONE: Bits = MappingProxyType({})


def recipe(
    task: str = "", *, weights: Bits | None = None, signals: Bits | None = None, epochs: int | None = None
) -> Recipe:
    """Every group to its bits, then learning in float shadow weights through the quantized ones."""
    kept = WEIGHT_BITS.get(task, {"*": 4}) if weights is None else weights
    sent = SIGNAL_BITS.get(task, {"*input_l0": 8, "*hidden_l*": 6}) if signals is None else signals
    training = Training(epochs or EPOCHS.get(task, 4), 1e-3, clip=1.0)
    side = Stage("side", {Sites(("*bias*",), optional=True): Float(Width.BFLOAT16)})
    stages = (_quantized(kept, sent, training), side)
    return Recipe("fixed-point-rnn", stages, REFERENCE, DEVIATIONS)


def bit_widths(model: nn.Module, task: Task, drop: float) -> tuple[dict[str, int], dict[str, int]]:
    """The fewest bits of each weight, and of each signal, with which it alone loses at most ``drop``."""

    def least(recipe_of: Callable[[int], Recipe]) -> int:
        return least_bits(model, task, recipe_of, drop)

    weights = {name: least(partial(weight_alone, name)) for name in select(model, WEIGHTS)}
    return weights, {name: least(partial(signal_alone, name)) for name in signals_of(model)}


def weight_alone(name: str, bits: int) -> Recipe:
    """One weight to so many bits, without learning."""
    return Recipe("fixed-point-rnn", (_quantized({name: bits}, NONE, None),))


def signal_alone(name: str, bits: int) -> Recipe:
    """One signal to so many bits, without learning."""
    return Recipe("fixed-point-rnn", (_quantized(NONE, {name: bits}, None),))


def _quantized(weights: Bits, signals: Bits, training: Training | None) -> Stage:
    return Stage(
        "quantize",
        {Sites((name,), min_dims=2): Uniform(bits, fit=Fit.SEARCH) for name, bits in weights.items()},
        edit=QuantizedSignals(signals, LeastSquares(), OBSERVED) if signals else None,
        learn=Learn.LATENT,
        training=training,
    )


def signals_of(model: nn.Module) -> list[str]:
    """What the LSTMs of a model take in and give, by layer."""
    found = {path: steppable(module) for path, module in model.named_modules()}
    layers = {path: layer.num_layers for path, layer in found.items() if layer is not None}
    return [
        name for path, n in layers.items() for name in (f"{path}.input_l0", *(f"{path}.hidden_l{k}" for k in range(n)))
    ]


def paper() -> Paper:
    return Paper(
        "fixed-point-rnn",
        REFERENCE,
        "Quantize one group of weights or signals of a recurrent network at a time to see how many bits it needs; give "
        "each group its own, and retrain in float weights behind the quantized ones.",
        (
            Claim(
                "a language model and phoneme recognition",
                "word lengths that minimise the weights' capacity without sacrificing performance",
                "abstract",
            ),
        ),
        ("digits-lstm", "shakespeare-lstm"),
        recipe,
        DEVIATIONS,
    )
