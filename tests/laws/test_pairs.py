"""Law 6: any two families, in either order, one after the other or one inside the other, save, load, run and export."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.activations.dynamic import DynamicRanges
from featherweight.activations.quantizers import Sign
from featherweight.activations.rules import Calibrated, LearnedSteps, Signs
from featherweight.core.compressed import Compressed
from featherweight.core.errors import NoEffectError, SchemeError, SelectionError
from featherweight.core.stage import Learn, Recipe, Stage, Training, everywhere
from featherweight.core.tap import TapSite
from featherweight.core.task import Example, Task
from featherweight.engines import ENGINES
from featherweight.engines.engine import Settings
from featherweight.engines.integers import deployed
from featherweight.engines.parity import parity
from featherweight.graph.fold import FoldNorms
from featherweight.run import Coverage, run
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.lowrank import LowRank, Rank
from featherweight.schemes.sparse import Fraction, Sparse

from .table import FAMILIES, TABLE, WEIGHTS
from .test_files import same

INPUTS = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.conv(images)).relu()
        logits: Tensor = self.head(maps.flatten(1))
        return logits


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Net()
        made.norm.running_mean.normal_()
        made.norm.running_var.uniform_(0.5, 2)
        made.norm.weight.data.copy_(torch.tensor([0.5, -0.7, 1.2, 0.9]))
        return made


def task() -> Task:
    labels = torch.arange(8) % 4
    return Task(
        name="pairs",
        architecture=Net,
        model=net,
        example=lambda: Example((INPUTS[:1],)),
        train=lambda: [(INPUTS[:4], labels[:4]), (INPUTS[4:], labels[4:])],
        loss=lambda outputs, batch: nn.functional.cross_entropy(outputs, batch[1]),
    )


def check(student: Compressed) -> None:
    """The file's model, the working model and the finished model give the same outputs to the last bit."""
    data = file.encode(student)
    loaded, _ = file.load(data, Net())
    with torch.no_grad():
        outputs = student(INPUTS)
        assert same(loaded(INPUTS), outputs)
        assert same(student.finished()(INPUTS), outputs)
    assert file.encode(loaded) == data


LEARNED = [(*pair, mode) for pair, mode in zip(permutations(FAMILIES, 2), cycle(Learn), strict=False)]
"""Every pair with one of the ways to learn."""


@pytest.mark.parametrize("first, second, learn", LEARNED)
def test_one_after_the_other(first: str, second: str, learn: Learn) -> None:
    stages = tuple(
        everywhere(name, TABLE[name].scheme, learn=learn, training=Training(1, 1e-2)) for name in (first, second)
    )
    student, coverage = run(net(), task(), Recipe(f"{first}, {second}", stages))
    assert [stage.touched.keys() for stage in coverage] == [{"conv.weight", "head.weight"}] * 2
    assert {type(code) for code in student.codes.values()} == {kind(second)}
    check(student)


def kind(name: str) -> type:
    return type(TABLE[name].scheme.project(WEIGHTS["normal"]))


@pytest.mark.parametrize("outer", [Sparse(Fraction(0.5)), LowRank(Rank(2))], ids=["sparse", "low rank"])
@pytest.mark.parametrize("inner", [name for name in FAMILIES if TABLE[name].takes(torch.zeros(5))])
@pytest.mark.parametrize("deep", [False, True])
def test_one_inside_the_other(outer: Sparse | LowRank, inner: str, deep: bool) -> None:
    scheme = TABLE[inner].scheme
    nested = outer.then(Sparse(Fraction(0.3)).then(scheme) if deep else scheme)
    student, _ = run(net(), task(), Recipe("nested", (everywhere("nested", nested),)))
    check(student)


CHANGES: dict[str, dict[str, Any]] = {
    "int8 activations": {"tap": Calibrated(8)},
    "dynamic activations": {"tap": DynamicRanges()},
    "learned steps": {"tap": LearnedSteps(bits=4)},
    "signs": {"tap": Signs(("head",))},
    "folded norms": {"edit": FoldNorms(required=True)},
}
"""What is no code: activations that are sent through functions, and edits."""
METHODS = (*FAMILIES, "int8 a channel", *CHANGES)
"""And a code that follows a fold."""
TRAINED = dict(zip(permutations(METHODS, 2), cycle(((False, False), (True, True), (False, True))), strict=False))
"""Every ordered pair, and which of the two learn."""


