"""Selecting by name, schedules against their formulas, and plans in print."""

import pytest
import torch
from torch import nn

import featherweight as fw
from featherweight.activations.repairs import BiasCorrection
from featherweight.activations.rules import Calibrated
from featherweight.core.errors import SchemeError, SelectionError
from featherweight.core.plan import plan
from featherweight.core.site import WEIGHTS, Sites, select
from featherweight.core.stage import (
    Condensing,
    Cubic,
    Decaying,
    Iterative,
    OneShot,
    Portions,
    Recipe,
    Schedule,
    Stage,
    Training,
    everywhere,
)
from featherweight.graph.fold import FoldNorms
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.sparse import Fraction, Sparse

from .models import made


def names(sites: Sites, model: str = "batch norm") -> list[str]:
    return list(select(made(model)[0], sites))


@pytest.mark.parametrize(
    "sites, expected",
    [
        (WEIGHTS, ["conv.weight", "head.weight"]),
        (Sites(), ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "head.weight", "head.bias"]),
        (Sites(("conv.*",)), ["conv.weight", "conv.bias"]),
        (Sites(("*.weight",), exclude=("norm*",)), ["conv.weight", "head.weight"]),
        (Sites(("head.weight", "conv.bias")), ["conv.bias", "head.weight"]),
        (Sites(("????.bias",), min_dims=1), ["conv.bias", "norm.bias", "head.bias"]),
        (Sites(("[ch]*",), ("*bias",), 3), ["conv.weight"]),
    ],
    ids=str,
)
def test_patterns(sites: Sites, expected: list[str]) -> None:
    assert names(sites) == expected


@pytest.mark.parametrize("pattern", ["embed.weight", "head.weight", "head.*", "*d.weight"])
def test_a_tied_weight_is_found_by_any_of_its_names(pattern: str) -> None:
    assert names(Sites((pattern,)), "tied embedding") == ["embed.weight"]


@pytest.mark.parametrize(
    "sites, said",
    [
        (Sites(("conv1.weight",)), "no parameter matches conv1.weight; the model has 6, for example conv.weight"),
        (Sites(("*",), ("*",)), "no parameter matches \\* but not \\*; the model has 6, for example conv.weight"),
        (Sites(("head",), min_dims=2), "no parameter matches head \\(2 or more dimensions\\).*head"),
        (Sites(()), "no parameter matches nothing; the model has 6, for example conv.weight"),
    ],
)
def test_an_empty_selection_says_what_there_is(sites: Sites, said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        names(sites)


def test_optional_sites_may_be_empty_and_a_stage_of_them_may_do_nothing() -> None:
    absent = Sites(("conv1.weight",), optional=True)
    assert names(absent) == []
    model, inputs = made("batch norm")
    stage = Stage("maybe", {absent: Codebook(2)})
    assert plan(model, Recipe("r", (stage,))).stages[0].sites == {}
    result = fw.compress(model, Recipe("r", (stage, everywhere("all", Codebook(2)))), example=inputs)
    assert [list(each.touched) for each in result.coverage] == [[], ["conv.weight", "head.weight"]]
    both = Stage("both", {WEIGHTS: Codebook(2), Sites(("head.weight",), optional=True): Codebook(4)})
    assert plan(model, Recipe("r", (both,))).stages[0].sites["head.weight"] == Codebook(2)


def test_a_model_without_parameters() -> None:
    with pytest.raises(SelectionError, match="the model has no parameters"):
        select(nn.ReLU(), Sites())


SCHEDULES: list[tuple[Schedule, int, dict[int, float]]] = [
    (OneShot(), 10, {0: 1.0}),
    (Iterative(4), 100, {0: 0.25, 25: 0.5, 50: 0.75, 75: 1.0}),
    (Iterative(3), 10, {0: 1 / 3, 3: 2 / 3, 6: 1.0}),
    (Iterative(2, power=3), 10, {0: 1 - 0.5**3, 5: 1.0}),
    (Iterative(3, fixed=True), 9, {0: 1.0, 3: 1.0, 6: 1.0}),
    (Iterative(20), 10, {0: 1.0}),
    (Portions(), 100, {0: 0.5, 25: 0.75, 50: 0.875, 75: 1.0}),
    (Portions((0.2, 1.0)), 7, {0: 0.2, 3: 1.0}),
    (Portions(), 3, {0: 1.0}),
    (Cubic(every=10, end=0.5), 60, {10: 1 - (2 / 3) ** 3, 20: 1 - (1 / 3) ** 3, 30: 1.0}),
    (Cubic(every=10, begin=0.5, end=1.0), 40, {30: 1 - (9 / 19) ** 3, 39: 1.0}),
    (Cubic(every=5, end=0.5, initial=0.5), 20, {0: 0.5, 5: 1 - 0.5 * 0.5**3, 10: 1.0}),
    (Cubic(end=0.7), 1, {0: 1.0}),
    (Cubic(begin=0.9, end=0.1), 100, {0: 1.0}),
    (Condensing(3), 60, {10: 1 / 3, 20: 2 / 3, 30: 1.0}),
    (Condensing(3), 5, {0: 1.0}),
    (Decaying(decay=0.0, end=0.5), 8, dict.fromkeys(range(5), 1.0)),
    (Decaying(decay=1e12, end=0.5), 100, {0: 1.0, 50: 1.0}),
    (Decaying(end=0.0), 100, {0: 1.0}),
]


@pytest.mark.parametrize("schedule, steps, expected", SCHEDULES, ids=str)
def test_targets(schedule: Schedule, steps: int, expected: dict[int, float]) -> None:
    """Zhu and Gupta 2017, equation 1, with s_f = 1; and equal parts."""
    assert schedule.targets(steps) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [1, 2, 7, 100, 1001])
