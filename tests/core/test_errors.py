"""Bad input: an error of ours that names the thing and the next step, and no file left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import featherweight as fw
from featherweight.core.compressed import Compressed
from featherweight.core.errors import (
    BudgetError,
    FeatherweightError,
    FormatError,
    NoEffectError,
    SchemeError,
    SelectionError,
    TaskError,
)
from featherweight.core.stage import Cubic, TapRule
from featherweight.core.tap import Call, Operator, Place, StoredFunction, TapSite
from featherweight.metrics.diagonal import Curvature, Fisher
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.lowrank import LowRank, Rank
from featherweight.schemes.sparse import Dropping, Fraction, Halves, Magnitude, Scope, Sparse, Surgery
from featherweight.schemes.uniform import PerChannel, PerGroup, Uniform

from .models import images, made

X = images(4, 6)


def one(scheme: Any, sites: Any = fw.WEIGHTS, **settings: Any) -> fw.Recipe:
    return fw.Recipe("mine", (fw.Stage("only", {sites: scheme}, **settings),))


def broken(change: Callable[[Any], None]) -> nn.Module:
    model = made("linear")[0]
    with torch.no_grad():
        change(model)
    return model


def spoilt(value: float) -> nn.Module:
    return broken(lambda model: model[0].weight[0, :2].fill_(value))


def with_parameter(tensor: Tensor) -> nn.Module:
    model = made("linear")[0]
    model.extra = nn.Parameter(tensor, requires_grad=False)
    return model


def plain() -> nn.Module:
    return made("linear")[0]


def nans(outputs: Tensor, batch: Any) -> Tensor:
    return outputs.sum() * float("nan")


TRAINING = fw.Training(1, 1e-3)
WHERE = "stage 'only' of recipe 'mine': "

CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], type[FeatherweightError], str]] = {
    "a wrong name": (
        plain,
        {"recipe": one(Codebook(2), "1.weight")},
        SelectionError,
        WHERE + "no .*for example 2.weight, 0.weight",
    ),
    "nothing left": (plain, {"recipe": one(Codebook(2), fw.Sites(("*",), ("*",)))}, SelectionError, "matches"),
    "no effect": (plain, {"recipe": one(Float())}, NoEffectError, WHERE + "nothing changed: all of 0.weight, 2.weight"),
    "no effect of training": (
        plain,
        {"recipe": one(Float(), training=fw.Training(0)), "train": [(X, X)], "loss": nans},
        NoEffectError,
        "nothing changed",
    ),
    "a stage without anything": (plain, {"recipe": fw.Recipe("mine", (fw.Stage("only"),))}, NoEffectError, "no sites"),
    "not a number": (
        lambda: spoilt(float("nan")),
        {"recipe": one(Codebook(2))},
        SchemeError,
        "0.weight: 2 of 24 .*not finite",
    ),
    "infinite": (
        lambda: spoilt(float("inf")),
        {"recipe": one(Uniform())},
        SchemeError,
        "0.weight: 2 of 24 .*not finite",
    ),
    "infinite, everywhere": (
        lambda: spoilt(float("inf")),
        {"recipe": one(Sparse(Fraction(0.5), scope=Scope.GLOBAL))},
        SchemeError,
        "0.weight: 2 of 24 .*not finite",
    ),
    "integers": (
        lambda: with_parameter(torch.zeros(2, 2, dtype=torch.int64)),
        {"recipe": one(Codebook(2))},
        SchemeError,
        "extra: a torch.int64 tensor of shape .2, 2. is not a weight; exclude it",
    ),
    "integers, measured": (
        lambda: with_parameter(torch.zeros(2, 2, dtype=torch.int64)),
        {"recipe": one(Codebook(2), metric=Curvature()), "calibration": [X]},
        SchemeError,
        "extra: a torch.int64 tensor",
    ),
    "empty": (
        lambda: with_parameter(torch.zeros(0, 2)),
        {"recipe": one(Uniform(4))},
        SchemeError,
        "extra: the tensor of shape .0, 2. is empty; exclude it",
    ),
    "a group that does not divide": (
        plain,
        {"recipe": one(Uniform(4, True, PerGroup(4)))},
        SchemeError,
        "0.weight: a group size of 4 does not divide rows of 6 entries .*use a divisor, or PerChannel",
    ),
    "no such axis": (
        plain,
        {"recipe": one(Uniform(4, True, PerChannel(1)), "*.bias")},
        SchemeError,
        "0.bias: there is no axis 1 in shape .4,.; use PerTensor",
    ),
    "no matrix": (plain, {"recipe": one(LowRank(Rank(1)), "*.bias")}, SchemeError, "0.bias: .* is no matrix"),
    "low rank in a metric": (
        plain,
        {"recipe": one(LowRank(Rank(1)), metric=Curvature()), "calibration": [X]},
        SchemeError,
        "Euclidean metric only",
    ),
    "overflow": (
        lambda: spoilt(1e6),
        {"recipe": one(Float(Width.FLOAT16))},
        SchemeError,
        "overflows float16; use BFLOAT16",
    ),
    "no gradual form": (
        plain,
        {
            "recipe": one(Uniform(4), schedule=Cubic(1, initial=0.5), training=TRAINING),
            "train": [(X, X)] * 9,
            "loss": nans,
        },
        SchemeError,
        "no gradual form; use the one-shot schedule",
    ),
    "training without data": (
        plain,
        {"recipe": one(Codebook(2), training=TRAINING)},
        TaskError,
        "'only' trains, and task 'Sequential' has no training data with a loss; give both, or",
    ),
    "training data without length": (
        plain,
        {"recipe": one(Codebook(2), training=TRAINING), "train": (batch for batch in [(X, X)]), "loss": nans},
        TaskError,
        "needs a length in batches",
    ),
    "training data without loss": (plain, {"recipe": one(Codebook(2)), "train": [X]}, TaskError, "no `loss`"),
    "no training batch": (
        plain,
        {"recipe": one(Codebook(2), training=TRAINING), "train": [], "loss": nans},
        TaskError,
        "training data .*holds no batch",
    ),
    "a loss that is no number": (
        plain,
        {"recipe": one(Codebook(2), training=TRAINING), "train": [(X, X)], "loss": nans},
        TaskError,
        "the loss became nan; lower the learning rate",
    ),
    "a metric without data": (
        plain,
        {"recipe": one(Codebook(2), metric=Curvature())},
        TaskError,
        "neither calibration nor training data; give one",
    ),
    "a metric without loss": (
        plain,
        {"recipe": one(Codebook(2), metric=Fisher()), "calibration": [X]},
        TaskError,
        "needs a loss.*use Curvature",
    ),
    "over budget": (
        plain,
        {"recipe": one(Codebook(2)), "budget": fw.Budget(size=10)},
        BudgetError,
        "the file takes .* bytes, over the limit of 10; loosen",
    ),
    "a budget out of reach": (
        plain,
        {"budget": fw.Budget(size=10)},
        BudgetError,
        "no trial met 10 bytes; the nearest has .*Loosen",
    ),
    "neither budget nor recipe": (plain, {}, BudgetError, "give a recipe, or a budget"),
    "an empty budget": (plain, {"budget": fw.Budget()}, BudgetError, "give a limit"),
    "a checkpoint of a search": (
        plain,
        {"budget": fw.Budget(size=10**6), "checkpoint": "here"},
        BudgetError,
        "no checkpoint",
    ),
    "state that no file holds": (
        lambda: with_parameter(torch.zeros(2, 2, dtype=torch.complex64)),
        {"recipe": one(Codebook(2), "?.weight")},
        FormatError,
        "'extra' of the state is torch.complex64, which a .fwt file cannot hold",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, arguments, kind, said = CASES[case]
    monkeypatch.chdir(tmp_path)
    model = build()
    with pytest.raises(FeatherweightError, match=said) as raised:
        result = fw.compress(model, example=X, **arguments)
        result.save(tmp_path / "model.fwt")
    assert raised.type is kind
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("example", [None, 3, "text"])
def test_an_example_is_needed(example: Any) -> None:
    with pytest.raises(TaskError, match="give an `example`"):
        fw.compress(plain(), one(Codebook(2)), example=example)


def test_a_task_holds_its_own_data() -> None:
    task = fw.Task("mine", plain, plain, lambda: fw.Example((X,)))
    with pytest.raises(TaskError, match="a Task holds its own data"):
        fw.compress(task, one(Codebook(2)), calibration=[X])
    with pytest.raises(TaskError, match="`model` must be a function"):
        fw.Task("mine", plain, plain(), lambda: fw.Example((X,)))


SETTINGS: list[Callable[[], object]] = [
    lambda: Uniform(0),
    lambda: Uniform(9),
    lambda: Codebook(0),
    lambda: Codebook(5000),
    lambda: Sparse(Fraction(1.0)),
    lambda: Sparse(Fraction(-0.1)),
    lambda: Sparse(Magnitude(), scope=Scope.GLOBAL),
    lambda: Surgery(1.0, margin=1.0),
    lambda: Surgery(1.0).at(0.5),
    lambda: Dropping(1.0),
    lambda: Dropping(0.5, p_out=0.0),
    lambda: Dropping(0.5, p_in=1.0),
    lambda: Halves(1.0),
    lambda: Halves(0.5, high=1.5),
    lambda: LowRank(Rank(0)),
]


@pytest.mark.parametrize("make", SETTINGS)
def test_settings_out_of_range(make: Callable[[], object]) -> None:
    with pytest.raises(SchemeError):
        make()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    result = fw.compress(plain(), one(Codebook(2)), example=X)
    with pytest.raises(FeatherweightError, match="nowhere.*cannot be written.*choose another place"):
        result.save(tmp_path / "nowhere" / "model.fwt")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="none.fwt cannot be read: No such file"):
        fw.load(tmp_path / "none.fwt", plain())


def test_a_file_of_another_model(tmp_path: Path) -> None:
    fw.compress(plain(), one(Codebook(2)), example=X).save(tmp_path / "model.fwt")
    with pytest.raises(FormatError, match="the file is for another model"):
        fw.load(tmp_path / "model.fwt", made("batch norm")[0])


class Own(StoredFunction):
    """A function that files do not know."""

    identifier = "own"

    def forward(self, x: Tensor) -> Tensor:
        return x / 2

    def to_json(self) -> list[Any]:
        return []

    @classmethod
    def from_json(cls, record: list[Any]) -> "Own":
        return cls()


def test_a_function_that_files_do_not_know_is_refused(tmp_path: Path) -> None:
    class Taps(TapRule):
        def taps(self, student: Compressed, task: fw.Task) -> list[TapSite]:
            return [TapSite(Place(Call("2", Operator.LINEAR)), Own())]

    recipe = fw.Recipe("mine", (fw.Stage("only", {fw.WEIGHTS: Codebook(2)}, tap=Taps()),))
    with pytest.raises(FormatError, match="2: linear, operand 1 is sent through Own, which a .fwt file cannot"):
        fw.compress(plain(), recipe, example=X).save(tmp_path / "model.fwt")
    assert list(tmp_path.iterdir()) == []
