"""NoiseOut: a simple way to prune neural networks (Babaeizadeh, Smaragdis and Campbell 2016)."""

from featherweight.channels.redundancy import ActivationCorrelation
from featherweight.channels.rules import CutShare, MadeUp
from featherweight.channels.scores import Only
from featherweight.channels.standins import Nearest
from featherweight.core.stage import Recipe, Reference, Stage, Training
from featherweight.papers.paper import Claim, Paper

REFERENCE = Reference(
    "A Simple yet Effective Method to Prune Dense Layers of Neural Networks",
    "Babaeizadeh, Smaragdis and Campbell",
    2016,
    "1611.06211",
)
DEVIATIONS = (
    "no outputs that learn noise, whose gradients would correlate neurons further",
    "a given share of each dense layer in a few rounds, instead of one neuron after another while accuracy holds",
)
DENSE = {"mnist-lenet5": ("fc*",), "digits": ("fc*",)}


def recipe(task: str = "", *, share: float = 0.75, rounds: int = 4, epochs: int = 3) -> Recipe:
    """Fold neurons of dense layers into those that they correlate with, until ``share`` has gone, and train."""
    score = ActivationCorrelation()
    cut = CutShare(1 - (1 - share) ** (1 / rounds), Only(score, DENSE.get(task, ("*",))))
    training = Training(epochs, 1e-3)
    stages = [
        Stage(f"fold {number}", edit=MadeUp(cut, Nearest(score)), training=training) for number in range(1, rounds + 1)
    ]
    return Recipe("noiseout", tuple(stages), REFERENCE, DEVIATIONS)


def paper() -> Paper:
    return Paper(
        "noiseout",
        REFERENCE,
        "Of two neurons whose activations correlate one can go: it is a line in the other, whose slope goes into the "
        "outgoing weights and whose offset goes into the bias.",
        (
            Claim(
                "LeNet-300-100 and LeNet-5, MNIST", "about 95 % of the parameters at equal accuracy", "memory, unsure"
            ),
        ),
        ("mnist-lenet300", "mnist-lenet5", "digits"),
        recipe,
        DEVIATIONS,
    )
