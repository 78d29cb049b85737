"""Perplexity against bits a weight: rounding to nearest, GPTQ and WaterSIC on the transformer of the Shakespeare task.

    FEATHERWEIGHT_DATA=... OMP_NUM_THREADS=1 python benchmarks/language_model.py

The model is what ``benchmarks/language_model_training.py`` leaves. Methods differ in how weights of two dimensions and
embeddings are stored; biases and norms are in bfloat16 for all. Bits are those of the whole file, each of its bytes
counted, over all parameters of the model; files have the same entropy coder for all methods, which rounding and GPTQ
are not published with: ``packed`` is what their weights take at fixed bits with a scale of 16 bits a row. Perplexity
is ``2^bits`` of a character, on the evaluation part of the text. Metrics are measured on the first 64 windows of the
training part. Writes ``results/language-model.json``.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from language_model_training import ROUNDS, trained
from torch import nn

from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import Task, measure
from featherweight.papers import gptq, watersic
from featherweight.result import encode
from featherweight.run import run
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import Fit, PerChannel, Uniform
from featherweight.search.budget import widest_claims
from featherweight.tasks import find
from featherweight.tasks.shakespeare import plain_data

RESULTS = Path(__file__).parent / "results" / "language-model.json"
SIDE = Stage("side", {Sites(("*.bias", "*norm.weight")): Float(Width.BFLOAT16)})
BITS = (2, 3, 4)
PRICES = (3e-6, 1e-6, 3e-7, 1e-7)
WINDOWS = 64


def with_side(recipe: Recipe) -> Recipe:
    """The recipe with its own side stage, if it has one, replaced by one for biases and norms."""
    return replace(recipe, stages=(*(stage for stage in recipe.stages if stage.name != "side"), SIDE))


def recipes() -> Iterator[tuple[str, str, int | None, Recipe]]:
    """(method, setting, fixed bits a weight, recipe)"""
    for bits in BITS:
        for fit in (Fit.RANGE, Fit.SEARCH):
            scheme = Uniform(bits, granularity=PerChannel(), fit=fit)
            yield "round to nearest", f"{bits} bits, {fit.value}", bits, Recipe("rtn", (Stage("r", {WEIGHTS: scheme}),))
    for bits in BITS:
        yield "GPTQ", f"{bits} bits", bits, gptq.recipe(bits=bits)
    for price in PRICES:
        yield "WaterSIC", f"price {price:.0e}", None, watersic.recipe("shakespeare-transformer", price=price)


def packed(model: nn.Module, bits: int) -> float:
    """Bits a parameter at fixed bits, with a scale of 16 bits a row, and 16 bits for all that is no weight."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = sum(p.numel() for p in model.parameters() if p.ndim <= 1)
    return sum(bits * p.numel() + 16 * len(p) for p in weights) / parameters(model) + 16 * others / parameters(model)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def row(model: nn.Module, task: Task, recipe: Recipe) -> dict[str, float]:
    start = time.perf_counter()
    student, _ = run(model, task, recipe)
    seconds = time.perf_counter() - start
    size = len(encode(student, task, recipe, widest_claims(task)))
    coded = measure(student, task.evaluation(), task.quality)
    return {
        "bytes": size,
        "bits": 8 * size / parameters(model),
        "perplexity": 2.0**coded,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    model = trained()
    rows: list[dict[str, Any]] = []
    calibration = partial(plain_data, "train", WINDOWS)
    task = replace(find("shakespeare-transformer"), model=trained, calibration=calibration)
    before = 2.0 ** measure(model, task.evaluation(), task.quality)
    record = {"parameters": parameters(model), "rounds": ROUNDS, "windows": WINDOWS, "float": before, "rows": rows}
    print(f"float: perplexity {before:.4f}\n\n| method | setting | bits | packed | perplexity | seconds |")
    print("|---|---|---|---|---|---|")
    for method, setting, bits, recipe in recipes():
        found = row(model, task, with_side(recipe))
        fixed = None if bits is None else packed(model, bits)
        rows.append({"method": method, "setting": setting, "packed": fixed, **found})
        told = "" if fixed is None else f"{fixed:.3f}"
        print(
            f"| {method} | {setting} | {found['bits']:.3f} | {told} | {found['perplexity']:.4f} | {found['seconds']} |",
            flush=True,
        )
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
