"""What the papers on energy, operations and filters at use are about, at work on the digits."""

from dataclasses import replace

from torch import nn

from featherweight.core.compressed import Compressed
from featherweight.core.stage import MagnitudeRule, Recipe
from featherweight.core.task import measure
from featherweight.costs.energy import Energy
from featherweight.papers import energy_aware_pruning
from featherweight.run import run
from featherweight.search.budget import nearness
from featherweight.tasks import find

DIGITS = find("digits")


def modelled(student: Compressed) -> dict[str, float]:
    costs = Energy().measure(student, DIGITS)
    return {name: costs.of(name, tuple(student.parameter(name).shape)) for name in costs.uses}


def test_pruning_by_outputs_beats_magnitude_at_equal_sparsity_before_learning(digits_model: nn.Module) -> None:
    """Yang et al. 2017; and the layers go in the order of their energy, which falls in every one."""
    (stage,) = energy_aware_pruning.recipe("digits", shares=(0.8,), epochs=0).stages
    plain = replace(stage, projector=None, metric=MagnitudeRule())
    quality, outputs, kept = [], [], []
    for each in (plain, stage):
        student, _ = run(digits_model, DIGITS, Recipe("prune", (each,)))
        quality.append(measure(student, DIGITS.selection(), DIGITS.quality))  # type: ignore[misc]
        outputs.append(100 - nearness(student, digits_model, DIGITS))
        kept.append({name: int(student.weight(name).count_nonzero()) for name in student.codes})
    assert kept[0] == kept[1]
    assert quality[1] > 97 and quality[1] > quality[0] + 10
    assert outputs[1] < 0.5 * outputs[0]
    before, after = modelled(Compressed(digits_model)), modelled(student)
    assert all(after[name] < before[name] for name in before)
    ordered = [
        name
        for part in stage.metric.begun(Compressed(digits_model).eval(), list(before), DIGITS).together(list(before))
        for name in part
    ]
    assert ordered == sorted(before, key=lambda name: -before[name]) and ordered[0] != next(iter(before))
