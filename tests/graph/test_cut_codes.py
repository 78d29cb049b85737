"""Pruned then quantized, quantized then pruned: both orders are saved, loaded, exported and run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featherweight import file
from featherweight.activations.least_squares import LeastSquares
from featherweight.activations.rules import Calibrated
from featherweight.core.compressed import Compressed
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import Example, Task
from featherweight.graph.fold import FoldNorms
from featherweight.run import run
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.ternary import Ternary
from featherweight.schemes.uniform import PerChannel, Uniform
from featherweight.search.channels import Narrow

from .zoo import Inverted


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    model, x = Inverted().eval(), torch.rand(16, 3, 8, 8)
    return Task("inverted", Inverted, lambda: model, lambda: Example((x[:2],)), calibration=lambda: [x])


CUT = Stage("cut", edit=Narrow(0.6))
CODED = Stage("code", {"*.weight": Uniform(8, granularity=PerChannel())})
TAPPED = replace(CODED, edit=FoldNorms(), tap=Calibrated(8, LeastSquares()))


@pytest.mark.parametrize("stages", [(CUT, CODED), (CODED, CUT), (CUT, TAPPED)], ids=["cut first", "cut last", "tapped"])
def test_both_orders_end_on_an_engine(task: Task, stages: tuple[Stage, ...], tmp_path: Path) -> None:
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    from featherweight.engines import find
    from featherweight.engines.engine import Settings
    from featherweight.engines.export import export

    student, _ = run(task.model(), task, Recipe("both", stages))
    assert sum(p.numel() for p in student.base.parameters()) < sum(p.numel() for p in task.model().parameters())
    assert student.codes
    loaded, _ = file.load(file.encode(student), Inverted())
    x = torch.rand(3, 3, 8, 8)
    wanted = student(x)
    assert torch.equal(loaded(x), wanted)
    exported = export(loaded, Example((x,)), tmp_path / "both.onnx").file
    (found,) = find("onnxruntime").open(exported.path, Settings()).run([x.numpy()])
    np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_codes_follow_a_cut_or_are_projected_again(task: Task) -> None:
    """Levels and centroids are taken apart; a ternary code is chosen anew for what stays."""
    student = Compressed(task.model()).eval()
    schemes = {
        "wide.0.weight": Uniform(4, granularity=PerChannel()),
        "deep.0.weight": Codebook(8),
        "excite.weight": Ternary(),
    }
    student.encode({name: scheme.project(student.weight(name)) for name, scheme in schemes.items()}, schemes)
    before = {name: student.weight(name).detach().clone() for name in schemes}
    edits = Narrow(0.6, make_up=False).decide(student, task)
    for edit in edits:
        student.edit(edit)
    assert set(student.codes) == set(schemes)
    (cut,) = (edit for edit in edits if edit.identifier == "cut")
    for name in ("wide.0.weight", "deep.0.weight"):
        assert torch.equal(student.weight(name), cut.slice(name, before[name]))  # type: ignore[attr-defined]
    left = cut.slice("excite.weight", before["excite.weight"])  # type: ignore[attr-defined]
    assert torch.equal(student.weight("excite.weight"), Ternary().project(left).decode())
