"""Layers that fall back to floats: which, in which order, why, and what they end at."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import featherweight as fw
from featherweight.activations.rules import LearnedSteps
from featherweight.core.errors import BudgetError, SelectionError
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Budget, Recipe, Stage, Training
from featherweight.core.task import Example, Task
from featherweight.report.summary import left_alone
from featherweight.schemes.uniform import PerChannel, Uniform
from featherweight.search.budget import Trial, nearness
from featherweight.search.precision import post_training
from featherweight.search.sensitivity import fall_back, sensitivities, without

ROUGH = post_training(2, 8, sweep=False, correct=False)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.third(self.second(self.first(x).relu()).relu())
        return y


def net() -> nn.Module:
    """With random weights, so that every class is somebody's."""
    model, generator = Net().eval(), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def task(model: nn.Module) -> Task:
    """The model is always right on its selection data; biases are exact in float16."""
    inputs = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for layer in model.children():
            layer.bias.copy_(layer.bias.half())  # type: ignore[union-attr, operator]
        batch = (inputs, model(inputs).argmax(1))
    return Task(
        "t",
        net,
        lambda: model,
        lambda: Example((inputs[:2],)),
        evaluation=lambda: [batch],
        selection=lambda: [batch],
        calibration=lambda: [batch],
        loss=lambda outputs, batch: nn.functional.cross_entropy(outputs, batch[1]),
    )


def test_a_sensitivity_is_that_of_the_layer_alone() -> None:
    model = net()
    given = task(model)
    recipe = Recipe("w", (Stage("w", {WEIGHTS: Uniform(2, granularity=PerChannel())}),))
    names = ["first.weight", "second.weight", "third.weight"]
    found = {each.weight: each for each in sensitivities(model, given, recipe, names)}
    inputs, targets = next(iter(given.calibration_data()))
    for name in names:
        alone = net()
        task(alone)
        weight = alone.get_parameter(name)
        scale = (weight.detach().abs().amax(1, keepdim=True)).half().float()
        weight.data = (weight / scale).round().clamp(-1, 1).detach() * scale
        with torch.no_grad():
            error = 100 * (alone(inputs) - model(inputs)).norm() / model(inputs).norm()
            drop = 100 * (alone(inputs).argmax(1) != targets).double().mean()
        assert found[name].error == pytest.approx(float(error), rel=1e-5)
        assert found[name].drop == pytest.approx(float(drop))
    errors = [each.error for each in sensitivities(model, given, recipe, names)]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]


def test_activations_that_a_layer_takes_in_count_and_joins_do_not() -> None:
    model = net()
    given = task(model)
    coarse = post_training(8, 1)
    rough, fine = (
        sensitivities(model, given, r, ["second.weight", "first.weight"]) for r in (coarse, post_training(8, 8))
    )
    assert min(each.error for each in rough) > 10 > 2 > max(each.error for each in fine)


def test_the_worst_layers_fall_back_until_the_drop_is_within_the_limit() -> None:
    model = net()
    given, trials = task(model), list[Trial]()
    worst = sensitivities(model, given, ROUGH, ["first.weight", "second.weight", "third.weight"])
    trial = fall_back(model, given, ROUGH, 2.0, tell=trials.append)
    assert trial.drop <= 2.0 < trials[0].drop and 2 <= len(trials) <= 3
    assert all(each.drop > 2.0 for each in trials[:-1])
    floats = [name for name in ("first.weight", "second.weight", "third.weight") if name not in trial.student.codes]
    assert set(floats) == {each.weight for each in worst[: len(trials) - 1]}
    for name in floats:
        torch.testing.assert_close(trial.student.parameter(name), model.get_parameter(name), rtol=0, atol=0)
        assert not any(place.call.module == name.split(".")[0] and place.operand == 0 for place in trial.student.sites)
        said = trial.coverage[-1].left[name]
        assert "falls back to floats: alone it moves the outputs by" in said and f"{trials[0].drop:.3g} %" in said


def test_in_the_limit_the_model_is_the_float_model() -> None:
    model = net()
    given = task(model)
    trial = fall_back(model, given, post_training(1, 1, sweep=False, correct=False), 0.0)
    assert trial.drop == 0 and not trial.student.sites
    assert nearness(trial.student, model, given) == pytest.approx(100, abs=1e-4)
    assert len(trial.coverage[-1].left) == 3
    with pytest.raises(BudgetError, match="nearest of 4 trials has [0-9]+ bytes and a drop of 0; no layer is left"):
        fall_back(model, given, ROUGH, -1.0)


def test_a_recipe_within_the_limit_is_carried_out_once() -> None:
    model, trials = net(), list[Trial]()
    trial = fall_back(model, task(model), post_training(), 5.0, tell=trials.append)
    assert trials == [trial] and trial.recipe == post_training() and len(trial.student.codes) == 6


def test_a_recipe_that_learns_does_not_fall_back() -> None:
    model = net()
    given = replace(task(model), train=task(model).calibration)
    stage = Stage("q", {WEIGHTS: Uniform(1)}, training=Training(1, 0.0))
    with pytest.raises(BudgetError, match="it learns"):
        fall_back(model, given, Recipe("r", (stage,)), 0.0)


def test_rules_that_cannot_leave_layers_out_say_so() -> None:
    with pytest.raises(SelectionError, match="LearnedSteps cannot leave single layers out"):
        without(Recipe("r", (Stage("q", tap=LearnedSteps()),)), ["first.weight"])


def test_tied_weights_fall_back_under_all_their_names() -> None:
    model = net()
    model.third = nn.Linear(16, 16)
    model.third.weight = model.second.weight
    trial = fall_back(model, task(model), post_training(1, 1, sweep=False, correct=False), 0.0)
    assert "second.weight" not in trial.student.codes


def test_compress_takes_a_recipe_with_a_limit_on_the_drop() -> None:
    model = net()
    result = fw.compress(task(model), ROUGH, Budget(drop=2.0))
    reasons = left_alone(result)
    assert reasons and all("falls back" in reason for reason in reasons.values())
    assert result.claims is not None and result.claims.samples == 200
    with pytest.raises(BudgetError, match="no checkpoint"):
        fw.compress(task(model), ROUGH, Budget(drop=2.0), checkpoint="somewhere")
    with pytest.raises(BudgetError, match="over the limit of 10"):
        fw.compress(task(model), ROUGH, Budget(size=10, drop=2.0))
