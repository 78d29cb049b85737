"""Law 6, the last of it: any two families, in either order, export, and ONNX Runtime computes what the student does.

All pairs that begin alike are written as one file with an output each: a file costs more than a network in it.
"""

from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.stage import Recipe
from featherweight.core.task import Example
from featherweight.engines import ENGINES
from featherweight.engines.engine import Settings
from featherweight.engines.integers import deployed
from featherweight.engines.parity import parity
from featherweight.run import run

from .table import FAMILIES
from .test_pairs import CHANGES, INPUTS, net, staged, task

METHODS = (*FAMILIES, "int8 a channel", *CHANGES)


class Together(nn.Module):
    """Several networks on the same input."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(model(images) for model in self.models)


def paired(first: str, second: str) -> Compressed:
    stages = (staged(first, False), staged(second, True))
    student, _ = run(net(), task(), Recipe(f"{first}, {second}", stages))
    return student


@pytest.mark.parametrize("first", METHODS)
def test_every_pair_runs_on_an_engine_as_it_does_here(first: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    seconds = [second for second in METHODS if (first, second) in set(permutations(METHODS, 2))]
    students = [paired(first, second) for second in seconds]
    engine, path = ENGINES["onnxruntime"], tmp_path / "pairs.onnx"
    together = Together([deployed(student) for student in students])
    engine.export(together, Example((INPUTS[:1],)), path)
    outputs = engine.open(path, Settings()).run([INPUTS.numpy()])
    assert len(outputs) == len(students) == len(METHODS) - 1
    for second, student, output in zip(seconds, students, outputs, strict=True):
        with torch.no_grad():
            expected = student(INPUTS).numpy()
        found = parity([[expected]], [[output]])
        if student.sites:  # an engine may round a sum to the other of two levels
            assert found.snr > 25, (second, found)
        else:
            assert found.largest < 1e-5, (second, found)
