"""ExecuTorch: what XNNPACK makes of our integers, and what is said where it cannot."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import EngineError
from featherweight.core.task import ACCURACY, Example, Task
from featherweight.engines import ENGINES
from featherweight.engines.engine import Precision, Settings
from featherweight.engines.executorch import MOST
from featherweight.engines.export import export
from featherweight.engines.parity import parity
from featherweight.run import run
from featherweight.search.precision import post_training
from featherweight.tasks import find
from featherweight.tasks.digits import digits

Files = dict[str, tuple[Compressed, Path]]
EXECUTORCH = ENGINES["executorch"]


@pytest.fixture(scope="module")
def files(digits_model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The digits network in floats and with its integers."""
    pytest.importorskip("executorch")
    task, folder = find("digits"), tmp_path_factory.mktemp("executorch")
    student, _ = run(digits_model, task, post_training(8, 8))
    made = {"float": Compressed(digits_model).eval(), "int8": student.eval()}
    for name, model in made.items():
        written = export(model, task.example(), folder / f"{name}.pte").file
        assert written.any_batch and written.most == MOST.batch
    return {name: (model, folder / f"{name}.pte") for name, model in made.items()}


@pytest.mark.parametrize(("name", "largest"), [("float", 1e-3), ("int8", 0.02)])
@pytest.mark.parametrize("batch", [1, MOST.batch])
def test_outputs_are_the_models(files: Files, name: str, largest: float, batch: int) -> None:
    model, path = files[name]
    x = digits("selection")[0][:300]
    runner = EXECUTORCH.open(path, Settings())
    with torch.no_grad():
        reference = [[model(part).numpy()] for part in x.split(batch)]
    outputs = [runner.run([part.numpy()]) for part in x.split(batch)]
    found = parity(reference, outputs)
    assert found.largest < largest and found.agreement is not None and found.agreement >= 0.98, found


def test_xnnpack_holds_every_layer_as_integers(files: Files) -> None:
    """Nothing but shapes and the ends of a range is left to portable kernels, and a weight has a byte in XNNPACK's."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    data = files["int8"][1].read_bytes()
    (plan,) = deserialize_pte_binary(data).program.execution_plan
    assert {each.id for each in plan.delegates} == {"XnnpackBackend"}
    portable = {"aten::sym_size", "aten::view_copy", "executorch_prim::et_view", "aten::expand_copy"}
    assert {each.name for each in plan.operators} <= portable
    weights = sum(x.numel() for x in files["int8"][0].base.parameters())
    assert len(data) < 1.25 * weights < 0.32 * files["float"][1].stat().st_size


class Perceptron(nn.Module):
    """Two linear layers beside a shortcut: what neither gives becomes levels at once."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(96, 32)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.outer(nn.functional.gelu(self.inner(self.norm(x))))
        return y


@pytest.mark.parametrize("bits", [8, 4])
def test_layers_whose_results_stay_floats_compute_with_the_levels_that_they_are_given(
    bits: int, tmp_path: Path
) -> None:
    """Though XNNPACK finds the range of each row anew, of which one may be all zeros."""
    pytest.importorskip("executorch")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Perceptron().eval(), 3 * torch.randn(6, 5, 32)
    x[0, 0] = 0
    example = Example((x[:2],))
    task = Task(
        "perceptron", Perceptron, model=lambda: model, example=lambda: example, quality=ACCURACY,
        calibration=lambda: [(x, torch.zeros(6))],
    )  # fmt: skip
    student, _ = run(model, task, post_training(bits, bits))
    export(student.eval(), example, tmp_path / "m.pte")
    with torch.no_grad():
        expected = student(x).numpy()
    found = parity([[expected]], [EXECUTORCH.open(tmp_path / "m.pte", Settings()).run([x.numpy()])])
    assert found.largest < 1e-5, found


def test_larger_batches_are_refused(files: Files) -> None:
    with pytest.raises(EngineError, match=rf"takes at most \({MOST.batch}, 1, 8, 8\)"):
        EXECUTORCH.open(files["float"][1], Settings()).run([np.zeros((MOST.batch + 1, 1, 8, 8), np.float32)])


def test_threads_are_the_processes(files: Files) -> None:
    from executorch.extension.pybindings import portable_lib

    path = files["float"][1]
    held = EXECUTORCH.open(path, Settings(threads=2))
    assert portable_lib._threadpool_get_thread_count() == 2
    with pytest.raises(EngineError, match="open each in a process of its own"):
        EXECUTORCH.open(path, Settings(threads=1))
    del held
    EXECUTORCH.open(path, Settings(threads=1))
    assert portable_lib._threadpool_get_thread_count() == 1


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x)


def test_an_operator_without_a_kernel_is_named(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    with pytest.raises(EngineError, match=r"linalg_inv.*export \.onnx"):
        EXECUTORCH.export(Odd(), Example((torch.eye(3)[None],)), tmp_path / "m.pte")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_runtime_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("executorch.exir", "executorch.extension.pybindings.portable_lib"):
        monkeypatch.setitem(sys.modules, module, None)
    for call in (
        lambda: EXECUTORCH.open(tmp_path / "m.pte", Settings()),
        lambda: EXECUTORCH.export(nn.Linear(3, 2), Example((torch.zeros(2, 3),)), tmp_path / "m.pte"),
        EXECUTORCH.version,
    ):
        with pytest.raises(EngineError, match=r"pip install 'featherweight\[executorch\]'"):
            call()


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    (tmp_path / "m.pte").write_bytes(b"no such file")
    with pytest.raises(EngineError, match="ExecuTorch cannot open"):
        EXECUTORCH.open(tmp_path / "m.pte", Settings())


def test_bfloat16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="executorch does not compute in bfloat16 here"):
        EXECUTORCH.open(tmp_path / "none.pte", Settings(precision=Precision.BFLOAT16))
