"""Law 6, its end: any two families, in either order, are exported, and the engine computes what the student computes.

One network with a branch a pair holds many pairs, so that one file shows them all.
"""

from collections.abc import Callable, Mapping
from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.scheme import Scheme
from featherweight.core.site import Sites
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import Example, Task
from featherweight.engines import ENGINES
from featherweight.engines.engine import Settings
from featherweight.engines.export import export
from featherweight.run import run

from .table import FAMILIES, TABLE
from .test_pairs import CHANGES, INPUTS, Net

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

CODES = (*FAMILIES, "int8 a channel")
PAIRS = list(permutations(CODES, 2))
QUANTIZING = {"int8 activations", "learned steps", "signs"}


class Branches(nn.Module):
    """Several networks side by side: ``[n, 4, 6, 6]`` -> ``[n, branches · 4]``."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(Net() for _ in range(count))

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([each(images) for each in self.nets], 1)


def branches(count: int) -> Branches:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Branches(count)
        for each in made.nets:
            each.norm.running_mean.normal_()
            each.norm.running_var.uniform_(0.5, 2)
    return made.eval()


def task(count: int) -> Task:
    build: Callable[[], nn.Module] = lambda: branches(count)  # noqa: E731
    return Task(
        name="branches",
        architecture=build,
        model=build,
        example=lambda: Example((INPUTS[:1],)),
        calibration=lambda: [INPUTS],
    )


def on_branches(names: tuple[str, ...]) -> Mapping[str | Sites, Scheme]:
    """One family a branch."""
    return {Sites((f"nets.{i}.*",), min_dims=2): TABLE[name].scheme for i, name in enumerate(names)}


def change(name: str) -> Stage:
    settings = dict(CHANGES[name])
    if name == "signs":
        settings["tap"] = type(settings["tap"])(("*head",))
    return Stage(name, **settings)


def check(student: Compressed, path: Path, exact: bool) -> None:
    """To rounding; where the engine multiplies integers and rounds its biases too, to levels that tip over."""
    export(student, Example((INPUTS[:1],)), path)
    found = torch.from_numpy(ENGINES["onnxruntime"].open(path, Settings()).run([INPUTS.numpy()])[0])
    with torch.no_grad():
        wanted = student(INPUTS)
    error = float((found - wanted).abs().max() / wanted.abs().max())
    assert error < (1e-5 if exact else 0.03)


def test_one_code_after_another(tmp_path: Path) -> None:
    firsts, seconds = zip(*PAIRS, strict=True)
    stages = (Stage("first", on_branches(firsts)), Stage("second", on_branches(seconds)))
    student, _ = run(branches(len(PAIRS)), task(len(PAIRS)), Recipe("pairs", stages))
    check(student, tmp_path / "m.onnx", exact=True)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("last", [False, True])
def test_a_change_before_and_after_every_code(name: str, last: bool, tmp_path: Path) -> None:
    coded = Stage("codes", on_branches(CODES))
    stages = (coded, change(name)) if last else (change(name), coded)
    student, _ = run(branches(len(CODES)), task(len(CODES)), Recipe("pairs", stages))
    check(student, tmp_path / "m.onnx", exact=name not in QUANTIZING)


@pytest.mark.parametrize("first, second", list(permutations(CHANGES, 2)))
def test_one_change_after_another(first: str, second: str, tmp_path: Path) -> None:
    student, _ = run(branches(1), task(1), Recipe("pairs", (change(first), change(second))))
    check(student, tmp_path / "m.onnx", exact=not {first, second} & QUANTIZING)
