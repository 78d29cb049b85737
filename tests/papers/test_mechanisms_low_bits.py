"""What three papers of training at low precision say happens, on digits: integers everywhere, bins, bits a group."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from featherweight.activations.learned import ShiftedError
from featherweight.activations.quantizers import Quantizer
from featherweight.core.compressed import Compressed
from featherweight.core.stage import Recipe, Training
from featherweight.core.task import call, measure
from featherweight.graph.recurrent import SteppedLSTM
from featherweight.papers import balanced_quantization_rnn, fixed_point_rnn, wage
from featherweight.run import run
from featherweight.schemes.shifted import Shifted
from featherweight.schemes.uniform import UniformCode
from featherweight.tasks import find

LAYERS = ("conv1", "conv2", "conv3", "fc1", "fc2")


def accuracy(model: nn.Module, name: str) -> float:
    task = find(name)
    assert task.selection is not None
    return measure(model, task.selection(), task.quality)


@pytest.mark.long
def test_wage_moves_integers_alone(digits_model: nn.Module) -> None:
    """After every step stored weights are multiples of 2⁻⁷/α that stay within ±σ/α; updates are whole steps."""
    weights = wage.Steps(Shifted(2), 8)
    steps: list[float] = []
    before: dict[int, Tensor] = {}

    def watched(parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
        made = weights(parameters, lr)

        def see(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            for w in (p for group in optimizer.param_groups for p in group["params"]):
                step = Shifted(2).finer(w, 8).step
                levels = (w.detach() / step).round()
                assert torch.equal(levels * step, w.detach()) and float(levels.abs().max()) <= 64
                if id(w) in before:
                    steps.append(float((levels - before[id(w)]).abs().max()))
                before[id(w)] = levels

        made.register_step_post_hook(see)
        return made

    (stage,) = wage.recipe("digits", epochs=8).stages
    assert isinstance(stage.training, Training)
    recipe = Recipe("wage", (replace(stage, training=replace(stage.training, optimizer=watched)),))
    student, _ = run(digits_model, find("digits"), recipe)
    assert set(student.codes) == set(student.names) == {f"{layer}.weight" for layer in LAYERS}
    assert 1 <= max(steps) <= 8 * 2**0.5 + 1  # a rate of 8, the largest within √2 of one, and rounded up
    for name, code in student.codes.items():
        assert isinstance(code, UniformCode) and code.bits == 2 and len(code.levels.unique()) == 3, name
    assert {type(tap) for tap in student.sites.values()} == {Quantizer}  # errors are of use to learning alone
    assert accuracy(student, "digits") > 90


def test_wages_errors_are_integers_that_reach_every_layer(digits_model: nn.Module) -> None:
    (stage,) = wage.recipe("digits").stages
    assert stage.tap is not None
    student, task = Compressed(digits_model), find("digits")
    sites = stage.tap.taps(student, task)
    student.tap(sites)
    seen: list[Tensor] = []

    def see(module: nn.Module, args: tuple[Tensor]) -> None:
        args[0].register_hook(seen.append)  # what goes on to the layer, behind the rounding

    for site in sites:
        if isinstance(site.function, ShiftedError):
            site.function.register_forward_pre_hook(see)
    student.learn({})
    batch = next(iter(task.calibration_data()))
    call(student, batch).square().sum().backward()
    assert len(seen) == len(LAYERS)
    for error in seen:
        levels = error * 128
        assert torch.equal(levels, levels.round()) and 64 / 2**0.5 <= float(levels.abs().max()) <= 127


def test_all_levels_of_balanced_weights_are_used_and_states_are_few(digits_lstm: nn.Module) -> None:
    recipe = balanced_quantization_rnn.recipe("digits-lstm", epochs=3)
    student, _ = run(digits_lstm, find("digits-lstm"), recipe)
    matrices = {name: code for name, code in student.codes.items() if isinstance(code, UniformCode)}
    assert len(matrices) == 5
    for code in matrices.values():
        _, used = code.levels.unique(return_counts=True)
        assert len(used) == 4 and int(used.max() - used.min()) <= 1
    images = next(iter(find("digits-lstm").calibration_data()))[0]
    layer = student.base.get_submodule("lstm")
    assert isinstance(layer, SteppedLSTM)
    states, _ = layer(images[:50].flatten(1, 2))
    assert 2 < len(states.unique()) <= 7  # three bits, symmetric
    assert accuracy(student, "digits-lstm") > 85


@pytest.mark.long
def test_bits_are_those_of_each_group_alone_and_learning_mends_them_all(digits_lstm: nn.Module) -> None:
    task = find("digits-lstm")
    for bits, alone in zip(
        fixed_point_rnn.bit_widths(digits_lstm, task, 0.5),
        (fixed_point_rnn.weight_alone, fixed_point_rnn.signal_alone),
        strict=True,
    ):
        for name, enough in bits.items():
            lost = [
                accuracy(digits_lstm, task.name) - accuracy(run(digits_lstm, task, alone(name, b))[0], task.name)
                for b in (enough - 1, enough)
            ]
            assert lost[1] <= 0.5 and (lost[0] > 0.5 or enough == 2), name
    (stage, *_) = fixed_point_rnn.recipe("digits-lstm", epochs=3).stages
    direct, _ = run(digits_lstm, task, Recipe("direct", (replace(stage, training=None),)))
    learned, _ = run(digits_lstm, task, Recipe("learned", (stage,)))
    for name, bits in fixed_point_rnn.WEIGHT_BITS["digits-lstm"].items():
        code = learned.codes[name]
        assert code.bits == bits
        assert torch.equal(code.scales.decode(), direct.codes[name].scales.decode())  # type: ignore[attr-defined]
    assert accuracy(learned, "digits-lstm") > accuracy(direct, "digits-lstm")


@pytest.mark.parametrize("bits", [2, 4])
def test_bits_of_a_paper_are_settings(bits: int) -> None:
    recipe = balanced_quantization_rnn.recipe(weights=bits, states=bits + 1)
    assert f"Balanced(bits={bits})" in recipe.settings and f"'*hidden_l*': {bits + 1}" in recipe.settings
