"""Few bits in recurrent networks: which group minds them, and whether balanced bins are better than even steps.

    OMP_NUM_THREADS=1 python benchmarks/recurrent.py [--characters] [--epochs 10] [--json FILE]

On digits read row by row; with ``--characters`` on tiny Shakespeare (FEATHERWEIGHT_DATA), by an LSTM of one layer of
64 that is trained here for two rounds of the text, measured on parts of it, and with short learning: a hundred batches
an epoch.

First the loss of quality when one group of weights or signals alone is quantized, without learning (Shin, Hwang and
Sung 2015). Then all matrices at 2, 3 and 4 bits with hidden states of a bit more, learned for the same time from the
same network: bins of equal population (He et al. 2016), odd levels over the range, and the same with the best of 80
ranges in squared error. One run, one seed.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featherweight import file
from featherweight.architectures.characters import CharacterLSTM
from featherweight.core.scheme import Scheme
from featherweight.core.site import WEIGHTS, select
from featherweight.core.stage import Recipe
from featherweight.core.task import Data, Task, measure
from featherweight.papers import balanced_quantization_rnn, fixed_point_rnn
from featherweight.run import run
from featherweight.schemes.balanced import Balanced
from featherweight.schemes.uniform import Fit, Uniform
from featherweight.tasks import find
from featherweight.tasks.shakespeare import LSTM, loss, plain_data, training_data
from featherweight.tasks.training import train_baseline

BITS = (2, 3, 4)
BATCHES, WINDOWS = 100, 100
"""Of an epoch of learning, and of each part that is measured, of characters."""
SMALL = partial(CharacterLSTM, embedded=32, width=64, layers=1, dropout=0.0)


@dataclass(frozen=True)
class Beginning:
    """The first batches of a round of training data."""

    data: Data
    batches: int

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Any]:
        return (batch for batch, _ in zip(self.data, range(self.batches), strict=False))


@cache
def small_lstm() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SMALL()
        train_baseline(model, training_data(32), replace(LSTM, epochs=2, learning_rate=5e-3), "small LSTM", loss)
    return model.eval()


def characters() -> Task:
    return replace(
        find("shakespeare-lstm"),
        name="characters, small LSTM",
        architecture=SMALL,
        model=small_lstm,
        train=lambda: Beginning(training_data(32), BATCHES),
        selection=partial(plain_data, "selection", WINDOWS),
        evaluation=partial(plain_data, "evaluation", WINDOWS),
        calibration=partial(plain_data, "train", 64),
        number=None,
    )


def sensitivities(model: nn.Module, task: Task) -> Iterator[dict[str, Any]]:
    """The loss of quality on the selection part of each group alone."""
    assert task.selection is not None
    before = measure(model, task.selection(), task.quality)
    groups = [(name, fixed_point_rnn.weight_alone) for name in select(model, WEIGHTS)]
    groups += [(name, fixed_point_rnn.signal_alone) for name in fixed_point_rnn.signals_of(model)]
    for name, alone in groups:
        row: dict[str, Any] = {"group": name}
        for bits in BITS:
            student, _ = run(model, task, alone(name, bits))
            row[str(bits)] = round(task.quality.drop(before, measure(student, task.selection(), task.quality)), 3)
        yield row


def quantizers(bits: int) -> dict[str, Scheme]:
    odd = Uniform(bits, odd=True)
    return {"balanced": Balanced(bits), "even": odd, "even, searched": replace(odd, fit=Fit.SEARCH)}


def learned(model: nn.Module, task: Task, epochs: int) -> Iterator[dict[str, Any]]:
    assert task.evaluation is not None
    for bits in BITS:
        recipe = balanced_quantization_rnn.recipe(weights=bits, states=bits + 1, epochs=epochs)
        for name, scheme in quantizers(bits).items():
            first, *rest = recipe.stages
            stages = (replace(first, schemes={WEIGHTS: scheme}), *rest)
            student, _ = run(model, task, Recipe(name, stages))
            quality = round(measure(student, task.evaluation(), task.quality), 3)
            yield {"bits": bits, "weights": name, "quality": quality, "bytes": len(file.encode(student))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--characters", action="store_true")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    task = characters() if arguments.characters else find("digits-lstm")
    model = task.model()
    assert task.evaluation is not None
    float_quality = round(measure(model, task.evaluation(), task.quality), 3)
    found: dict[str, Any] = {"task": task.name, "unit": task.quality.unit, "float": float_quality}
    print(found, flush=True)
    for part, rows in (("alone", sensitivities(model, task)), ("learned", learned(model, task, arguments.epochs))):
        found[part] = []
        for row in rows:
            found[part].append(row)
            print(row, flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
