"""What papers of fixed levels say of themselves, seen at work on digits."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from featherweight.activations.logarithmic import LogQuantizer
from featherweight.activations.quantizers import Quantizer
from featherweight.core.compressed import Compressed
from featherweight.core.stage import Recipe, Training, adam
from featherweight.core.task import call
from featherweight.papers import (
    dettmers_8bit,
    fixed_point_ternary_dnn,
    log_quantization,
    lognet,
    mf_dfp,
    shiftcnn,
    ternary_weight_networks,
    ttq,
)
from featherweight.run import run
from featherweight.schemes.logarithmic import LogCode
from featherweight.schemes.plus import PlusCode
from featherweight.schemes.tables import Tabled
from featherweight.schemes.ternary import Ternary, TernaryCode, ThresholdTernary, TrainedTernary
from featherweight.schemes.uniform import UniformCode
from featherweight.search.budget import nearness
from featherweight.tasks import find
from featherweight.training.gradients import CompressedGradients

DIGITS = find("digits")


def carried_out(model: nn.Module, recipe: Recipe) -> Compressed:
    return run(model, DIGITS, recipe)[0]


def untrained(recipe: Recipe) -> Recipe:
    """The same recipe with nothing learned; stages that only learn are left out."""
    kept = [stage for stage in recipe.stages if stage.schemes or stage.tap]
    return replace(recipe, stages=tuple(replace(stage, training=None) for stage in kept))


@torch.no_grad()
def loss(model: nn.Module) -> float:
    assert DIGITS.selection is not None and DIGITS.loss is not None
    losses = [float(DIGITS.loss(call(model.eval(), batch), batch)) for batch in DIGITS.selection()]
    return sum(losses) / len(losses)


def weights(student: Compressed) -> dict[str, Any]:
    return {name: code for name, code in student.codes.items() if name.endswith("weight")}


def inputs_of(student: Compressed, layer: nn.Linear) -> Tensor:
    """What the layer takes in for the first samples, behind its tap."""
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    batch = next(iter(DIGITS.calibration_data()))
    call(student.eval(), batch)
    handle.remove()
    return seen[0]


def test_ternary_weights_are_retrained_to_three_levels_whose_scale_follows(digits_model: nn.Module) -> None:
    recipe = ternary_weight_networks.recipe(epochs=5)
    before, after = carried_out(digits_model, untrained(recipe)), carried_out(digits_model, recipe)
    for name, code in weights(after).items():
        assert isinstance(code, UniformCode) and code.bits == 2
        scale = float(code.scales.decode())
        assert set(code.decode().unique().tolist()) == {-scale, 0.0, scale}
        assert scale != float(ThresholdTernary().project(digits_model.get_parameter(name)).scales.decode())
    assert loss(after) < loss(before) / 2


def test_trained_scales_part_and_weights_move_between_the_levels(digits_model: nn.Module) -> None:
    recipe = ttq.recipe("digits", epochs=5)
    before, after = carried_out(digits_model, untrained(recipe)), carried_out(digits_model, recipe)
    inner = {name: code for name, code in weights(after).items() if isinstance(code, TernaryCode)}
    assert sorted(inner) == ["conv2.weight", "conv3.weight", "fc1.weight"]
    for name, code in inner.items():
        start = TrainedTernary().project(digits_model.get_parameter(name))
        plus, minus = float(code.plus.decode()), float(code.minus.decode())
        assert plus > 0 and minus > 0 and plus != minus
        assert plus != float(start.plus.decode()) and minus != float(start.minus.decode())
        assert float((code.levels != start.levels).float().mean()) > 0.01
    assert loss(after) < loss(before) / 4


def test_signals_have_eight_levels_and_weights_the_step_of_least_squares(digits_model: nn.Module) -> None:
    recipe = fixed_point_ternary_dnn.recipe("digits", epochs=5)
    before, after = carried_out(digits_model, untrained(recipe)), carried_out(digits_model, recipe)
    assert len(after.sites) == 4  # what all layers but the first take in
    assert all(isinstance(function, Quantizer) and function.bits == 3 for function in after.sites.values())
    for name, code in weights(after).items():
        best = Ternary().project(digits_model.get_parameter(name).detach())
        assert torch.equal(code.scales.decode(), best.scales.decode())
        assert not torch.equal(code.levels, best.levels)
    assert loss(after) < loss(before) / 4


def exponents(values: Tensor) -> Tensor:
    return torch.log2(values[values != 0].abs().double())


def test_a_layer_of_powers_of_two_is_shifts_and_sums(digits_model: nn.Module) -> None:
    """The last layer's result, in whole numbers: one shifted to the sum of two exponents, a product each."""
    student = carried_out(digits_model, log_quantization.recipe("digits", epochs=2))
    (tap,) = (function for place, function in student.sites.items() if place.call.module == "fc2")
    assert isinstance(tap, LogQuantizer) and tap.bits == 4 and not tap.signed
    layer = student.base.get_submodule("fc2")
    assert isinstance(layer, nn.Linear)
    seen: list[Tensor] = []
    hook = student.base.get_submodule("fc1").register_forward_hook(lambda m, args, output: seen.append(output.relu()))
    results = inputs_of(student, layer)
    hook.remove()
    x, w = tap(seen[0])[0].detach().double(), student.weight("fc2.weight").detach().double()
    low = int(exponents(x).min() + exponents(w).min())
    for row in range(len(w)):
        total = 0
        for a, b in zip(w[row].tolist(), x.tolist(), strict=True):
            if a and b:
                shift = int(torch.log2(torch.tensor(abs(a)))) + int(torch.log2(torch.tensor(b)))
                total += (1 if a > 0 else -1) * (1 << (shift - low))
        expected = total * 2.0**low + float(layer.bias[row])
        assert float(results[0, row]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.long
def test_gradients_are_rounded_while_learning_alone(digits_model: nn.Module) -> None:
    recipe = log_quantization.recipe("digits", epochs=2)
    student = carried_out(digits_model, recipe)
    assert all(isinstance(function, LogQuantizer) for function in student.sites.values())
    without = carried_out(digits_model, log_quantization.recipe("digits", gradients=None, epochs=2))
    assert any(not torch.equal(code.levels, without.codes[name].levels) for name, code in weights(student).items())


def test_products_are_sums_of_half_exponents(digits_model: nn.Module) -> None:
    """And steps of half an octave err about half as much as steps of one."""
    student = carried_out(digits_model, untrained(lognet.recipe("digits")))
    for name, code in weights(student).items():
        assert isinstance(code, LogCode) and code.bits == 5
        halves = 2 * exponents(code.decode())
        torch.testing.assert_close(halves, halves.round(), atol=1e-5, rtol=0)
        w = digits_model.get_parameter(name).detach()
        ratio = (code.decode() / w)[code.decode() != 0].double().log2().abs()
        assert 0.2 < float(ratio.max()) <= 0.2501 and bool((code.tops > -100).all())
    assert all(isinstance(function, LogQuantizer) and function.base.value == 2 for function in student.sites.values())


def test_two_shifts_a_weight_need_no_training(digits_model: nn.Module) -> None:
    one, two = (carried_out(digits_model, shiftcnn.recipe(terms=terms)) for terms in (1, 2))
    assert all(isinstance(code, LogCode) for code in weights(one).values())
    for name, code in weights(two).items():
        assert isinstance(code, PlusCode) and isinstance(code.first, LogCode) and isinstance(code.second, LogCode)
        assert code.first.bits == code.second.bits == 4
        largest = float(digits_model.get_parameter(name).detach().abs().max())
        assert float(code.decode().abs().max()) == pytest.approx(largest, rel=1e-3)
    assert nearness(one, digits_model, DIGITS) < 90 < 95 < nearness(two, digits_model, DIGITS)


@pytest.mark.long
def test_nothing_is_multiplied_and_the_teacher_brings_its_outputs_nearer(digits_model: nn.Module) -> None:
    recipe = mf_dfp.recipe("digits", epochs=(3, 4))
    alone = replace(recipe, stages=tuple(replace(stage, objective=None) for stage in recipe.stages))
    student, labels = carried_out(digits_model, recipe), carried_out(digits_model, alone)
    for code in weights(student).values():
        levels = code.decode()
        assert torch.equal(exponents(levels), exponents(levels).round()) and bool((levels != 0).all())
        assert code.bits == 4 and len(levels.abs().unique()) <= 8
    for function in student.sites.values():
        assert isinstance(function, Quantizer) and function.bits == 8
        assert torch.equal(torch.log2(function.scale), torch.log2(function.scale).round())
    assert nearness(student, digits_model, DIGITS) > nearness(labels, digits_model, DIGITS) + 1


class Counting(torch.optim.Adam):
    """Adam that notes how many different values every gradient of a step has."""

    most = 0

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    Counting.most = max(Counting.most, len(parameter.grad.unique()))
        return super().step(closure)


def counting(parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
    return Counting(parameters, lr)


@pytest.mark.long
def test_training_from_nothing_with_gradients_of_eight_bits() -> None:
    """It ends as near as training with 32 bits does."""

    def trained(optimizer: Any) -> float:
        torch.manual_seed(0)
        recipe = dettmers_8bit.recipe("digits")
        stage = replace(recipe.stages[0], training=Training(8, 2e-3, optimizer))
        return loss(carried_out(DIGITS.architecture(), replace(recipe, stages=(stage, *recipe.stages[1:]))))

    Counting.most = 0
    ends = trained(CompressedGradients(Tabled(), counting)), trained(adam)
    assert 16 < Counting.most <= 256
    assert ends[0] < 0.15 and ends[0] < 1.3 * ends[1]