def staged(name: str, learn: bool) -> Stage:
    training = Training(1, 1e-2) if learn else None
    if name in CHANGES:
        return Stage(name, training=training, **CHANGES[name])
    return everywhere(name, TABLE[name].scheme, training=training)


@dataclass(frozen=True)
class Made:
    first: str
    second: str
    student: Compressed
    coverage: Sequence[Coverage]


@pytest.fixture(scope="module", params=METHODS)
def pairs(request: pytest.FixtureRequest) -> list[Made]:
    """A method, and each of the others after it."""
    made = []
    for (first, second), learn in TRAINED.items():
        if first == request.param:
            stages = (staged(first, learn[0]), staged(second, learn[1]))
            made.append(Made(first, second, *run(net(), task(), Recipe(f"{first}, {second}", stages))))
    return made


def test_changes_before_and_after(pairs: list[Made]) -> None:
    """A code that cannot follow an edit is dropped; all else is there at the end."""
    assert len(pairs) == len(METHODS) - 1
    for made in pairs:
        both, student = (made.first, made.second), made.student
        assert all(bool(done.changes) is (done.stage in CHANGES) for done in made.coverage), both
        folded, tapped = "folded norms" in both, bool({*both} & CHANGES.keys() - {"folded norms"})
        assert isinstance(student.base.norm, nn.Identity) is folded and bool(student.sites) is tapped, both
        coded = {"conv.weight", "head.weight"} if {*both} - CHANGES.keys() else set()
        if made.second == "folded norms" and made.first != "int8 a channel":
            coded -= {"conv.weight"}
        assert set(student.codes) == coded, both
        last = next((name for name in reversed(both) if name not in CHANGES), None)
        assert {type(code) for code in student.codes.values()} <= ({kind(last)} if last else set()), both
        if tapped:
            plain = copy.deepcopy(student)
            plain.tap([TapSite(place, Same()) for place in student.sites])
            assert not same(plain(INPUTS), student(INPUTS)), both
        check(student)


class Together(nn.Module):
    """Several networks on the same input."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(model(images) for model in self.models)


def test_every_pair_runs_on_an_engine_as_it_does_here(pairs: list[Made], tmp_path: Path) -> None:
    """As one file with an output each: a file costs more than a network in it."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    engine, path = ENGINES["onnxruntime"], tmp_path / "pairs.onnx"
    engine.export(Together([deployed(made.student) for made in pairs]), Example((INPUTS[:1],)), path)
    outputs = engine.open(path, Settings()).run([INPUTS.numpy()])
    for made, output in zip(pairs, outputs, strict=True):
        with torch.no_grad():
            expected = made.student(INPUTS).numpy()
        found = parity([[expected]], [[output]])
        if made.student.sites:  # an engine may round a sum to the other of two levels
            assert found.snr > 25, (made.second, found)
        else:
            assert found.largest < 1e-5, (made.second, found)


class Same(Sign):
    """Nothing is done to the activation."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_three_in_every_order() -> None:
    for names in permutations(("nine in ten zero", "int8 activations", "folded norms")):
        student, _ = run(net(), task(), Recipe(", ".join(names), tuple(staged(name, True) for name in names)))
        assert student.sites and student.edits
        check(student)


def test_norms_are_folded_once() -> None:
    with pytest.raises(SelectionError, match="no batch norm follows"):
        run(net(), task(), Recipe("twice", (staged("folded norms", False), staged("folded norms", False))))


def test_survivors_are_no_matrix() -> None:
    with pytest.raises(SchemeError, match="conv.weight: .*no matrix"):
        run(net(), task(), Recipe("nested", (everywhere("nested", Sparse(Fraction(0.5)).then(LowRank(Rank(1)))),)))


def test_the_same_twice_has_no_effect_the_second_time() -> None:
    twice = replace(everywhere("once", Float(Width.FLOAT16)), name="twice")
    with pytest.raises(NoEffectError, match="'twice'"):
        run(net(), task(), Recipe("twice", (everywhere("once", Float(Width.FLOAT16)), twice)))