@pytest.mark.parametrize("schedule", [each for each, _, _ in SCHEDULES] + [Cubic(1), Cubic(3, end=1.0)], ids=str)
def test_every_schedule_ends_with_the_whole_effect_inside_the_training(schedule: Schedule, steps: int) -> None:
    targets = schedule.targets(steps)
    assert targets[max(targets)] == 1
    assert all(0 <= step < steps for step in targets)
    assert all(0 < target <= 1 for target in targets.values())
    assert list(targets) == sorted(targets) and list(targets.values()) == sorted(targets.values())


def test_projections_become_rarer_by_a_power_of_the_step() -> None:
    """The counts of four quarters are near the sums of p(t), by their own deviations; another seed draws others."""
    schedule = Decaying(decay=1e-2, power=1.0, end=1.0, seed=4)
    targets = schedule.targets(4001)
    for first in range(0, 4000, 1000):
        chances = [1 / (1 + 1e-2 * step) for step in range(first, first + 1000)]
        found = sum(step in targets for step in range(first, first + 1000))
        assert abs(found - sum(chances)) < 4 * sum(p * (1 - p) for p in chances) ** 0.5
    assert schedule.targets(4001) == targets != Decaying(1e-2, end=1.0, seed=5).targets(4001)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cubic(every=0),
        lambda: Iterative(0),
        lambda: Iterative(2, power=0.0),
        lambda: Cubic(initial=1.5),
        lambda: Portions(()),
        lambda: Portions((0.5, 0.9)),
        lambda: Portions((0.6, 0.5, 1.0)),
        lambda: Decaying(decay=-1.0),
        lambda: Decaying(end=1.5),
    ],
)
def test_schedules_out_of_range(make) -> None:
    with pytest.raises(SchemeError):
        make()


def test_a_plan_in_print() -> None:
    recipe = Recipe(
        "two",
        (
            Stage("prune", {WEIGHTS: Sparse(Fraction(0.9))}, schedule=Cubic(), training=Training(3)),
            Stage("share", {"head.weight": Codebook(4)}),
        ),
    )
    assert str(plan(made("batch norm")[0], recipe)) == "\n".join(
        [
            "recipe two: 2 stages",
            "1. prune: Cubic, MagnitudeRule, 3 epochs (direct)",
            f"     conv.weight [4, 2, 3, 3] -> {Sparse(Fraction(0.9))}",
            f"     head.weight [3, 4] -> {Sparse(Fraction(0.9))}",
            "     left alone: conv.bias, norm.weight, norm.bias, head.bias",
            "2. share: OneShot, MagnitudeRule, no training",
            f"     head.weight [3, 4] -> {Codebook(4)}",
            "     left alone: conv.weight, conv.bias, norm.weight, norm.bias, head.bias",
        ]
    )


def test_a_plan_tells_what_else_a_stage_does() -> None:
    stage = Stage("q", {WEIGHTS: Codebook(4)}, edit=FoldNorms(), tap=Calibrated(), repairs=(BiasCorrection(3),))
    text = str(plan(made("batch norm")[0], Recipe("r", (stage,))))
    assert f"     structure: {FoldNorms()}\n     activations: {Calibrated()}\n     conv.weight" in text
    assert text.endswith("     repair: BiasCorrection(batches=3)")


def test_a_stage_without_some_layers() -> None:
    stage = Stage("q", {WEIGHTS: Codebook(4), "norm.*": Codebook(2)}, tap=Calibrated(exclude=("x",)))
    left = stage.without(["head.weight", "norm.bias", "norm.weight"], joins=False)
    assert left.tap == Calibrated(exclude=("x", "head.weight", "norm.bias", "norm.weight"), joins=False)
    assert plan(made("batch norm")[0], Recipe("r", (left,))).stages[0].sites == {"conv.weight": Codebook(4)}


def test_planning_has_no_side_effect() -> None:
    model = made("batch norm")[0]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    plan(model, Recipe("one", (everywhere("one", Codebook(2)),)))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_first_pattern_wins_and_a_pattern_without_sites_is_an_error() -> None:
    model = made("batch norm")[0]
    stage = Stage("mixed", {"head.weight": Codebook(2), WEIGHTS: Codebook(4)})
    assert plan(model, Recipe("mixed", (stage,))).stages[0].sites == {
        "head.weight": Codebook(2),
        "conv.weight": Codebook(4),
    }
    useless = Stage("useless", {WEIGHTS: Codebook(4), "head.weight": Codebook(2)})
    with pytest.raises(SelectionError, match="'useless' of recipe 'mixed': head.weight matches only what an earlier"):
        plan(model, Recipe("mixed", (stage, useless)))


def test_a_recipe_without_stages_is_refused() -> None:
    with pytest.raises(SelectionError, match="'none' has no stage"):
        Recipe("none", ())
