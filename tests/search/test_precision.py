"""Recipes of a precision on models of all kinds; and on those that cannot be traced."""

import pytest
import torch
from torch import Tensor, nn

import featherweight as fw
from featherweight import file
from featherweight.activations.rules import Calibrated
from featherweight.core.errors import NoEffectError, SchemeError, TraceError
from featherweight.core.stage import Recipe, Stage
from featherweight.graph.fold import FoldNorms
from featherweight.report.summary import left_alone
from featherweight.schemes.uniform import PerChannel, PerGroup, PerTensor, UniformCode
from featherweight.search.precision import PRECISIONS, post_training, weight_only

from ..core.models import MODELS, made


class Wayward(nn.Module):
    """Which layer runs depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.second = nn.BatchNorm1d(6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        if float(y.sum()) > 0:
            y = y.relu()
        z: Tensor = self.second(y)
        return z


def wayward() -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Wayward().eval(), torch.randn(8, 6)


def bits_of(student: fw.Compressed) -> dict[str, int]:
    return {name: code.bits for name, code in student.codes.items()}


LIKE_OTHERS = ("int7", "int8-weights")


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.long if name in LIKE_OTHERS else ()) for name in PRECISIONS]
)
@pytest.mark.parametrize("kind", MODELS)
def test_every_model_is_compressed_and_comes_back(kind: str, recipe: str) -> None:
    model, inputs = made(kind)
    result = fw.compress(model.eval(), PRECISIONS[recipe](), example=inputs, calibration=[inputs])
    assert any(isinstance(code, UniformCode) for code in result.student.codes.values())
    assert bool(result.student.sites) <= (recipe in ("int8", "int7", "int8-dynamic"))
    loaded, _ = file.load(result.encode(), model)
    with torch.no_grad():
        torch.testing.assert_close(loaded(inputs), result.student(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_weights_of_a_model_that_cannot_be_traced_are_compressed_and_the_result_says_why(bits: int) -> None:
    model, inputs = wayward()
    result = fw.compress(model, post_training(bits), example=inputs, calibration=[inputs])
    assert bits_of(result.student)["first.weight"] == bits_of(result.student)["second.weight"] == bits
    assert not result.student.sites and not result.student.edits
    reasons = left_alone(result)
    for what in ("activations", "structure"):
        assert "cannot be traced" in result.coverage[0].left[what] and reasons[what] == result.coverage[0].left[what]


def test_rules_by_themselves_require_a_trace() -> None:
    model, inputs = wayward()
    for stage in (
        Stage("a", tap=Calibrated()),
        Stage("b", {"*.weight": post_training().stages[0].rules()[0][1]}, tap=Calibrated()),
    ):
        with pytest.raises(TraceError, match="cannot be traced"):
            fw.compress(model, Recipe("r", (stage,)), example=inputs, calibration=[inputs])
    with pytest.raises(TraceError, match="cannot be traced"):
        fw.compress(model, Recipe("r", (Stage("f", edit=FoldNorms(required=True)),)), example=inputs)
    with pytest.raises(NoEffectError, match="structure: the model cannot be traced"):
        fw.compress(model, Recipe("r", (Stage("f", edit=FoldNorms()),)), example=inputs)


def test_errors_that_are_no_failed_trace_are_raised() -> None:
    model, inputs = made("linear")
    with pytest.raises(fw.TaskError, match="neither calibration nor training data"):
        fw.compress(model, post_training(), example=inputs)


def test_what_is_quantized_to_how_many_bits() -> None:
    model, inputs = made("batch norm")
    recipe = post_training(4, 6, exceptions={"head.*": 5}, sweep=False)
    result = fw.compress(model.eval(), recipe, example=inputs, calibration=[inputs])
    assert bits_of(result.student) == {"conv.weight": 4, "head.weight": 5, "conv.bias": 16, "head.bias": 16}
    assert {tap.bits for tap in result.student.sites.values()} == {6}  # type: ignore[attr-defined]
    assert set(result.coverage[0].repaired) == {"conv.bias", "head.bias"}
    assert recipe.name == "int4" and [edit.identifier for edit in result.student.edits] == ["fold"]


def test_what_is_excluded_stays_float_with_what_it_takes_in() -> None:
    model, inputs = made("batch norm")
    result = fw.compress(model.eval(), post_training(exclude=("head.*",)), example=inputs, calibration=[inputs])
    assert "head.weight" not in result.student.codes and "conv.weight" in result.student.codes
    whole = fw.compress(model.eval(), post_training(), example=inputs, calibration=[inputs])
    before = {str(place) for place in whole.student.sites} - {str(place) for place in result.student.sites}
    assert before == {"the model: mean, result"}


@pytest.mark.parametrize(
    ("recipe", "spread"),
    [
        (post_training(), PerChannel()),
        (post_training(per_channel=False), PerTensor()),
        (weight_only(4), PerChannel()),
        (weight_only(4, group=2), PerGroup(2)),
    ],
)
def test_scales(recipe: Recipe, spread: object) -> None:
    model, inputs = made("linear")
    result = fw.compress(model, recipe, example=inputs, calibration=[inputs])
    codes = [code for code in result.student.codes.values() if isinstance(code, UniformCode)]
    assert [code.granularity for code in codes] == [spread, spread]


def test_eight_bit_weights_need_no_data_and_groups_must_divide() -> None:
    model, inputs = made("linear")
    assert fw.compress(model, weight_only(), example=inputs).student.codes
    with pytest.raises(SchemeError, match="0.weight: a group size of 4 does not divide"):
        fw.compress(model, weight_only(4, group=4, sweep=False, correct=False), example=inputs)
    mixed = weight_only(4, group=4, exceptions={"0.weight": 8}, sweep=False, correct=False)
    assert fw.compress(model, mixed, example=inputs).student.codes["0.weight"].bits == 8


def test_equalization_is_a_stage_before() -> None:
    model, inputs = made("linear")
    recipe = post_training(per_channel=False, equalize=True)
    result = fw.compress(model, recipe, example=inputs, calibration=[inputs])
    assert [stage.name for stage in recipe.stages] == ["equalize", "quantize", "side"]
    assert "0.weight" in result.coverage[0].repaired and not result.coverage[1].repaired


def test_below_eight_bits_sweep_and_correction_lower_the_error() -> None:
    model, _ = made("linear")
    inputs = torch.randn(256, 6, generator=torch.Generator().manual_seed(3)) @ torch.triu(torch.ones(6, 6)) + 1
    errors = []
    for settings in ({"sweep": False, "correct": False}, {}):
        result = fw.compress(model, weight_only(3, **settings), example=inputs[:2], calibration=[inputs])  # type: ignore[arg-type]
        with torch.no_grad():
            errors.append(float((result.student(inputs) - model(inputs)).norm()))
    assert errors[1] < errors[0]
