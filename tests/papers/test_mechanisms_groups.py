"""Layers that end in groups: what each paper learns about them, on digits."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.stage import Recipe
from featherweight.costs.operations import operations
from featherweight.papers import condensenet
from featherweight.run import run
from featherweight.tasks import find

DIGITS = find("digits")
CONDENSED = ("conv2.weight", "conv3.weight", "fc1.weight")


def carried_out(model: nn.Module, recipe: Recipe) -> Compressed:
    return run(model, DIGITS, recipe)[0]


def read(w: Tensor, groups: int) -> Tensor:
    """Which inputs each group of filters reads, bool [groups, inputs]."""
    return w.detach().reshape(groups, len(w) // groups, w.shape[1], -1).ne(0).any(3).any(1)


def test_each_group_ends_with_its_share_of_the_inputs(digits_model: nn.Module) -> None:
    recipe = condensenet.recipe("digits", epochs=4)
    condensed = carried_out(digits_model, replace(recipe, stages=recipe.stages[:1]))
    for name in CONDENSED:
        reads = read(condensed.parameter(name), 4)
        assert (reads.sum(1) == reads.shape[1] // 4).all()
        assert len({tuple(row) for row in reads.tolist()}) > 1  # not one choice for all
    images = DIGITS.example().args[0]
    grouped = carried_out(digits_model, replace(recipe, stages=recipe.stages[:2]))
    torch.testing.assert_close(grouped(images), condensed(images), rtol=1e-4, atol=1e-4)
    before, after = (operations(model, DIGITS.example()) for model in (digits_model, grouped.base))
    assert after.macs_dense < before.macs_dense / 3.5


def test_condensing_stage_by_stage_drops_what_was_least_then(digits_model: nn.Module) -> None:
    """Inputs that went stay away, and what is dropped later is chosen among those that are left."""
    (condense, *_) = condensenet.recipe("digits", epochs=4).stages
    rule = condense.schemes[condensenet.LAYERS["digits"]]
    w = digits_model.get_parameter("conv2.weight").detach().clone()
    before = torch.ones(4, 32, dtype=torch.bool)
    for target in condense.schedule.targets(600).values():
        sums = w.abs().reshape(4, 16, 32, -1).sum((1, 3))
        w = rule.at(target).project(w).decode()
        reads = read(w, 4)
        assert (before | ~reads).all() and (reads.sum(1) == 32 - round(target * 24)).all()
        for group in range(4):
            gone = before[group] & ~reads[group]
            assert sums[group][gone].max() <= sums[group][reads[group]].min()
        before = reads


@pytest.mark.parametrize("strength", [0.0, 0.01])
def test_the_lasso_makes_groups_uneven_in_what_they_read(digits_model: nn.Module, strength: float) -> None:
    """Under it more of what a group reads is in few inputs before any is dropped."""
    recipe = condensenet.recipe("digits", strength=strength, epochs=20)
    (condense, *_) = recipe.stages
    free = replace(condense, schemes={}, schedule=replace(condense.schedule, stages=1))
    student = carried_out(digits_model, replace(recipe, stages=(free,)))
    w = student.parameter("conv3.weight").detach().abs()
    norms = w.square().reshape(4, 16, 64, -1).sum((1, 3)).sqrt().sort(1, descending=True).values
    share = float(norms[:, :16].sum() / norms.sum())
    assert share > 0.6 if strength else share < 0.5
