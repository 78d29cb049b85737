"""Noise at a network's outputs, predicted from bits and measured: rounded weights, activations, both, and truncated.

    python benchmarks/noise.py [TASK ...] [--samples 1000] [--json FILE]

Gains and ranges are taken from calibration data; noise is measured on the first evaluation samples, against the float
model with its norms folded. All in dB of signal over noise, ``E‖f‖² / E‖Δf‖²``. ``chosen`` are the bits that the model
takes for a wanted ratio, half of the noise for weights, as the recipe ``finite-precision-error-analysis`` does, and
what they give. Needs the data.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featherweight.activations.noise import activation_noise, noisy_places
from featherweight.activations.quantizers import Quantizer
from featherweight.activations.rules import Calibrated
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.site import WEIGHTS, select
from featherweight.core.tap import TapSite, watching
from featherweight.core.task import Task
from featherweight.graph.fold import FoldNorms
from featherweight.metrics.noise import NoiseGain, activation_gains, decibels, relative_noise, truncation_mean
from featherweight.schemes.allocated import WithinNoise, rounding_noise
from featherweight.schemes.uniform import PerChannel, Uniform, UniformCode, blocks, unblocked
from featherweight.tasks import find

TASKS = ("mnist-lenet300", "cifar10-resnet20")
PAIRS = ((8, 8), (7, 7), (6, 6), (5, 5), (4, 4), (8, 6), (8, 5), (6, 8), (5, 8), (7, 5))
"""Bits of weights and of activations."""
BEYOND = ((3, 3), (2, 2))
"""So few that errors are no small ones."""
WANTED = (10.0, 20.0, 30.0)
BATCHES = 2
RULE = Calibrated(batches=BATCHES)


def folded(task: Task) -> Compressed:
    student, rule = Compressed(task.model()).eval(), FoldNorms()
    edits = rule.decide(student, task)
    values = rule.values(student, edits, task)
    for edit in edits:
        student.edit(edit)
    for name, value in values.items():
        student.renew(name, value)
    return student.eval()


class Network:
    """A float network, its gains, and samples to measure it on."""

    def __init__(self, task: Task, samples: int) -> None:
        self.task, self.student = task, folded(task)
        self.names = list(select(self.student.base, WEIGHTS))
        self.gains = NoiseGain(BATCHES).measure(self.student, self.names, task)
        self.places = noisy_places(RULE, self.student, task)
        self.activations = activation_gains(self.student, task, self.places, BATCHES)
        assert task.evaluation is not None
        self.inputs = torch.cat([batch[0] for batch in task.evaluation()])[:samples]
        with torch.no_grad():
            self.exact = self.student(self.inputs)

    @cache  # noqa: B019  # there are two networks
    def codes(self, bits: int) -> dict[str, UniformCode]:
        scheme = Uniform(bits, granularity=PerChannel())
        return {name: scheme.project(self.student.weight(name)) for name in self.names}

    @cache  # noqa: B019
    def taps(self, bits: int) -> list[TapSite]:
        return list(replace(RULE, bits=bits).taps(self.student, self.task))

    def predicted(self, codes: Mapping[str, UniformCode], taps: list[TapSite]) -> float:
        weights = sum(rounding_noise(c, self.student.weight(n), self.gains[n]) for n, c in codes.items())
        return weights + (activation_noise(taps, self.activations) if taps else 0.0)

    def means(self, codes: Mapping[str, UniformCode], taps: list[TapSite]) -> float:
        """What truncation adds to it."""
        places = {site.place: float(site.function.scale) for site in taps if isinstance(site.function, Quantizer)}
        steps = {name: step_of(code) for name, code in codes.items()}
        return truncation_mean(self.student, self.task, steps, places, batches=1)

    @torch.no_grad()
    def measured(self, codes: Mapping[str, UniformCode], taps: list[TapSite], truncate: bool = False) -> float:
        """The relative noise, of rounded or of truncated numbers."""
        steps = {site.place: site.function for site in taps}
        weights = {name: self.student.weight(name) for name in self.student.names}
        for name, code in codes.items():
            step = step_of(code)
            weights[name] = truncated(weights[name], step) if truncate else code.decode()

        def shown(place: Any, x: Tensor) -> Tensor:
            function = steps[place]
            assert isinstance(function, Quantizer)
            return truncated(x, function.scale) if truncate else function(x)

        with watching(self.student.base, shown, list(steps)):
            found = torch.func.functional_call(self.student.base, weights, (self.inputs,))
        return float((found - self.exact).square().sum() / self.exact.square().sum())


def step_of(code: UniformCode) -> Tensor:
    """The step of each weight, of the weight's shape."""
    ones = torch.ones(code.shape)
    return unblocked(
        blocks(ones, code.granularity) * code.scales.decode()[:, None], tuple(code.shape), code.granularity
    )


def truncated(x: Tensor, step: Tensor) -> Tensor:
    return torch.floor(x / step) * step


def row(predicted: float, measured: float) -> dict[str, float]:
    found = {"predicted": decibels(predicted), "measured": decibels(measured)}
    return {key: round(value, 2) for key, value in (found | {"apart": found["measured"] - found["predicted"]}).items()}


def rows(network: Network, weights: int, activations: int) -> dict[str, Any]:
    codes, taps = network.codes(weights), network.taps(activations)
    sides = {"weights": (codes, []), "activations": ({}, taps), "both": (codes, taps)}
    found: dict[str, Any] = {"bits": [weights, activations]}
    for name, (c, t) in sides.items():
        found[name] = row(network.predicted(c, t), network.measured(c, t))
    if weights == activations:
        predicted = network.predicted(codes, taps) + network.means(codes, taps)
        found["truncated"] = row(predicted, network.measured(codes, taps, truncate=True))
    return found


def chosen(network: Network, snr: float) -> dict[str, Any]:
    half = relative_noise(snr) / 2
    weights = {name: network.student.weight(name) for name in network.names}
    try:
        bits = WithinNoise(half).bits(weights, network.gains)[network.names[0]]
        able = [b for b in range(2, 9) if activation_noise(network.taps(b), network.activations) <= half]
    except SchemeError as error:
        return {"wanted": snr, "refused": str(error)}
    if not able:
        return {"wanted": snr, "refused": "8 bits of activations leave more noise"}
    noise = network.measured(network.codes(bits), network.taps(able[0]))
    return {"wanted": snr, "bits": [bits, able[0]], "measured": round(decibels(noise), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {}
    for name in options.tasks:
        network = Network(find(name), options.samples)
        record[name] = found = {
            "widths": [rows(network, *pair) for pair in PAIRS],
            "beyond": [rows(network, *pair) for pair in BEYOND],
            "chosen": [chosen(network, snr) for snr in WANTED],
        }
        apart = [abs(each["both"]["apart"]) for each in found["widths"]]
        print(name, f"at most {max(apart)} dB apart at {len(apart)} widths")
        for each in (*found["widths"], *found["beyond"], *found["chosen"]):
            print(" ", json.dumps(each), flush=True)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
