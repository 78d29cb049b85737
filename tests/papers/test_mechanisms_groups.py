"""Layers that end in groups: what each paper learns about them, on digits."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featherweight.activations.agents import average_macs
from featherweight.activations.memberships import Assigned, Disconnect
from featherweight.activations.runtime import RuntimeGate
from featherweight.core.compressed import Compressed
from featherweight.core.stage import Recipe
from featherweight.core.tap import Call, Operator, Place
from featherweight.costs.operations import operations
from featherweight.graph.groups import Group, GroupLayers
from featherweight.papers import condensenet, runtime_neural_pruning, splitnet
from featherweight.run import run
from featherweight.tasks import find

DIGITS = find("digits")
CONDENSED = ("conv2.weight", "conv3.weight", "fc1.weight")


def carried_out(model: nn.Module, recipe: Recipe) -> Compressed:
    return run(model, DIGITS, recipe)[0]


def read(w: Tensor, groups: int) -> Tensor:
    """Which inputs each group of filters reads, bool [groups, inputs]."""
    return w.detach().reshape(groups, len(w) // groups, w.shape[1], -1).ne(0).any(3).any(1)


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
def test_what_is_split_has_little_between_its_groups(digits_model: nn.Module) -> None:
    recipe = splitnet.recipe("digits", epochs=(15, 1))
    student = carried_out(digits_model, replace(recipe, stages=recipe.stages[:1]))
    p, q = (student.sites[Place(Call("fc1", Operator.LINEAR), operand)] for operand in (0, None))
    assert isinstance(p, Assigned) and isinstance(q, Assigned)
    assert student.sites[Place(Call("fc2", Operator.LINEAR))] is q
    w = student.parameter("fc1.weight").detach().square()
    within = float(w[q.of[:, None] == p.of].sum() / w.sum())
    drawn = p.of[torch.randperm(len(p.of), generator=torch.Generator().manual_seed(0))]
    assert within > 0.65 > 0.6 > float(w[q.of[:, None] == drawn].sum() / w.sum())
    Disconnect().repair(student, student, DIGITS)
    masked = student(DIGITS.example().args[0])
    (edit,) = GroupLayers(2, splitnet.LAYERS["digits"]).decide(student, DIGITS)
    assert isinstance(edit, Group) and edit.layers.keys() == {"fc1", "fc2"}
    student.edit(edit)
    torch.testing.assert_close(student(DIGITS.example().args[0]), masked)


@pytest.mark.long
def test_a_higher_price_computes_less(digits_model: nn.Module) -> None:
    assert DIGITS.selection is not None
    macs = []
    for price in (0.0, 1.0):
        stages = runtime_neural_pruning.recipe("digits", price=price, rounds=1, epochs=4).stages[:2]
        student = carried_out(digits_model, Recipe("agents", stages))
        assert all(isinstance(gate, RuntimeGate) for gate in student.sites.values())
        macs.append(average_macs(student, DIGITS.selection(), DIGITS.example()))
    dense = operations(digits_model, DIGITS.example()).macs_dense
    assert macs[1] < 0.75 * macs[0] and macs[0] < 1.01 * dense
